"""Data sets as one NumPy archive, read without pickles."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from jdistill.base import UserError
from jdistill.data import raw

_ALIASES = {
  "train_images": "x_train",
  "train_labels": "y_train",
  "test_images": "x_test",
  "test_labels": "y_test",
}
_DAMAGE = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


def read(path: Path) -> raw.RawSet:
  """Reads `train_images`, `train_labels`, `test_images`, `test_labels` and, if there, `class_names`.

  Args:
    path: the archive; the keys `x_train`, `y_train`, `x_test`, `y_test` are accepted too.

  Returns:
    The set, not yet checked.

  Raises:
    UserError: no such file, not a readable archive, pickled contents, a missing key, or unusable class names.
  """
  if not path.is_file():
    raise UserError(f"dataset={str(path)!r}: there is no such file; check the path")
  try:
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
      raise ValueError("it is one bare array")
    with archive:
      arrays = {key: archive[key] for key in archive.files if key in {*_ALIASES, *_ALIASES.values(), "class_names"}}
      found = sorted(archive.files)
  except _DAMAGE as error:
    line = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(
      f"dataset={str(path)!r}: cannot be read as arrays ({line}); write plain numeric arrays with np.savez"
    ) from error
  values = []
  for key, alias in _ALIASES.items():
    if key not in arrays and alias not in arrays:
      raise UserError(f"dataset={str(path)!r}: has neither {key!r} nor {alias!r} (it holds {found}); add that array")
    values.append(arrays[key] if key in arrays else arrays[alias])
  return raw.RawSet(
    raw.from_arrays(values[0], values[1]),
    raw.from_arrays(values[2], values[3]),
    _names(arrays.get("class_names"), path),
  )


def _names(names: np.ndarray | None, path: Path) -> tuple[str, ...] | None:
  if names is None:
    return None
  if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) != len(names):
    raise UserError(
      f"dataset={str(path)!r}: class_names has shape {names.shape} and dtype {names.dtype}; give one"
      " distinct string per class"
    )
  return tuple(names.tolist())
