"""Data sets by name, file or folder, read into one checked form.

`load("digits")` needs nothing; `load("cifar10", data_dir=...)` reads TFDS's files without TensorFlow; `load("my.npz")`
and `load("my_folder")` read your own images.
"""

import difflib
import os

import numpy as np

from jdistill.base import UserError
from jdistill.data import checks, embedded, folder, npz, raw, tfds
from jdistill.data.dataset import Dataset, content_hash
from jdistill.data.subset import balanced_indices
from jdistill.files import user_path

__all__ = ["Dataset", "load", "names"]


def names() -> tuple[str, ...]:
  """The names of the sets that need neither a network nor a `data_dir`."""
  return tuple(sorted(embedded.READERS))


def load(
  name: str | os.PathLike,
  *,
  data_dir: str | os.PathLike | None = None,
  train_size: int | None = None,
  test_size: int | None = None,
  seed: int = 0,
) -> Dataset:
  """Reads a labelled image set: `name` says from where.

  In this order: an embedded set (`names()`); a path that ends in `.npz`; a directory with `train/` and `test/`; else
  the name of a TFDS image-classification set, with config and version where wanted, and with the parts of its splits
  to use: `"eurosat@train[:80%],train[80%:]"`.

  Args:
    name: what to read.
    data_dir: a folder of prepared TFDS sets. With it nothing is ever downloaded; without it TFDS downloads what its own
      default folder misses. Other sources pay no attention to it.
    train_size: draw a class-balanced random subset of this many training images; `None` for all, as they are.
    test_size: the same for the test images.
    seed: what decides which images a subset holds. The split into train and test never depends on it.

  Returns:
    The checked set. Images keep the order of their source.

  Raises:
    UserError: the set is unknown, missing or unreadable; images and labels do not fit together; a pixel is not finite
      or outside [0, 1]; a label is no class; there is one class only or a training class is empty; train and test
      images differ in shape; a size cannot be drawn.
  """
  name = os.fspath(name)
  source = _read(name, data_dir)
  train_y = checks.checked_labels(source.train.labels, source.train.count, f"{name}: train")
  test_y = checks.checked_labels(source.test.labels, source.test.count, f"{name}: test")
  class_names = source.class_names or checks.numbered_classes(train_y, f"{name}: train")
  checks.require_names(class_names, name)
  for labels, split in ((train_y, "train"), (test_y, "test")):
    checks.require_known_labels(labels, len(class_names), f"{name}: {split}")
  checks.require_all_classes(train_y, class_names, f"{name}: train")
  train_ids = _choose(train_y, train_size, len(class_names), seed, "train_size")
  test_ids = _choose(test_y, test_size, len(class_names), seed, "test_size")
  train_x = checks.checked_pixels(source.train.pixels(train_ids), f"{name}: train")
  test_x = checks.checked_pixels(source.test.pixels(test_ids), f"{name}: test")
  checks.require_same_shape(train_x.shape[1:], test_x.shape[1:], name)
  arrays = {
    "train_x": train_x,
    "train_y": train_y[train_ids],
    "train_ids": train_ids.astype(np.int32),
    "test_x": test_x,
    "test_y": test_y[test_ids],
  }
  return Dataset(name=name, **arrays, class_names=class_names, fingerprint=content_hash(arrays, class_names))


def _choose(labels: np.ndarray, size: int | None, num_classes: int, seed: int, key: str) -> np.ndarray:
  if size is None:
    return np.arange(len(labels))
  return balanced_indices(labels, size, num_classes, seed=seed, key=key)


def _read(name: str, data_dir: str | os.PathLike | None) -> raw.RawSet:
  if name in embedded.READERS:
    return embedded.READERS[name]()
  path = user_path(name, "dataset")
  if path.suffix.lower() == ".npz":
    return npz.read(path)
  if name and folder.is_dataset(path):
    return folder.read(path)
  if name and tfds.is_known(name, data_dir):
    return tfds.read(name, data_dir)
  if name and path.is_dir():
    raise UserError(f"dataset={name!r}: the directory has no train/ and test/ folders; make both, one folder per class")
  if name and path.exists():
    raise UserError(f"dataset={name!r}: a file of this kind is not read; write its images as .npz, or as a folder")
  if data_dir is not None:
    tfds.require_directory(name, data_dir)
  known = {candidate.lower(): candidate for candidate in [*tfds.known_names(), *names()]}
  near = difflib.get_close_matches(tfds.base_name(name).lower(), known, n=3)
  guess = (
    f"did you mean {', '.join(repr(known[key]) for key in near)}?" if near else f"embedded are {', '.join(names())}."
  )
  raise UserError(
    f"dataset={name!r}: unknown; {guess} Give an embedded or TFDS name, a .npz file, or a folder with train/ and test/"
  )
