"""Files: whole or absent, deterministic, and every kind of damage is one readable line."""

import errno
import hashlib
import io
import json
import os
import zipfile
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import files
from jdistill.base import UserError


def _fail(code):
  def replace(*_):
    raise OSError(code, os.strerror(code))

  return replace


def test_write_text_makes_directories_and_replaces(tmp_path):
  path = tmp_path / "a" / "b.txt"
  files.write_text(path, "one\n")
  files.write_text(path, "zwei ü\n")
  assert path.read_bytes() == b"zwei \xc3\xbc\n"
  assert os.listdir(path.parent) == ["b.txt"]


def test_files_are_readable_by_others(tmp_path):
  old = os.umask(0o022)
  try:
    files.write_text(tmp_path / "x", "")
  finally:
    os.umask(old)
  assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_full_disk_keeps_the_earlier_file_and_says_so_in_one_line(tmp_path, monkeypatch, failing):
  path = tmp_path / "state.json"
  files.write_text(path, "old")
  monkeypatch.setattr(os, failing, _fail(errno.ENOSPC))
  with pytest.raises(
    UserError, match=r"state\.json: no space left: about 2\.0 kB needed, .* free; nothing was lost"
  ) as e:
    files.write_bytes(path, bytes(2000))
  monkeypatch.undo()
  assert "\n" not in str(e.value)
  assert path.read_text() == "old"
  assert os.listdir(tmp_path) == ["state.json"]


def test_a_forbidden_directory_is_a_user_error(tmp_path, monkeypatch):
  monkeypatch.setattr(os, "replace", _fail(errno.EACCES))
  with pytest.raises(UserError, match="choose a writable directory"):
    files.write_text(tmp_path / "x", "")


def test_other_failures_pass_through_and_leave_nothing_behind(tmp_path, monkeypatch):
  monkeypatch.setattr(os, "replace", _fail(errno.EIO))
  with pytest.raises(OSError) as caught:
    files.write_text(tmp_path / "x", "")
  assert not isinstance(caught.value, UserError)
  monkeypatch.undo()

  def interrupted(file):
    file.write(b"half")
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    files.atomic_write(tmp_path / "x", interrupted)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
  ("count", "text"),
  [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (5e9, "5.0 GB"), (2e12, "2.0 TB")],
)
def test_format_bytes(count, text):
  assert files.format_bytes(count) == text


class _Pair(NamedTuple):
  left: int
  right: float


def test_json_golden(tmp_path):
  value = {
    "pair": _Pair(1, float("nan")),
    "array": np.array([[1, 2]], np.int8),
    "scalar": np.float32(0.5),
    "jax": jnp.ones((1,), jnp.bfloat16),
    "inf": [float("inf"), -np.inf],
    "flags": (True, None),
    3: "ü",
  }
  files.write_json(tmp_path / "x.json", value)
  text = (tmp_path / "x.json").read_text()
  assert text.startswith('{\n  "pair": {\n    "left": 1,\n    "right": "nan"\n  },\n')
  assert text.endswith('  "3": "ü"\n}\n')
  assert files.read_json(tmp_path / "x.json") == {
    "pair": {"left": 1, "right": "nan"},
    "array": [[1, 2]],
    "scalar": 0.5,
    "jax": [1.0],
    "inf": ["inf", "-inf"],
    "flags": [True, None],
    "3": "ü",
  }


def test_json_refuses_what_it_cannot_hold(tmp_path):
  with pytest.raises(UserError, match="of type object cannot be stored as JSON"):
    files.write_json(tmp_path / "x", {"a": object()})
  with pytest.raises(UserError, match="cannot be stored as JSON"):
    files.write_json(tmp_path / "x", np.array([object()]))


def test_read_json_names_damage(tmp_path):
  (tmp_path / "x.json").write_text('{"a": 1')
  with pytest.raises(UserError, match=r"x\.json is damaged .*: delete it and run again"):
    files.read_json(tmp_path / "x.json")
  with pytest.raises(UserError, match=r"y\.json does not exist"):
    files.read_json(tmp_path / "y.json")


def _arrays():
  rng = np.random.default_rng(0)
  return {
    "weights/kernel": rng.normal(size=(3, 4)).astype(np.float32),
    "fortran": np.asfortranarray(rng.integers(0, 9, (4, 3))),
    "empty": np.zeros((0, 2), np.float32),
    "flag": np.array(True),
    "text": np.array("ü {}"),
  }


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_round_trip_with_the_same_bytes(tmp_path, compressed):
  arrays = _arrays()
  files.write_npz(tmp_path / "a.npz", arrays, compressed=compressed)
  files.write_npz(tmp_path / "b.npz", dict(reversed(arrays.items())), compressed=compressed)
  assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
  with zipfile.ZipFile(tmp_path / "a.npz") as archive:
    assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert archive.namelist() == sorted(f"{name}.npy" for name in arrays)
  loaded = files.read_npz(tmp_path / "a.npz")
  assert set(loaded) == set(arrays)
  for name, array in arrays.items():
    assert loaded[name].dtype == array.dtype and loaded[name].shape == array.shape
    np.testing.assert_array_equal(loaded[name], array)


