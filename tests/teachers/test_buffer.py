"""The expert buffer on disk: whole or absent, checked, and never mistaken for another."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.files import read_json
from jdistill.teachers import ExpertBuffer

EPOCHS, SIZE = 3, 6
IDENTITY = {"dataset": "abc", "model": {"name": "mlp", "widths": (16, 8)}, "lr": 0.01, "augment": None}


def trajectory(seed):
  return np.random.default_rng(seed).normal(size=(EPOCHS + 1, SIZE)).astype(np.float32)


def opened(tmp_path, identity=IDENTITY, epochs=EPOCHS, size=SIZE):
  return ExpertBuffer(tmp_path / "buffer", identity, epochs=epochs, size=size)


def filled(tmp_path):
  buffer = opened(tmp_path)
  for index in (0, 1):
    buffer.add(index, trajectory(index), {"accuracy": 0.5 + index / 10})
  return buffer


def test_what_was_added_is_there_after_reopening(tmp_path):
  assert len(opened(tmp_path)) == 0
  for buffer in (filled(tmp_path), opened(tmp_path)):
    assert len(buffer) == 2 and 0 in buffer and 1 in buffer and 2 not in buffer
    assert buffer.epochs == EPOCHS
    assert buffer.record(1)["accuracy"] == 0.6
    for epoch in range(EPOCHS + 1):
      np.testing.assert_array_equal(buffer.snapshot(1, epoch), trajectory(1)[epoch])
    np.testing.assert_array_equal(buffer.snapshot(0, -1), trajectory(0)[-1])
    assert buffer.snapshot(0, 0).dtype == np.float32


def test_segments(tmp_path):
  buffer = filled(tmp_path)
  for start, span in ((0, 1), (1, 2), (0, 3), (3, 0)):
    for got, epoch in zip(buffer.segment(1, start, span), (start, start + span), strict=True):
      np.testing.assert_array_equal(got, trajectory(1)[epoch])
  for start, span in ((-1, 2), (2, 2), (0, 4), (2, -1)):
    with pytest.raises(ValueError, match=r"lies outside 0\.\.3"):
      buffer.segment(1, start, span)


def test_a_snapshot_is_a_copy(tmp_path):
  buffer = filled(tmp_path)
  buffer.snapshot(0, 1)[:] = 7
  np.testing.assert_array_equal(buffer.snapshot(0, 1), trajectory(0)[1])


def test_more_experts_can_be_added_later(tmp_path):
  filled(tmp_path)
  buffer = opened(tmp_path)
  buffer.add(2, trajectory(2), {})
  again = opened(tmp_path)
  assert len(again) == 3
  np.testing.assert_array_equal(again.snapshot(2, 1), trajectory(2)[1])
  np.testing.assert_array_equal(again.snapshot(0, 1), trajectory(0)[1])


def test_trajectories_of_another_shape_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"trajectory \(4, 5\) is not \[4, 6\]"):
    opened(tmp_path).add(0, np.zeros((4, 5), np.float32), {})


def _must_be_recorded_again(tmp_path, index):
  """The buffer names the file, goes on without it, and takes it anew."""
  buffer = opened(tmp_path)
  (flaw,) = buffer.flaws
  assert flaw.path == buffer.file(index) and str(flaw) == f"{flaw.path} is missing or damaged"
  assert index not in buffer and 1 - index in buffer
  buffer.add(index, trajectory(index), {"accuracy": 0.9})
  again = opened(tmp_path)
  assert again.flaws == [] and len(again) == 2
  np.testing.assert_array_equal(again.snapshot(index, 1), trajectory(index)[1])


@pytest.mark.parametrize("where", [0, 60, -1])
def test_one_changed_byte_is_found(tmp_path, where):
  filled(tmp_path)
  file = tmp_path / "buffer" / "expert_0001.npy"
  data = bytearray(file.read_bytes())
  data[where] ^= 1
  file.write_bytes(data)
  _must_be_recorded_again(tmp_path, 1)


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-4])])
def test_a_missing_or_short_file_is_found(tmp_path, damage):
  filled(tmp_path)
  damage(tmp_path / "buffer" / "expert_0000.npy")
  _must_be_recorded_again(tmp_path, 0)


@pytest.mark.parametrize(
  ("change", "key"),
  [
    ({"identity": IDENTITY | {"lr": 0.02}}, "identity"),
    ({"identity": {name: value for name, value in IDENTITY.items() if name != "augment"}}, "identity"),
    ({"epochs": EPOCHS + 1}, "epochs"),
    ({"size": SIZE + 1}, "size"),
  ],
)
def test_the_buffer_of_another_run_is_refused(tmp_path, change, key):
  filled(tmp_path)
  with pytest.raises(UserError, match=f"its {key} is not that of this run") as caught:
    opened(tmp_path, **change)
  assert "\n" not in str(caught.value)
  assert len(opened(tmp_path)) == 2


def test_a_manifest_that_is_no_manifest_leaves_an_empty_buffer(tmp_path):
  filled(tmp_path)
  manifest = tmp_path / "buffer" / "manifest.json"
  whole = manifest.read_bytes()
  for data in (whole[:-20], b"[]", b"7", b"", whole.replace(b"0.6", b"0.7")):
    manifest.write_bytes(data)
    buffer = opened(tmp_path)
    assert len(buffer) == 0 and [flaw.path for flaw in buffer.flaws] == [manifest]
  manifest.unlink()
  assert [flaw.found for flaw in opened(tmp_path).flaws] == ["is missing"]


def test_the_files_are_those_of_numpy(tmp_path):
  np.testing.assert_array_equal(np.load(filled(tmp_path).file(0)), trajectory(0))


def test_an_interrupted_write_is_ignored(tmp_path):
  """A file that is there but not listed was not finished: it does not count, and is written again."""
  filled(tmp_path)
  (tmp_path / "buffer" / "expert_0002.npy").write_bytes(b"half of a traj")
  (tmp_path / "buffer" / ".expert_0002.npy.ab12.tmp").write_bytes(b"ha")
  buffer = opened(tmp_path)
  assert 2 not in buffer and len(buffer) == 2
  buffer.add(2, trajectory(2), {"accuracy": 0.7})
  np.testing.assert_array_equal(opened(tmp_path).snapshot(2, 3), trajectory(2)[3])


def test_a_full_disk_leaves_the_buffer_as_it_was(tmp_path, monkeypatch):
  buffer = filled(tmp_path)

  def full(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr("os.fsync", full)
  with pytest.raises(UserError, match="no space left"):
    buffer.add(2, trajectory(2), {})
  monkeypatch.undo()
  again = opened(tmp_path)
  assert len(again) == 2 and 2 not in again and 2 not in buffer
  assert set(read_json(tmp_path / "buffer" / "manifest.json")["experts"]) == {"expert_0000.npy", "expert_0001.npy"}


def test_numpys_own_words_for_a_full_disk_are_one_readable_line(tmp_path, monkeypatch):
  buffer = opened(tmp_path)

  def full(*_):
    raise OSError("6050 requested and 992 written")

  monkeypatch.setattr("os.fsync", full)
  with pytest.raises(UserError, match=r"expert_0000\.npy: no space left: about 96 B needed, .* the same command"):
    buffer.add(0, trajectory(0), {})
