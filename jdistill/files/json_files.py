"""Plain values as JSON."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.base import UserError
from jdistill.files.atomic import must_exist, write_text


def to_jsonable(value: Any) -> Any:
  """Turns nested mappings, sequences, NumPy/JAX arrays and scalars into what JSON can hold.

  JSON has no NaN or infinity, so these become the strings `"nan"`, `"inf"` and `"-inf"`, which `float(...)` reads back.
  Tuples become lists and `NamedTuple`s become mappings.

  Raises:
    UserError: a value of another type.
  """
  if value is None or isinstance(value, bool | int | str):
    return value
  if isinstance(value, float):
    return value if math.isfinite(value) else str(value)
  if isinstance(value, Mapping):
    return {str(name): to_jsonable(item) for name, item in value.items()}
  if isinstance(value, tuple) and hasattr(value, "_asdict"):
    return to_jsonable(value._asdict())
  if isinstance(value, list | tuple):
    return [to_jsonable(item) for item in value]
  if hasattr(value, "__array__"):
    array = np.asarray(value)
    array = array.astype(np.float32) if array.dtype.kind == "V" else array  # bfloat16 and its kin have no Python number
    if array.dtype.kind in "biufU":
      return to_jsonable(array.tolist())
  raise UserError(f"{value!r} of type {type(value).__name__} cannot be stored as JSON: give numbers, strings or lists")


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes `to_jsonable(value)` as indented JSON, atomically."""
  write_text(path, json.dumps(to_jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
  """Reads a JSON file.

  Raises:
    UserError: the file is missing or is not JSON.
  """
  must_exist(path)
  try:
    return json.loads(Path(path).read_bytes())
  except ValueError as error:
    raise UserError(f"{path} is damaged ({error}): delete it and run again") from error
