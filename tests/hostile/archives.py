"""Data sets as `.npz` files that hold something else than they should, of images and of label maps."""

import functools
import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import jdistill
from tests.hostile.case import Action, Case, tiny

Arrays = dict[str, Any]

_OPEN = ("train_size=None", "test_size=None", "teacher_train.batch_size=10", "validation_size=0")


def images(channels: int = 1, count: int = 40, size: int = 6) -> Arrays:
  """Two classes, dark and bright, with noise."""
  rng = np.random.default_rng(0)
  arrays = {}
  for part, number in (("train", count), ("test", count // 2)):
    labels = np.arange(number) % 2
    noise = rng.random((number, size, size, channels), np.float32)
    arrays[f"{part}_images"] = 0.5 * noise + 0.5 * labels[:, None, None, None].astype(np.float32)
    arrays[f"{part}_labels"] = labels
  return arrays


def _with(key: str, at: Any, value: Any) -> Callable[[], Arrays]:
  def make() -> Arrays:
    arrays = images()
    arrays[key] = arrays[key].copy()
    arrays[key][at] = value
    return arrays

  return make


def _but(**changes: Any) -> Callable[[], Arrays]:
  return lambda: {key: value for key, value in (images() | changes).items() if value is not None}


_TRAIN, _TEST = images()["train_images"], images()["test_images"]
_WRONG: dict[str, tuple[Callable[[], Arrays], tuple]] = {
  "NaN": (_with("train_images", (7, 3, 3, 0), np.nan), ("train", "NaN")),
  "NaN in the test": (_with("test_images", (7, 3, 3, 0), np.nan), ("test", "NaN")),
  "inf": (_with("train_images", (7, 3, 3, 0), np.inf), ("train", ("inf", "NaN", "finite"))),
  "above 1": (_but(train_images=300 * _TRAIN), ("train",)),
  "below 0": (_but(train_images=_TRAIN - 1), ("train",)),
  "complex": (_but(train_images=_TRAIN.astype(np.complex64)), ("train", "complex64")),
  "booleans": (_but(train_images=_TRAIN > 0.5), ("train", "bool")),
  "words for pixels": (_but(train_images=_TRAIN.astype(str)), ("train",)),
  "wide numbers": (_but(train_images=(_TRAIN * 60000).astype(np.uint16)), ("train", "uint16")),
  "signed": (_but(train_images=(_TRAIN * 200).astype(np.int64) - 100), ("train",)),
  "objects": (_but(train_images=np.array([None, 1], object)), ("set.npz",)),
  "dates": (_but(train_images=np.zeros((40, 6, 6, 1), "M8[s]")), ("train",)),
  "five axes": (_but(train_images=_TRAIN[..., None]), ("train", "(40, 6, 6, 1, 1)")),
  "one axis": (_but(train_images=np.zeros(40, np.float32)), ("train", "(40,)")),
  "a number": (_but(train_images=np.float32(0.5)), ("train", "0 images")),
  "no images": (_but(train_images=_TRAIN[:0], train_labels=np.arange(0)), ("train",)),
  "no test": (_but(test_images=_TEST[:0], test_labels=np.arange(0)), ("test",)),
  "no pixels": (_but(train_images=_TRAIN[:, :0], test_images=_TEST[:, :0]), (("train", "(40, 0, 6, 1)"),)),
  "no channels": (_but(train_images=_TRAIN[..., :0], test_images=_TEST[..., :0]), (("train", "(40, 6, 6, 0)"),)),
  "constant": (_but(train_images=np.zeros_like(_TRAIN)), ("preprocessing",)),
  "other size": (_but(test_images=_TEST[:, :5]), ("test", "(5, 6, 1)")),
  "other channels": (_but(test_images=np.repeat(_TEST, 3, axis=3)), ("test", "(6, 6, 3)")),
  "fewer labels": (_but(train_labels=np.arange(39) % 2), ("train", "39")),
  "gap": (_but(train_labels=np.arange(40) % 2 * 2), ("train", "class 1")),
  "large label": (_with("train_labels", 3, 2**31 - 1), ("train", "2147483647")),
  "larger label": (_with("train_labels", 3, 2**40), ("train", str(2**40))),
  "negative label": (_with("train_labels", 3, -1), ("train", "-1")),
  "unknown label": (_with("test_labels", 3, 2), ("test", "2")),
  "one class": (_but(train_labels=np.zeros(40, int), test_labels=np.zeros(20, int)), ("one class",)),
  "text labels": (_but(train_labels=np.array(["cat", "dog"] * 20)), ("train", "label")),
  "fractions for labels": (_but(train_labels=np.arange(40) % 2 + 0.5), ("train", "label")),
  "NaN for labels": (_but(train_labels=np.full(40, np.nan)), ("train", "label")),
  "booleans for labels": (_but(train_labels=np.arange(40) % 2 > 0), ("train", "label")),
  "one-hot labels": (_but(train_labels=np.eye(2)[np.arange(40) % 2]), ("train", "label")),
  "few of a class": (_but(train_labels=(np.arange(40) < 2).astype(int)), ("ipc=3", "class 1")),
  "no train labels": (_but(train_labels=None), ("train_labels",)),
  "no train images": (_but(train_images=None), ("train_images",)),
  "no test labels": (_but(test_labels=None), ("test_labels",)),
  "nothing": (dict, ("train_images",)),
  "too few names": (_but(class_names=np.array(["a"])), (("class_names", "class"),)),
  "names twice": (_but(class_names=np.array(["a", "a"])), ("class_names",)),
  "numbers for names": (_but(class_names=np.arange(2)), ("class_names",)),
  "name with a line break": (_but(class_names=np.array(["a\nb", "c"])), ("class_names",)),
  "too many names": (_but(class_names=np.array(list("abcd"))), (("class_names", "class"),)),
}


def _archive(make: Callable[[], Arrays]) -> bytes:
  file = io.BytesIO()
  np.savez(file, **make())
  return file.getvalue()


def claiming(shape: tuple[int, ...]) -> bytes:
  """An archive whose `train_images` has a header with another shape."""
  with zipfile.ZipFile(io.BytesIO(_archive(images))) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  header = str({"descr": "<f4", "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
  body = members["train_images.npy"][128:]
  members["train_images.npy"] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    for name, data in members.items():
      archive.writestr(name, data)
  return file.getvalue()


def _bytes() -> dict[str, bytes]:
  """Files that are no archives, or not whole."""
  whole = _archive(images)
  flipped = bytearray(whole)
  flipped[len(whole) // 3] ^= 0x10
  return {
    "empty file": b"",
    "text": b"PK not an archive",
    "half": whole[: len(whole) // 2],
    "all but the last byte": whole[:-1],
    "flipped": bytes(flipped),
    "claims 1e12 rows": claiming((10**12, 6, 6, 1)),
    "claims a negative shape": claiming((-1, 6, 6, 1)),
    "claims 1e400 rows": claiming((10**400, 6, 6, 1)),
    "one array": whole[30:],
    "zip of text": _zip({"a.txt": b"x"}),
    "zip with a way out": _zip({"../../x.npy": b"x"}),
    "zip without arrays": _zip({"train_images.npy": b"x", "train_labels.npy": b"x"}),
  }


def _zip(members: dict[str, bytes]) -> bytes:
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    for name, data in members.items():
      archive.writestr(name, data)
  return file.getvalue()


def cases() -> Iterator[Case]:
  """Of a set that is distilled and of one that students learn; then sets that must work."""
  for name, (make, words) in _WRONG.items():
    for experiment in ("datm", "kd"):
      if experiment == "kd" and name == "few of a class":
        continue
      start = functools.partial(_start, experiment, lambda make=make: _archive(make))
      yield Case(f"archive/{experiment}/{name}", "archive", start, words)
  for name, content in _bytes().items():
    for experiment in ("datm", "kd", "lad"):
      start = functools.partial(_start, experiment, lambda content=content: content)
      yield Case(f"archive/{experiment}/{name}", "archive", start, ("set.npz",))
  for channels in (1, 3, 4, 9):
    start = functools.partial(_start, "datm", lambda channels=channels: _archive(lambda: images(channels)))
    differences = functools.partial(_unlike, channels)
    yield Case(f"archive/datm/{channels} channels work", "archive", start, (), "works", differences)
    start = functools.partial(_start, "kd", lambda channels=channels: _archive(lambda: images(channels)))
    yield Case(f"archive/kd/{channels} channels work", "archive", start, (), "works")


def overrides(experiment: str) -> list[str]:
  """What makes the preset `tiny` fit a small file."""
  known = {"datm": [*_OPEN, "ipc=3"], "kd": ["train_size=None", "test_size=None", "validation_size=8"]}
  return {
    **known,
    "lad": ["train_size=None", "test_size=None", "validation_size=2", "task.ignore=9"],
  }[experiment] + (["task.student_size=None", "task.teacher_size=None"] if experiment == "kd" else [])


def _start(experiment: str, content: Callable[[], bytes], place: Path) -> Action:
  (place / "set.npz").write_bytes(content())
  return tiny(experiment, place, f"dataset={place / 'set.npz'}", *overrides(experiment))


def _unlike(channels: int, place: Path) -> list[str]:
  """The exported set has these channels, and a picture where channels can be shown."""
  found, picture = jdistill.load(place / "work").images.shape, place / "work" / "result" / "images.png"
  wrong = [] if found == (6, 6, 6, channels) else [f"images are {found}"]
  return wrong + ([] if picture.exists() == (channels in (1, 3)) else [f"picture of {channels} channels"])
