"""Data sets as folders: `train/<class>/*.png` and `test/<class>/*.png` (or JPEG)."""

from pathlib import Path

import numpy as np

from jdistill.base import UserError
from jdistill.data import images, raw

SUFFIXES = (".png", ".jpg", ".jpeg")


def is_dataset(path: Path) -> bool:
  """Whether a directory has the two folders of a data set."""
  return (path / "train").is_dir() and (path / "test").is_dir()


def read(path: Path) -> raw.RawSet:
  """Lists the images and reads their sizes; pixels are decoded when asked for.

  The classes are the folders of `train/` in alphabetical order and images are ordered by class and file name. Hidden
  files and files that are not PNG or JPEG are passed over. If every image of both splits is grey the set has one
  channel, otherwise three; transparency is dropped.

  Args:
    path: a directory with `train/` and `test/`.

  Returns:
    The set, not yet checked further.

  Raises:
    UserError: no class folders or images, a test class that is not a training class, images of different sizes, a file
      that is not a readable 8-bit image.
  """
  classes = _folders(path / "train")
  if not classes:
    raise UserError(f"dataset={str(path)!r}: train/ holds no class folders; make one folder of images per class")
  unknown = sorted(set(_folders(path / "test")) - set(classes))
  if unknown:
    raise UserError(
      f"dataset={str(path)!r}: test/{unknown[0]} is no class of train/ ({len(classes)} classes); rename or remove it"
    )
  train, test = (_files(path / split, classes) for split in ("train", "test"))
  for split, files in (("train", train), ("test", test)):
    if not files:
      raise UserError(f"dataset={str(path)!r}: {split}/ holds no PNG or JPEG files; put images into its class folders")
  headers = [(file, *images.header(file)) for file, _ in [*train, *test]]
  for file, size, _ in headers:
    images.require_one_size(headers[0][1], str(headers[0][0]), size, str(file))
  channels = 1 if all(mode in images.GREY for _, _, mode in headers) else 3
  return raw.RawSet(_split(train, channels), _split(test, channels), tuple(classes))


def _folders(path: Path) -> list[str]:
  return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(path: Path, classes: list[str]) -> list[tuple[Path, int]]:
  """All images of a split with their labels, by class and then by name."""
  files = []
  for label, name in enumerate(classes):
    folder = path / name
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name) if folder.is_dir() else []
    files += [
      (entry, label) for entry in entries if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".")
    ]
  return files


def _split(files: list[tuple[Path, int]], channels: int) -> raw.RawSplit:
  def decode_one(index: int) -> np.ndarray:
    return images.decode(files[index][0], channels, str(files[index][0]))

  def pixels(indices: np.ndarray) -> np.ndarray:
    return images.stack(decode_one, indices, lambda index: str(files[index][0]))

  return raw.RawSplit(np.array([label for _, label in files], np.int32), pixels, len(files))
