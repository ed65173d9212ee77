"""Data sets as one NumPy archive, read without pickles."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from jdistill.base import UserError
from jdistill.data import raw
from jdistill.files import DAMAGE, npz_arrays

_ALIASES = {
  "train_images": "x_train",
  "train_labels": "y_train",
  "test_images": "x_test",
  "test_labels": "y_test",
}


def arrays_of(path: Path, wanted: Collection[str]) -> tuple[dict[str, np.ndarray], list[str]]:
  """Some arrays of a user's archive, and the names of all that it holds.

  Raises:
    UserError: no such file, or not a readable archive of plain arrays.
  """
  if not path.is_file():
    what = "is not a file" if path.exists() else "there is no such file"
    raise UserError(f"dataset={str(path)!r}: {what}; give the path of a .npz file (looked for {path.absolute()})")
  try:
    with open(path, "rb") as file:
      return npz_arrays(file, wanted)
  except DAMAGE as error:
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(
      f"dataset={str(path)!r}: cannot be read as arrays ({line}); write plain numeric arrays with np.savez"
    ) from error


def read(path: Path) -> raw.RawSet:
  """Reads `train_images`, `train_labels`, `test_images`, `test_labels` and, if there, `class_names`.

  Args:
    path: the archive; the keys `x_train`, `y_train`, `x_test`, `y_test` are accepted too.

  Returns:
    The set, not yet checked.

  Raises:
    UserError: no such file, not a readable archive, pickled contents, a missing key, or unusable class names.
  """
  arrays, found = arrays_of(path, {*_ALIASES, *_ALIASES.values(), "class_names"})
  values = []
  for key, alias in _ALIASES.items():
    if key not in arrays and alias not in arrays:
      raise UserError(f"dataset={str(path)!r}: has neither {key!r} nor {alias!r} (it holds {found}); add that array")
    values.append(arrays[key] if key in arrays else arrays[alias])
  return raw.RawSet(
    raw.from_arrays(values[0], values[1]),
    raw.from_arrays(values[2], values[3]),
    class_names(arrays.get("class_names"), path),
  )


def class_names(names: np.ndarray | None, path: Path) -> tuple[str, ...] | None:
  """The array `class_names` of an archive, if it has one.

  Raises:
    UserError: not one distinct string per class.
  """
  if names is None:
    return None
  if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) != len(names):
    raise UserError(
      f"dataset={str(path)!r}: class_names has shape {names.shape} and dtype {names.dtype}; give one"
      " distinct string per class"
    )
  return tuple(names.tolist())
