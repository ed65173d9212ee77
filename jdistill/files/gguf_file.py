"""Metadata and arrays of a `.gguf` file, read without trust: every length, count and offset is checked.

The format is that of ggml and llama.cpp, versions 2 and 3: a header with two counts, metadata as typed values by name,
a table of tensors, and behind it their bytes, each beginning at a multiple of an alignment.
"""

import math
import os
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jdistill.base import UserError
from jdistill.files.atomic import must_exist
from jdistill.files.gguf_blocks import OTHER_TYPES, TYPES, BlockType, dequantised

_VERSIONS = (2, 3)
_ALIGNMENT = 32  # of a file that does not say another one
_MOST_ALIGNMENT = 1 << 20
_MOST_AXES = 4
_LONGEST_NAME = 64  # of a tensor, as in ggml
_LONGEST_KEY = 65535
_NUMBERS = {
  0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_BOOL, _STRING, _ARRAY = 7, 8, 9
_LEAST_ENTRY = 13  # bytes of a metadata entry with an empty key and one byte as its value
_LEAST_TENSOR = 32  # bytes of a row in the table of a tensor with one axis and an empty name


class Gguf(NamedTuple):
  """What a `.gguf` file holds.

  Attributes:
    metadata: numbers, booleans, text, arrays `[n]` and lists of text by key.
    arrays: float32 by name, with the axes in NumPy's order: a matrix is `[out, in]` as in PyTorch. `{}` where only
      metadata was asked for.
    types: what ggml calls each array's type, by name.
  """

  metadata: dict[str, Any]
  arrays: dict[str, np.ndarray]
  types: dict[str, str]


class _Tensor(NamedTuple):
  """A row of the table."""

  name: str
  kind: BlockType
  shape: tuple[int, ...]
  begin: int  # from the first byte of all tensors
  nbytes: int


def read_gguf(path: str | os.PathLike, *, arrays: bool = True) -> Gguf:
  """Reads a `.gguf` file.

  F32, F16, BF16, Q8_0, Q4_0 and Q4_1 become float32, with ggml's own arithmetic. Nothing in the file is run.

  Args:
    path: the file.
    arrays: whether tensors are read too; the whole table is checked in any case.

  Returns:
    `Gguf`.

  Raises:
    UserError: the file is missing, of another version or byte order, holds a tensor of another type, or is not as the
      format says: counts, lengths or offsets that the file is too short for, names that occur twice, tensors that
      overlap or leave gaps, bytes that are left over.
  """
  must_exist(path)
  with open(path, "rb") as file:
    content = file.read()
  try:
    return _parsed(content, arrays)
  except _Unread as error:
    raise UserError(f"{path}: {error}") from error
  except ValueError as error:
    raise UserError(f"{path}: is no whole .gguf file ({error}); download it again") from error


class _Unread(ValueError):
  """A whole file that this reader does not know."""


class _Cursor:
  """A place in the bytes of a file that moves on with every value read."""

  def __init__(self, content: bytes):
    self.content, self.at = memoryview(content), 0

  @property
  def left(self) -> int:
    return len(self.content) - self.at

  def take(self, nbytes: int, what: str) -> memoryview:
    if nbytes > self.left:
      raise ValueError(f"{what} takes {nbytes} bytes at byte {self.at}, and {self.left} are left")
    self.at += nbytes
    return self.content[self.at - nbytes : self.at]

  def number(self, kind: str, what: str) -> int | float:
    return np.frombuffer(self.take(int(kind[2:]), what), kind)[0].item()

  def text(self, what: str, longest: int | None = None) -> str:
    length = self.number("<u8", what)
    if longest is not None and length > longest:
      raise ValueError(f"{what} has {length} bytes, and {longest} are the most")
    try:
      return str(self.take(length, what), "utf-8")
    except UnicodeDecodeError as error:
      raise ValueError(f"{what} is not UTF-8") from error


def _parsed(content: bytes, arrays: bool) -> Gguf:
  cursor = _Cursor(content)
  tensors, entries = _header(cursor)
  metadata = _metadata(cursor, entries)
  table = list(_table(cursor, tensors))
  start = _aligned(cursor.at, _alignment(metadata))
  _check_layout(table, len(content) - start, _alignment(metadata))
  types = {one.name: one.kind.name for one in table}
  if not arrays:
    return Gguf(metadata, {}, types)
  view = memoryview(content)
  found = {one.name: dequantised(one.kind, _bytes_of(view, start, one), one.shape) for one in table}
  return Gguf(metadata, found, types)


def _bytes_of(content: memoryview, start: int, tensor: _Tensor) -> memoryview:
  return content[start + tensor.begin : start + tensor.begin + tensor.nbytes]


def _header(cursor: _Cursor) -> tuple[int, int]:
  """The numbers of tensors and of metadata entries."""
  if bytes(cursor.take(4, "its header")) != b"GGUF":
    raise ValueError("it does not begin with GGUF")
  raw = bytes(cursor.take(4, "its header"))
  (version,) = struct.unpack("<I", raw)
  if version not in _VERSIONS:
    if struct.unpack(">I", raw)[0] in _VERSIONS:
      raise _Unread("its numbers are big-endian; convert it to a little-endian .gguf file")
    raise _Unread(f"is a .gguf file of version {version}, and {_VERSIONS} are read; convert it again")
  tensors, entries = cursor.number("<u8", "its header"), cursor.number("<u8", "its header")
  for count, least, what in ((tensors, _LEAST_TENSOR, "tensors"), (entries, _LEAST_ENTRY, "metadata entries")):
    if count * least > cursor.left:
      raise ValueError(f"its header claims {count} {what}, and the file has {len(cursor.content)} bytes")
  return tensors, entries


def _metadata(cursor: _Cursor, entries: int) -> dict[str, Any]:
  found: dict[str, Any] = {}
  for number in range(entries):
    key = cursor.text(f"the name of metadata entry {number}", _LONGEST_KEY)
    if key in found:
      raise ValueError(f"its metadata name {key[:_LONGEST_NAME]!r} twice")
    what = repr(key[:_LONGEST_NAME])
    found[key] = _value(cursor, cursor.number("<u4", what), what)
  return found


def _value(cursor: _Cursor, kind: int, what: str) -> Any:
  """A value of the metadata, or all of an array."""
  if kind in _NUMBERS:
    return cursor.number(_NUMBERS[kind], what)
  if kind == _BOOL:
    return bool(_booleans(cursor, 1, what)[0])
  if kind == _STRING:
    return cursor.text(what)
  if kind != _ARRAY:
    raise ValueError(f"{what} has a value of the unknown type {kind}")
  kind, count = cursor.number("<u4", what), cursor.number("<u8", what)
  if kind in _NUMBERS:
    dtype = np.dtype(_NUMBERS[kind])
    return np.frombuffer(cursor.take(count * dtype.itemsize, what), dtype).copy()
  if kind == _BOOL:
    return _booleans(cursor, count, what)
  if kind != _STRING:
    raise ValueError(f"{what} is an array of the unknown type {kind}")
  if count * 8 > cursor.left:
    raise ValueError(f"{what} claims {count} texts, and {cursor.left} bytes are left")
  return [cursor.text(what) for _ in range(count)]


def _booleans(cursor: _Cursor, count: int, what: str) -> np.ndarray:
  raw = np.frombuffer(cursor.take(count, what), np.uint8)
  if (raw > 1).any():
    raise ValueError(f"{what} is neither true nor false")
  return raw.astype(bool)


def _alignment(metadata: dict[str, Any]) -> int:
  alignment = metadata.get("general.alignment", _ALIGNMENT)
  if type(alignment) is not int or not 0 < alignment <= _MOST_ALIGNMENT or alignment & (alignment - 1):
    raise ValueError(f"'general.alignment' is {str(alignment)[:20]}, and a power of two up to {_MOST_ALIGNMENT} is due")
  return alignment


def _aligned(at: int, alignment: int) -> int:
  return -(-at // alignment) * alignment


def _table(cursor: _Cursor, tensors: int) -> Iterator[_Tensor]:
  """The rows of the table of tensors."""
  seen = set()
  for number in range(tensors):
    name = cursor.text(f"the name of tensor {number}", _LONGEST_NAME)
    if name in seen:
      raise ValueError(f"its table names {name!r} twice")
    seen.add(name)
    yield _row(cursor, name)


def _row(cursor: _Cursor, name: str) -> _Tensor:
  axes = cursor.number("<u4", repr(name))
  if not 1 <= axes <= _MOST_AXES:
    raise ValueError(f"{name!r} has {axes} axes, and 1 to {_MOST_AXES} are allowed")
  shape = tuple(cursor.number("<u8", repr(name)) for _ in range(axes))[::-1]  # ggml's first axis is the innermost
  number, begin = cursor.number("<u4", repr(name)), cursor.number("<u8", repr(name))
  kind = TYPES.get(number)
  if kind is None:
    read = ", ".join(one.name for one in TYPES.values())
    called = OTHER_TYPES.get(number, f"number {number}")
    raise _Unread(f"{name!r} is of type {called}, and {read} are read; take a file quantised to one of these")
  if min(shape) < 1:
    raise ValueError(f"{name!r} has the shape {list(shape)}")
  if shape[-1] % kind.values:
    raise ValueError(f"{name!r} has rows of {shape[-1]} values, and blocks of {kind.name} have {kind.values}")
  return _Tensor(name, kind, shape, begin, math.prod(shape) // kind.values * kind.nbytes)


def _check_layout(table: list[_Tensor], nbytes: int, alignment: int) -> None:
  """Tensors lie one after another, each at the next multiple of the alignment, and nothing but padding follows."""
  at = 0
  for one in sorted(table, key=lambda one: one.begin):
    if one.begin != at:
      raise ValueError(f"{one.name!r} begins at byte {one.begin} of the tensors, and {at} is due")
    if one.begin + one.nbytes > nbytes:
      raise ValueError(f"{one.name!r} ends at byte {one.begin + one.nbytes} of the tensors, and they have {nbytes}")
    at = _aligned(one.begin + one.nbytes, alignment)
  if nbytes > at:
    raise ValueError(f"{nbytes - at} bytes follow the last tensor")
