"""What a data set must satisfy before anything is trained on it; every failure is one line saying what to do."""

from collections.abc import Sequence

import numpy as np

from jdistill.base import UserError


def checked_labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
  """Labels as `[n]` int32.

  Args:
    labels: `[n]` or `[n, 1]` non-negative whole numbers.
    count: how many images they belong to.
    where: the split, as messages name it (`"digits: train"`).

  Returns:
    `[n]` int32.

  Raises:
    UserError: wrong shape, another number of labels than images, no images at all, labels that are negative, not
      whole, or not numbers.
  """
  try:
    labels = np.asarray(labels)
  except ValueError as error:
    raise UserError(f"{where}: labels are lists of several lengths; give one class index per image") from error
  if labels.ndim == 2 and labels.shape[1] == 1:
    labels = labels[:, 0]
  if labels.ndim != 1:
    raise UserError(f"{where}: labels have shape {labels.shape}; give one class index per image, shape [n]")
  if len(labels) != count:
    raise UserError(f"{where}: {count} images but {len(labels)} labels; give exactly one label per image")
  if count == 0:
    raise UserError(f"{where}: holds no images; give at least one image per class")
  if labels.dtype.kind not in "iuf":
    raise UserError(f"{where}: labels are of dtype {labels.dtype}; give integer class indices 0..classes-1")
  whole = np.isfinite(labels) & (labels == np.floor(labels)) if labels.dtype.kind == "f" else np.ones(count, bool)
  if not whole.all():
    i = int(np.argmin(whole))
    raise UserError(f"{where}: label {labels[i]} of image {i} is not a whole number; give class indices 0..classes-1")
  if labels.min() < 0:
    i = int(np.argmin(labels))
    raise UserError(f"{where}: label {labels[i]} of image {i} is negative; drop unlabelled images, classes start at 0")
  if labels.max() > np.iinfo(np.int32).max:
    raise UserError(f"{where}: label {labels.max()} does not fit int32; give class indices 0..classes-1")
  return labels.astype(np.int32)


def numbered_classes(labels: np.ndarray, where: str) -> tuple[str, ...]:
  """Names `"0"`, `"1"`, ... of the classes of a set that has no names; `labels` are not negative.

  Raises:
    UserError: a number up to the highest label that no image has; so a label of 3e8 does not stand for as many classes.
  """
  found = np.unique(labels).astype(np.int64)
  if found[-1] + 1 != len(found):
    gap = int(np.argmax(found != np.arange(len(found), dtype=found.dtype)))
    raise UserError(
      f"{where}: no image is of class {gap}, though labels go up to {found[-1]} ({len(found)} distinct labels); number "
      "the classes from 0 without gaps, or add images"
    )
  return tuple(str(label) for label in range(len(found)))


def require_names(class_names: Sequence[str], where: str) -> None:
  """Refuses a set of one class, of which nothing can be learned, and names that are no words.

  Raises:
    UserError: naming the first of them.
  """
  for index, name in enumerate(class_names):
    if not name.strip() or not name.isprintable():
      raise UserError(f"{where}: class_names: class {index} is called {name!r}; give names without line breaks")
  if len(class_names) < 2:
    raise UserError(f"{where}: one class only ({', '.join(map(repr, class_names))}); give examples of two or more")


def require_known_labels(labels: np.ndarray, num_classes: int, where: str) -> None:
  """Refuses a label that is no class; `labels` is `[n]` int32, `where` names the split.

  Raises:
    UserError: naming the first such image.
  """
  bad = labels >= num_classes
  if bad.any():
    i = int(np.argmax(bad))
    raise UserError(
      f"{where}: label {labels[i]} of image {i} is out of range 0..{num_classes - 1} ({num_classes} classes);"
      " correct the label or name the missing classes in class_names"
    )


def require_all_classes(labels: np.ndarray, class_names: Sequence[str], where: str) -> None:
  """Refuses a training split in which a class has no image; `labels` is `[n]` int32.

  Raises:
    UserError: naming the first empty class.
  """
  empty = np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0)
  if len(empty):
    raise UserError(
      f"{where}: class {empty[0]} ({class_names[empty[0]]!r}) has no images ({len(empty)} of {len(class_names)} classes"
      " are empty); add images or renumber the labels without gaps"
    )


def checked_pixels(pixels: np.ndarray, where: str) -> np.ndarray:
  """Pixels as `[n, height, width, channels]` float32 in [0, 1].

  Args:
    pixels: uint8 in 0..255 (divided by 255), or floats in [0, 1].
    where: the split, as messages name it.

  Returns:
    A float32 array of the same shape.

  Raises:
    UserError: not four axes, channels not last, another dtype, NaN or infinite values, values outside [0, 1].
  """
  try:
    pixels = np.asarray(pixels)
  except ValueError as error:
    raise UserError(f"{where}: images are of several shapes; give [n, height, width, channels]") from error
  if pixels.ndim != 4 or 0 in pixels.shape:
    raise UserError(
      f"{where}: images have shape {pixels.shape}; give [n, height, width, channels] or [n, height, width]"
    )
  if pixels.shape[3] > 4 and pixels.shape[1] in (1, 3):
    raise UserError(
      f"{where}: images of shape {pixels.shape[1:]} look channels-first; transpose to [n, height, width, channels]"
    )
  if pixels.dtype == np.uint8:
    return np.divide(pixels, np.float32(255), dtype=np.float32)
  if pixels.dtype.kind != "f":
    raise UserError(f"{where}: images are of dtype {pixels.dtype}; save uint8 in 0..255 or floats in [0, 1]")
  if not np.isfinite(pixels).all():
    i = int(np.argmin(np.isfinite(pixels).reshape(len(pixels), -1).all(axis=1)))
    raise UserError(f"{where}: image {i} holds NaN or infinite pixels; remove or repair it")
  low, high = float(pixels.min()), float(pixels.max())
  if low < 0 or high > 1:
    raise UserError(
      f"{where}: float pixels span {low:.6g}..{high:.6g}, outside [0, 1]; divide by 255, clip, or undo any"
      " normalisation"
    )
  return pixels.astype(np.float32, copy=False)


def require_same_shape(
  train: tuple[int, ...], test: tuple[int, ...], name: str, words: tuple[str, str] = ("train", "test")
) -> None:
  """Refuses test images of another shape than the training images; shapes are `(height, width, channels)`.

  Raises:
    UserError: naming both shapes.
  """
  if train != test:
    one, other = words
    raise UserError(f"{name}: {one} images are {train} but {other} images are {test}; resize or convert one of them")


def require_per_class(labels: np.ndarray, class_names: Sequence[str], count: int, key: str, each: int = 1) -> None:
  """Refuses a set whose smallest training class has fewer than `count * each` images.

  Args:
    labels: `[n]` integer labels of the training images.
    class_names: names of all classes.
    count: images needed from every class.
    key: what needs them (`"ipc"`), named in the message.
    each: how many images go into one.

  Raises:
    UserError: naming the key, its value, the smallest class and the largest value that works.
  """
  sizes = np.bincount(labels, minlength=len(class_names))
  smallest = int(np.argmin(sizes))
  if sizes[smallest] < count * each:
    told = f", and {each} go into each" if each > 1 else ""
    raise UserError(
      f"{key}={count}: class {smallest} ({class_names[smallest]!r}) has only {sizes[smallest]} training images{told}; "
      f"set {key} to at most {sizes[smallest] // each} or raise train_size"
    )