@pytest.mark.parametrize("array", [np.array([None]), jnp.ones((1,), jnp.bfloat16)])
def test_npz_refuses_what_comes_back_wrong(tmp_path, array):
  with pytest.raises(UserError, match="array 'x' has dtype"):
    files.write_npz(tmp_path / "a.npz", {"x": array})
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("compressed", [False, True])
def test_every_flipped_byte_is_harmless_or_named(tmp_path, compressed):
  """Zip files have bytes nobody reads (dates, attributes); all others must lead to the one message."""
  arrays = {"x": np.arange(6, dtype=np.float32), "y": np.array("text")}
  path = tmp_path / "a.npz"
  files.write_npz(path, arrays, compressed=compressed)
  good = path.read_bytes()
  named = 0
  for index in range(len(good)):
    path.write_bytes(good[:index] + bytes([good[index] ^ 0xFF]) + good[index + 1 :])
    try:
      loaded = files.read_npz(path)
    except UserError as error:
      assert str(error) == f"{path} is damaged: delete it and run again"
      named += 1
    else:
      for name in set(loaded) & set(arrays):
        np.testing.assert_array_equal(loaded[name], arrays[name])
  assert named > len(good) // 2


@pytest.mark.parametrize("keep", [0, 1, 30, 200])
def test_a_truncated_npz_is_named(tmp_path, keep):
  path = tmp_path / "a.npz"
  files.write_npz(path, _arrays())
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(UserError, match="is damaged: delete it and run again"):
    files.read_npz(path)


def test_npz_never_unpickles(tmp_path):
  with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("x.npy", "w") as stream:
    np.lib.format.write_array(stream, np.array([{"a": 1}]), allow_pickle=True)
  with pytest.raises(UserError, match="is damaged"):
    files.read_npz(tmp_path / "a.npz")
  with pytest.raises(UserError, match="does not exist"):
    files.read_npz(tmp_path / "b.npz")


def test_sha256_of_a_file(tmp_path):
  (tmp_path / "x").write_bytes(b"abc")  # the test vector of FIPS 180-2
  assert files.sha256_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_sha256_of_arrays_is_canonical():
  x = np.arange(6, dtype=np.float32).reshape(2, 3)
  header = b'["x", "float32", [2, 3]]'
  by_hand = hashlib.sha256(len(header).to_bytes(8, "little") + header + x.astype("<f4").tobytes()).hexdigest()
  assert files.sha256_arrays({"x": x}) == by_hand
  for same in (np.asfortranarray(x), x.astype(">f4"), jnp.asarray(x), x.repeat(2, axis=1)[:, ::2]):
    assert files.sha256_arrays({"x": same}) == by_hand
  different = [
    {"y": x},
    {"x": x.reshape(3, 2)},
    {"x": x.view(np.int32)},
    {"x": x + np.float32(1e-6)},
    {"x": x, "z": np.zeros((0,), np.float32)},
    {"x": np.float32(0)},
    {"x": jnp.ones((2,), jnp.bfloat16)},
    {"x": jnp.ones((2,), jnp.float16)},
    {"x": np.array(["a"])},
  ]
  assert len({by_hand, *map(files.sha256_arrays, different)}) == len(different) + 1
  a, b = np.zeros((2,)), np.ones((1,), np.int8)
  assert files.sha256_arrays({"a": a, "b": b}) == files.sha256_arrays({"b": b, "a": a})
  with pytest.raises(UserError, match="Python objects"):
    files.sha256_arrays({"x": np.array([None])})


def test_checksums(tmp_path):
  (tmp_path / "a").write_bytes(b"abc")
  (tmp_path / "b").write_bytes(b"")
  with pytest.raises(UserError, match=r"has no checksums\.json"):
    files.verify_checksums(tmp_path)
  written = files.write_checksums(tmp_path, ["b", "a"])
  assert written == json.loads((tmp_path / "checksums.json").read_text()) == files.verify_checksums(tmp_path)
  assert written["a"].startswith("ba7816bf")
  (tmp_path / "b").write_bytes(b"x")
  assert files.verify_checksums(tmp_path, ["a"]) == {"a": written["a"]}
  with pytest.raises(UserError, match=r"b is damaged or was edited"):
    files.verify_checksums(tmp_path)
  (tmp_path / "b").unlink()
  with pytest.raises(UserError, match=r"b is missing"):
    files.verify_checksums(tmp_path)
  with pytest.raises(UserError, match=r"does not list c"):
    files.verify_checksums(tmp_path, ["c"])
  for bad in ('{"../a": "0"}', "[]", "{"):
    (tmp_path / "checksums.json").write_text(bad)
    with pytest.raises(UserError, match=r"checksums\.json is damaged"):
      files.verify_checksums(tmp_path)


def test_npz_streams_what_numpy_itself_reads(tmp_path):
  files.write_npz(tmp_path / "a.npz", {"x": np.arange(3)})
  with np.load(io.BytesIO((tmp_path / "a.npz").read_bytes())) as archive:
    np.testing.assert_array_equal(archive["x"], [0, 1, 2])


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path):
  kept = [tmp_path / name for name in ("a.npz", ".hidden", ".a.npz.tmp", "a.0011aabb.tmp", "sub/.b.json.0011aab.tmp")]
  gone = [tmp_path / name for name in (".a.npz.0011aabb.tmp", "sub/.b.json.deadbeef.tmp")]
  for path in (*kept, *gone):
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
  files.remove_leftovers(tmp_path)
  assert all(path.exists() for path in kept) and not any(path.exists() for path in gone)
