"""Checkpoints are whole or absent, are checked before use, and never taken from another run."""

import collections
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.training import Checkpoints

IDENTITY = {"config": "abc", "widths": (4, 2)}


def state(number):
  rng = np.random.default_rng(number)
  return {
    "roles": {"images": jnp.float32(rng.normal(size=(3, 2))), "lr": jnp.float32(0.1 * number)},
    "none": None,
    "count": jnp.int32(number),
    "half": jnp.asarray(rng.normal(size=4), jnp.bfloat16),
    "flags": jnp.asarray(rng.random(5) < 0.5),
  }


@pytest.fixture
def checkpoints(tmp_path):
  told = []
  opened = Checkpoints(tmp_path / "c", IDENTITY, log=told.append)
  opened.told = told
  yield opened
  opened.close()


def same(got, number):
  want = state(number)
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_array_equal(a, b)


def files(directory, step):
  return sorted(path for path in (directory / str(step)).rglob("*") if path.is_file())


def test_an_empty_directory_has_nothing(checkpoints):
  assert checkpoints.steps() == [] and checkpoints.restore(state(0)) is None


def test_a_state_comes_back_to_the_bit(checkpoints, tmp_path):
  checkpoints.save(4, state(4))
  step, found = checkpoints.restore(state(0))
  assert step == 4
  same(found, 4)
  again = Checkpoints(tmp_path / "c", IDENTITY)  # as after a restart
  same(again.restore(state(0))[1], 4)
  again.close()


def test_only_the_last_two_are_kept(checkpoints, tmp_path):
  for number in (1, 5, 20, 100):
    checkpoints.save(number, state(number))
  assert checkpoints.steps() == [20, 100]  # in the order of numbers, not of names
  assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["100", "100.json", "20", "20.json"]
  same(checkpoints.restore(state(0))[1], 100)


def test_a_step_can_be_saved_again(checkpoints):
  checkpoints.save(1, state(1))
  checkpoints.save(1, state(2))
  same(checkpoints.restore(state(0))[1], 2)


def test_an_unfinished_step_is_ignored_and_can_be_written_over(checkpoints, tmp_path):
  checkpoints.save(1, state(1))
  checkpoints.save(2, state(2))
  (tmp_path / "c" / "2.json").unlink()  # what a kill between the two writes leaves
  (tmp_path / "c" / "3.orbax-checkpoint-tmp").mkdir()
  assert checkpoints.steps() == [1]
  step, found = checkpoints.restore(state(0))
  assert step == 1
  same(found, 1)
  checkpoints.save(2, state(7))
  same(checkpoints.restore(state(0))[1], 7)


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_damage_to_any_file_is_found(checkpoints, tmp_path, damage):
  checkpoints.save(1, state(1))
  checkpoints.save(2, state(2))
  copy = tmp_path / "copy"
  shutil.copytree(tmp_path / "c" / "2", copy)
  for path in [path for path in files(tmp_path / "c", 2) if path.stat().st_size]:
    damage(path)
    with pytest.raises(UserError, match=r"c/2 is damaged \(.*\)$"):
      checkpoints.restore(state(0), 2)
    shutil.copy(copy / path.relative_to(tmp_path / "c" / "2"), path)
  same(checkpoints.restore(state(0))[1], 2)  # all damage was undone
  damage(files(tmp_path / "c", 2)[0])
  same(checkpoints.restore(state(0))[1], 1)
  assert checkpoints.told == [
    f"checkpoint {tmp_path / 'c' / '2'} is damaged ({files(tmp_path / 'copy', '')[0].relative_to(copy)}); "
    "the one before it is taken, or the beginning"
  ]
  assert checkpoints.steps() == [1]


@pytest.mark.parametrize("identity", [{"config": "abd", "widths": (4, 2)}, {"config": "abc"}, {}])
def test_the_checkpoint_of_another_run_is_refused(checkpoints, tmp_path, identity):
  checkpoints.save(1, state(1))
  foreign = Checkpoints(tmp_path / "c", identity)
  with pytest.raises(UserError, match="belongs to another configuration: choose another --workdir, or delete"):
    foreign.restore(state(0))
  foreign.close()
  same(checkpoints.restore(state(0))[1], 1)


def test_a_claim_that_is_no_claim_counts_for_nothing(checkpoints, tmp_path):
  for data in ("", "[]", "7", json.dumps({"files": {}})):
    checkpoints.save(1, state(1))
    (tmp_path / "c" / "1.json").write_text(data)
    assert checkpoints.newest() is None and checkpoints.restore(state(0)) is None


@pytest.mark.parametrize(
  ("words", "shown"),
  [
    ("RESOURCE_EXHAUSTED: Failed writing: No space left on device", "no space left: about 45 B needed"),
    ("OUT_OF_RANGE: Failed to write: File too large", "file size limit reached"),
  ],
)
def test_a_disk_that_fills_up_inside_the_array_store_is_one_line(checkpoints, tmp_path, monkeypatch, words, shown):
  checkpoints.save(1, state(1))

  def full(target, tree):
    (tmp_path / "c" / "2.orbax-checkpoint-tmp").mkdir()
    raise ValueError(words)

  monkeypatch.setattr(checkpoints._handler, "save", full)
  with pytest.raises(UserError) as caught:
    checkpoints.save(2, state(2))
  assert str(caught.value).startswith(f"{tmp_path / 'c' / '2'}: {shown}") and "\n" not in str(caught.value)
  assert "run the same command again" in str(caught.value)
  assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["1", "1.json"]
  same(checkpoints.restore(state(0))[1], 1)


@pytest.mark.parametrize(
  "like",
  [
    lambda s: s | {"other": jnp.zeros(2)},
    lambda s: {name: value for name, value in s.items() if name != "half"},
    lambda s: s | {"flags": jnp.zeros((6,), bool)},
    lambda s: s | {"count": jnp.zeros((), jnp.float32)},
  ],
)
def test_a_state_of_another_form_is_refused(checkpoints, like):
  checkpoints.save(1, state(1))
  with pytest.raises(UserError, match="does not fit this method's state: delete"):
    checkpoints.restore(like(state(0)))


def test_a_full_disk_is_told_in_one_line_and_loses_nothing(checkpoints, tmp_path, monkeypatch):
  checkpoints.save(1, state(1))
  usage = collections.namedtuple("usage", "total used free")
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 100, 3))
  with pytest.raises(UserError, match=r"no space left: about \d+ B needed, 3 B free") as caught:
    checkpoints.save(2, state(2))
  assert "\n" not in str(caught.value) and isinstance(caught.value.__cause__, OSError)
  monkeypatch.undo()
  assert checkpoints.steps() == [1]
  same(checkpoints.restore(state(0))[1], 1)
  checkpoints.save(2, state(2))  # once there is room
  same(checkpoints.restore(state(0))[1], 2)
