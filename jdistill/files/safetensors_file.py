"""Arrays of a `.safetensors` file, written, and read without trust: every number of its header is checked."""

import json
import math
import os
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from jdistill.base import UserError
from jdistill.files.atomic import atomic_write, must_exist

_MOST_HEADER = 100_000_000  # bytes, the format's own bound
_DTYPES = {
  "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
  "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads all arrays of a `.safetensors` file.

  The file is eight bytes with the length of a JSON header, the header, and the bytes of all arrays one after another.
  Nothing but arrays can be in it.

  Args:
    path: the file.

  Returns:
    Arrays by name, in the order of the file's bytes; bfloat16 is given as float32, which holds it exactly.

  Raises:
    UserError: the file is missing or is not as the format says: a header that is too long or no JSON, an array of an
      unknown type, whose bytes are not as many as its shape asks for, or bytes that overlap, are left over or are
      missing.
  """
  must_exist(path)
  with open(path, "rb") as file:
    content = file.read()
  try:
    return _arrays(content)
  except (ValueError, RecursionError) as error:
    raise UserError(f"{path}: is no whole .safetensors file ({error}); download or write it again") from error


def write_safetensors(
  path: str | os.PathLike, arrays: Mapping[str, np.ndarray], *, metadata: Mapping[str, str] | None = None
) -> None:
  """Writes a `.safetensors` file, atomically.

  Args:
    path: the file.
    arrays: by name; their bytes are in this order.
    metadata: text by name for the header; `{"format": "pt"}` is what `transformers` asks for.

  Raises:
    ValueError: an array of a type that the format has not, or named `__metadata__`.
    UserError: the disk is full or not writable.
  """
  header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
  at = 0
  for name, array in arrays.items():
    if name == "__metadata__" or (dtype := _dtype_name(array)) is None:
      raise ValueError(f"write_safetensors: {name!r} of type {array.dtype} cannot be written")
    header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
    at += array.nbytes
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)  # the bytes of arrays begin at a multiple of eight

  def write(file: BinaryIO) -> None:
    file.write(struct.pack("<Q", len(text)) + text)
    for array in arrays.values():
      file.write(np.ascontiguousarray(array).tobytes())

  atomic_write(path, write, 8 + len(text) + at)


def _dtype_name(array: np.ndarray) -> str | None:
  if array.dtype.name == "bfloat16":
    return "BF16"
  return next((name for name, dtype in _DTYPES.items() if name != "BF16" and array.dtype == np.dtype(dtype)), None)


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
  """The float32 numbers whose upper halves are these `uint16` bits."""
  return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _arrays(content: bytes) -> dict[str, np.ndarray]:
  header, start = _header(content)
  header.pop("__metadata__", None)
  entries = sorted(((name, _entry(name, entry)) for name, entry in header.items()), key=lambda one: one[1][2])
  found, at = {}, 0
  for name, (dtype, shape, (begin, end)) in entries:
    if begin != at:
      raise ValueError(f"{name!r} begins at byte {begin}, and what comes before it ends at {at}")
    raw = content[start + begin : start + end]
    if len(raw) != end - begin:
      raise ValueError(f"{name!r} ends at byte {end} of {len(content) - start}")
    array = np.frombuffer(raw, _DTYPES[dtype]).reshape(shape)
    found[name] = bfloat16_to_float32(array) if dtype == "BF16" else array.copy()
    at = end
  if start + at != len(content):
    raise ValueError(f"{len(content) - start - at} bytes follow the last array")
  return found


def _header(content: bytes) -> tuple[dict[str, Any], int]:
  """The header and where the arrays begin."""
  if len(content) < 8:
    raise ValueError(f"it has {len(content)} bytes")
  (length,) = struct.unpack("<Q", content[:8])
  if length > min(_MOST_HEADER, len(content) - 8):
    raise ValueError(f"its header claims {length} bytes, and the file has {len(content)}")
  text = content[8 : 8 + length]
  if not text.startswith(b"{"):
    raise ValueError("its header is no JSON object")
  header = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
  if not isinstance(header, dict):
    raise ValueError("its header is no JSON object")
  return header, 8 + length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    raise ValueError("its header names something twice")
  return found


def _entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
  """Type, shape and bytes of one array."""
  if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
    raise ValueError(f"{name!r} has not dtype, shape and data_offsets")
  dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
  if not isinstance(dtype, str) or dtype not in _DTYPES:
    raise ValueError(f"{name!r} has the unknown type {dtype!r}")
  for numbers in (shape, offsets):
    if not isinstance(numbers, list) or not all(type(one) is int and one >= 0 for one in numbers):
      raise ValueError(f"{name!r} has a shape or offsets that are no whole numbers")
  if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize:
    raise ValueError(f"{name!r} of shape {shape} and type {dtype} does not take the bytes {offsets}")
  return dtype, tuple(shape), (offsets[0], offsets[1])
