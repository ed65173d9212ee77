"""Data sets as folders of images: `train/<class>/*` and `test/<class>/*`, or Tiny-ImageNet as it is downloaded."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jdistill.base import UserError
from jdistill.data import images, raw

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
_TEST = ("test", "val", "validation")  # the first that is there
_ANNOTATIONS = Path("val") / "val_annotations.txt"


class _File(NamedTuple):
  path: Path
  label: int


def is_dataset(path: Path) -> bool:
  """Whether a directory has the two folders of a data set."""
  return (path / "train").is_dir() and any((path / test).is_dir() for test in _TEST)


def read(path: Path) -> raw.RawSet:
  """Lists the images and reads their sizes; pixels are decoded when asked for.

  The classes are the folders of `train/` in alphabetical order and images are ordered by class and file name. The test
  images are in `test/`, else in `val/` or `validation/`. Of Tiny-ImageNet, whose test images have no labels, the
  validation images are taken, with the classes of `val/val_annotations.txt`.

  PNG, JPEG, WebP, BMP, TIFF and GIF files of one frame are read, turned as their EXIF orientation says. Hidden files
  are passed over, and other ones with a warning. If every image of both splits is grey the set has one channel,
  otherwise three; transparency is dropped.

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
  passed: list[Path] = []
  if (path / _ANNOTATIONS).is_file():
    test_name = "val"
    train = _listed([(path / "train" / name / "images", label) for label, name in enumerate(classes)], passed)
    test = _annotated(path, classes)
  else:
    test_name = next(name for name in _TEST if (path / name).is_dir())
    unknown = sorted(set(_folders(path / test_name)) - set(classes))
    if unknown:
      raise UserError(
        f"dataset={str(path)!r}: {test_name}/{unknown[0]} is no class of train/ ({len(classes)} classes); rename or "
        "remove it"
      )
    train, test = (
      _listed([(path / split / name, label) for label, name in enumerate(classes)], passed)
      for split in ("train", test_name)
    )
  for split, files in (("train", train), (test_name, test)):
    if not files:
      raise UserError(
        f"dataset={str(path)!r}: {split}/ holds no images ({', '.join(SUFFIXES)}); put them into its class folders"
      )
  if passed:
    warnings.warn(f"{path}: {len(passed)} files are no images and passed over, the first {passed[0]}", stacklevel=2)
  headers = [(file, *images.header(file)) for file, _ in [*train, *test]]
  for file, size, _ in headers:
    images.require_one_size(headers[0][1], str(headers[0][0]), size, str(file))
  channels = 1 if all(mode in images.GREY for _, _, mode in headers) else 3
  return raw.RawSet(_split(train, channels), _split(test, channels), tuple(classes))


def _folders(path: Path) -> list[str]:
  return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _listed(folders: list[tuple[Path, int]], passed: list[Path]) -> list[_File]:
  """The images of class folders, by class and then by name; other files go to `passed`."""
  files = []
  for folder, label in folders:
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name) if folder.is_dir() else []
    for entry in entries:
      if entry.name.startswith(".") or entry.is_dir():
        continue
      if entry.suffix.lower() in SUFFIXES:
        files.append(_File(_regular(entry), label))
      else:
        passed.append(entry)
  return files


def _regular(path: Path) -> Path:
  """Refuses pipes and devices, which would be waited for."""
  if not path.is_file():
    raise UserError(f"{path}: is not a regular file; remove it, or repair the link")
  return path


def _annotated(path: Path, classes: list[str]) -> list[_File]:
  """Tiny-ImageNet's validation images: lines `FILE<tab>CLASS<tab>box`."""
  numbers = {name: label for label, name in enumerate(classes)}
  files = []
  try:
    lines = (path / _ANNOTATIONS).read_text(encoding="utf-8").splitlines()
  except ValueError as error:
    raise UserError(f"{path / _ANNOTATIONS}: is not text; download the set again") from error
  for line in filter(str.strip, lines):
    name, label, *_ = [*line.split("\t"), "", ""]
    if label not in numbers or Path(name).name != name:
      raise UserError(
        f"{path / _ANNOTATIONS}: the line {line[:60]!r} names no image and class of train/; download the set again"
      )
    files.append(_File(_regular(path / "val" / "images" / name), numbers[label]))
  return sorted(files, key=lambda file: (file.label, file.path.name))


def _split(files: list[_File], channels: int) -> raw.RawSplit:
  def decode_one(index: int) -> np.ndarray:
    return images.decode(files[index].path, channels, str(files[index].path))

  def pixels(indices: np.ndarray) -> np.ndarray:
    return images.stack(decode_one, indices, lambda index: str(files[index].path))

  return raw.RawSplit(np.array([file.label for file in files], np.int32), pixels, len(files))
