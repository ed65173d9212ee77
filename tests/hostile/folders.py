"""Data sets as folders: pipes, pictures of several sizes, damaged ones, of several frames; and prepared TFDS sets."""

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.hostile.archives import overrides
from tests.hostile.case import Action, Case, tiny


def make(root: Path) -> None:
  """A folder of two classes of grey noise, 8x8."""
  rng = np.random.default_rng(0)
  for split, count in (("train", 20), ("test", 6)):
    for label in ("cat", "dog"):
      (root / split / label).mkdir(parents=True)
      for index in range(count):
        pixels = rng.integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(root / split / label / f"{index:03d}.png")


_FIRST = "train/cat/000.png"


def _pipe(root: Path) -> None:
  (root / _FIRST).unlink()
  os.mkfifo(root / _FIRST)


def _frames(root: Path, name: str) -> None:
  pages = [Image.new("L", (8, 8), value) for value in (0, 90, 200)]
  (root / _FIRST).unlink()
  pages[0].save(root / "train" / "cat" / name, save_all=True, append_images=pages[1:])


def _bytes(content: Callable[[bytes], bytes]) -> Callable[[Path], None]:
  def spoil(root: Path) -> None:
    (root / _FIRST).write_bytes(content((root / _FIRST).read_bytes()))

  return spoil


def _flipped(data: bytes) -> bytes:
  return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 0x10]) + data[len(data) // 2 + 1 :]


def _picture(mode: str, size: tuple[int, int], name: str = _FIRST) -> Callable[[Path], None]:
  return lambda root: Image.new(mode, size).save(root / name)


def _emptied(split: str) -> Callable[[Path], None]:
  def spoil(root: Path) -> None:
    for path in (root / split).rglob("*.png"):
      path.unlink()

  return spoil


def _bomb(root: Path) -> None:
  """A picture that claims to be 60000 pixels high and wide."""
  data = bytearray((root / _FIRST).read_bytes())
  data[16:24] = (60000).to_bytes(4, "big") * 2
  (root / _FIRST).write_bytes(bytes(data))


_WRONG: dict[str, tuple[Callable[[Path], object], tuple]] = {
  "pipe": (_pipe, ("000.png",)),
  "link to nowhere": (lambda root: ((root / _FIRST).unlink(), (root / _FIRST).symlink_to("nowhere")), ("000.png",)),
  "link to itself": (lambda root: ((root / _FIRST).unlink(), (root / _FIRST).symlink_to("000.png")), ("000.png",)),
  "link to the dark": (lambda root: ((root / _FIRST).unlink(), (root / _FIRST).symlink_to("/dev/zero")), ("000.png",)),
  "other size": (_picture("L", (9, 8)), ("9x8", "000.png")),
  "other size in the test": (_picture("L", (8, 9), "test/dog/003.png"), ("8x9", "003.png")),
  "no pixels": (_bytes(lambda data: b""), ("000.png",)),
  "half a picture": (_bytes(lambda data: data[: len(data) // 2]), ("000.png",)),
  "flipped picture": (_bytes(_flipped), ("000.png",)),
  "text": (_bytes(lambda data: b"hello"), ("000.png",)),
  "bomb": (_bomb, ("000.png",)),
  "frames of a gif": (lambda root: _frames(root, "000.gif"), ("000.gif",)),
  "frames of a tiff": (lambda root: _frames(root, "000.tiff"), ("000.tiff",)),
  "frames of a webp": (lambda root: _frames(root, "000.webp"), ("000.webp",)),
  "16 bits": (_picture("I;16", (8, 8)), ("000.png",)),
  "fractions": (lambda root: _picture("F", (8, 8), "train/cat/000.tiff")(root), ("000.tiff",)),
  "empty train": (_emptied("train"), ("train",)),
  "empty test": (_emptied("test"), ("test",)),
  "empty class": (_emptied("train/cat"), (("cat", "class 0"),)),
  "no test folder": (lambda root: shutil.rmtree(root / "test"), ("test",)),
  "no classes": (lambda root: [shutil.rmtree(root / "train" / name) for name in ("cat", "dog")], ("train",)),
  "one class": (lambda root: [shutil.rmtree(root / split / "dog") for split in ("train", "test")], ("class",)),
  "class of the test alone": (lambda root: (root / "test" / "dog").rename(root / "test" / "cow"), ("cow",)),
  "train is a file": (lambda root: (shutil.rmtree(root / "train"), (root / "train").write_text("x")), ("train",)),
  "class with a line break": (
    lambda root: [(root / split / "dog").rename(root / split / "a\nb") for split in ("train", "test")],
    ("class",),
  ),
}


def cases() -> Iterator[Case]:
  """Folders, then TFDS sets that are not where they should be."""
  for name, (spoil, words) in _WRONG.items():
    for experiment in ("datm", "kd"):
      yield Case(f"folder/{experiment}/{name}", "folder", functools.partial(_start, experiment, spoil), words)
  yield Case(
    "folder/datm/a good one works", "folder", functools.partial(_start, "datm", lambda root: None), (), "works"
  )
  for name, (dataset, files, words) in _TFDS.items():
    yield Case(f"tfds/{name}", "tfds", functools.partial(_start_tfds, dataset, files), words)


def _start(experiment: str, spoil: Callable[[Path], object], place: Path) -> Action:
  make(place / "set")
  spoil(place / "set")
  return tiny(experiment, place, f"dataset={place / 'set'}", *overrides(experiment))


_INFO = '{"name": "cifar10", "version": "3.0.2", "fileFormat": "array_record", "splits": []}'
# name -> (data set, files below data_dir, what the message must contain)
_TFDS: dict[str, tuple[str, dict[str, str], tuple]] = {
  "empty directory": ("cifar10", {"notes.txt": "x"}, ("cifar10", "data_dir")),
  "one level too deep": ("cifar10", {"dataset_info.json": _INFO}, ("cifar10", "data_dir")),
  "two levels too deep": ("cifar10", {"3.0.2/dataset_info.json": _INFO}, ("cifar10", "data_dir")),
  "one level too high": ("cifar10", {"tfds/cifar10/3.0.2/dataset_info.json": _INFO}, ("cifar10", "data_dir")),
  "info is no JSON": ("cifar10", {"cifar10/3.0.2/dataset_info.json": "{"}, ("cifar10",)),
  "info is a list": ("cifar10", {"cifar10/3.0.2/dataset_info.json": "[1]"}, ("cifar10",)),
  "info without files": ("cifar10", {"cifar10/3.0.2/dataset_info.json": _INFO}, ("cifar10",)),
  "no info": ("cifar10", {"cifar10/3.0.2/cifar10-train.array_record-00000-of-00001": "x"}, ("cifar10",)),
  "unknown version": ("cifar10:9.9.9", {"notes.txt": "x"}, ("cifar10",)),
  "version of words": ("cifar10:abc", {"notes.txt": "x"}, ("cifar10",)),
  "unknown configuration": ("cifar10/nope", {"notes.txt": "x"}, ("cifar10",)),
  "unknown name": ("cifra10", {"notes.txt": "x"}, ("cifra10", "cifar10")),
  "not of images": ("imdb_reviews", {"notes.txt": "x"}, ("imdb_reviews",)),
  "line break": ("cifar\n10", {"notes.txt": "x"}, ("cifar",)),
}


def _start_tfds(dataset: str, files: dict[str, str], place: Path) -> Action:
  for name, text in files.items():
    (place / "data" / name).parent.mkdir(parents=True, exist_ok=True)
    (place / "data" / name).write_text(text)
  return tiny("datm", place, f"dataset={dataset}", f"data_dir={place / 'data'}")
