"""Images with a class per pixel: drawn shapes, or one NumPy archive, read without pickles into one checked form."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jdistill.base import UserError
from jdistill.data import checks, npz, shapes
from jdistill.files import user_path

IGNORE = -1  # what a pixel without a class is called in here
_SIZES = {"train": 500, "test": 300}  # drawn shapes, where nothing is asked for


class Split(NamedTuple):
  """Some images.

  Attributes:
    images: `[n, height, width, channels]` float32 in [0, 1].
    masks: `[n, height, width]` int32, classes or `IGNORE`.
    ids: `[n]` int32 positions in the source.
  """

  images: np.ndarray
  masks: np.ndarray
  ids: np.ndarray


class MaskSet(NamedTuple):
  """A segmentation set.

  Attributes:
    train, test: its parts.
    validation: where the source has one, else `None`.
    class_names: one per class.
  """

  train: Split
  test: Split
  validation: Split | None
  class_names: tuple[str, ...]


def load(
  name: str, *, ignore: int | None = None, train_size: int | None = None, test_size: int | None = None, seed: int = 0
) -> MaskSet:
  """Reads a segmentation set.

  `"shapes"` are drawn 32x32 pictures (`jdistill.data.shapes`), 500 and 300 of them. A path that ends in `.npz` holds
  `train_images`, `train_masks`, `test_images`, `test_masks`, perhaps `val_images`, `val_masks` and `class_names`.
  Without names there are as many classes as the highest label of the training masks says.

  Args:
    name: what to read.
    ignore: the value of pixels that belong to no class; for a file it has to be said, 255 if there are none.
    train_size, test_size: how many random images of a file, or how many shapes are drawn; `None` for all.
    seed: decides both.

  Raises:
    UserError: the set is unknown, missing or unreadable; images and masks do not fit together; `ignore` is not given; a
      label is no class; a class has no pixel in the training masks; nothing has a label; a size cannot be drawn.
  """
  if name == "shapes":
    parts = {"train": shapes.draw(train_size or _SIZES["train"], seed=2 * seed)}
    parts["test"] = shapes.draw(test_size or _SIZES["test"], seed=2 * seed + 1)
    found = {key: _split(name, key, *part) for key, part in parts.items()}
    return MaskSet(found["train"], found["test"], None, shapes.CLASS_NAMES)
  if Path(name).suffix.lower() != ".npz":
    raise UserError(f"dataset={name!r}: no segmentation set; give 'shapes', or a .npz file with images and masks")
  if ignore is None:
    raise UserError(
      f"task.ignore: not given for {name}; say which mask value belongs to no class (255 if every pixel has one)"
    )
  path = user_path(name, "dataset")
  arrays = _read(path, name)
  keys = [key for key in ("train", "val", "test") if f"{key}_images" in arrays]
  splits = {key: _split(name, key, arrays[f"{key}_images"], arrays[f"{key}_masks"]) for key in keys}
  names = _class_names(name, splits["train"].masks, npz.class_names(arrays.get("class_names"), path), ignore)
  splits = {key: _with_classes(name, key, split, len(names), ignore) for key, split in splits.items()}
  for split in splits.values():
    checks.require_same_shape(splits["train"].images.shape[1:], split.images.shape[1:], name)
  chosen = _some(splits["train"], train_size, seed, "train_size"), _some(splits["test"], test_size, seed, "test_size")
  return MaskSet(*chosen, splits.get("val"), names)


def _read(path: Path, name: str) -> dict[str, np.ndarray]:
  wanted = [f"{part}_{what}" for part in ("train", "test", "val") for what in ("images", "masks")]
  arrays, found = npz.arrays_of(path, [*wanted, "class_names"])
  needed = wanted[:4] if "val_images" not in arrays and "val_masks" not in arrays else wanted
  for key in needed:
    if key not in arrays:
      raise UserError(f"dataset={name!r}: has no {key!r} (it holds {found}); add that array")
  return arrays


def _split(name: str, part: str, images: np.ndarray, masks: np.ndarray) -> Split:
  where = f"{name}: {part}"
  images = checks.checked_pixels(images[..., None] if images.ndim == 3 else images, where)
  if masks.dtype.kind not in "iu":
    raise UserError(f"{where}: masks are of dtype {masks.dtype}; save whole numbers, one class per pixel")
  if masks.shape != images.shape[:3]:
    raise UserError(f"{where}: masks of shape {masks.shape} for images of shape {images.shape}; sizes must agree")
  return Split(images, masks, np.arange(len(masks), dtype=np.int32))


def _class_names(name: str, masks: np.ndarray, given: tuple[str, ...] | None, ignore: int) -> tuple[str, ...]:
  """One name per class, from the file or counted; every class has pixels in the training masks."""
  found = np.unique(masks)
  found = found[(found != ignore) & (found >= 0)]
  if not found.size:
    raise UserError(f"{name}: train: every pixel has the value task.ignore={ignore}; nothing is left to learn")
  count = len(found) if given is None else len(given)
  missing = np.setdiff1d(np.arange(count), found)
  if missing.size:
    shown = f"{found[:20].tolist()}{f' and {len(found) - 20} more' if len(found) > 20 else ''}"
    raise UserError(
      f"{name}: train: no pixel is of class {missing[0]} (labels are {shown}, task.ignore={ignore}); number classes"
      " without gaps, or declare the value of pixels without a class"
    )
  names = tuple(str(label) for label in range(count)) if given is None else given
  checks.require_names(names, name)
  return names


def _with_classes(name: str, part: str, split: Split, num_classes: int, ignore: int) -> Split:
  """Masks of int32 with `IGNORE` at pixels without a class; values are compared before they are cast."""
  valid = split.masks != ignore
  wrong = np.unique(split.masks[valid & ((split.masks < 0) | (split.masks >= num_classes))])
  if wrong.size:
    raise UserError(
      f"{name}: {part}: labels {wrong[:5].tolist()} are none of the {num_classes} classes and not"
      f" task.ignore={ignore}; correct the masks, or declare the value of pixels without a class"
    )
  empty = int(np.sum(~valid.any(axis=(1, 2))))
  if empty:
    warnings.warn(
      f"{name}: {part}: {empty} of {len(valid)} masks have no labelled pixel; their loss is 0", stacklevel=3
    )
  return split._replace(masks=np.where(valid, np.where(valid, split.masks, 0).astype(np.int32), IGNORE))


def _some(split: Split, size: int | None, seed: int, key: str) -> Split:
  if size is None:
    return split
  if size > len(split.ids):
    raise UserError(f"{key}={size}: there are {len(split.ids)} images; ask for fewer, or leave it unset to use all")
  rows = np.sort(np.random.default_rng(seed).permutation(len(split.ids))[:size])
  return Split(*(part[rows] for part in split))
