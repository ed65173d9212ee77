"""Plain arrays as `.npz`, written the same every time and read without trust."""

import math
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Collection, Mapping
from typing import Any, BinaryIO

import numpy as np

from jdistill.base import UserError
from jdistill.files.amounts import format_bytes
from jdistill.files.atomic import atomic_write, must_exist

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold; the clock must not change the bytes of a file
# what `zipfile` and `numpy` raise on flipped bits; RuntimeError is an encryption flag or an unknown compression method
DAMAGE = (
  zipfile.BadZipFile,
  zlib.error,
  struct.error,
  ValueError,
  LookupError,
  EOFError,
  RuntimeError,
  OSError,
  SyntaxError,
  TypeError,
  MemoryError,
  OverflowError,
)


def write_npz(path: str | os.PathLike, arrays: Mapping[str, Any], *, compressed: bool = False) -> None:
  """Writes named arrays as an `.npz`, atomically and with the same bytes for the same arrays.

  Args:
    path: the target; the name is used as it is.
    arrays: anything `np.asarray` takes, of numbers, booleans or strings; stored in the order of their names.
    compressed: deflate; smaller and several times slower.

  Raises:
    UserError: the disk is full, or an array has a dtype that NumPy alone cannot read back (objects, bfloat16).
  """
  entries = {name: np.asarray(array) for name, array in sorted(arrays.items())}
  for name, array in entries.items():
    if array.dtype.kind in "OV":
      raise UserError(f"{path}: array {name!r} has dtype {array.dtype}, which .npz cannot hold: cast it to float32")

  def write(file: BinaryIO) -> None:
    with zipfile.ZipFile(file, "w") as archive:
      for name, array in entries.items():
        entry = zipfile.ZipInfo(f"{name}.npy", _ZIP_EPOCH)
        entry.compress_type = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
        entry.external_attr = 0o644 << 16
        entry.create_system = 3  # the same on every platform
        with archive.open(entry, "w", force_zip64=True) as stream:
          np.lib.format.write_array(stream, array, allow_pickle=False)

  atomic_write(path, write, sum(array.nbytes + 512 for array in entries.values()))


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads all arrays of an `.npz` after checking its CRCs; never unpickles.

  Raises:
    UserError: the file is missing, or damaged in any way.
  """
  must_exist(path)
  with open(path, "rb") as file:
    try:
      with zipfile.ZipFile(file) as archive:
        if (broken := archive.testzip()) is not None:
          raise ValueError(f"wrong CRC of {broken}")
      return npz_arrays(file)[0]
    except DAMAGE as error:
      raise UserError(f"{path} is damaged: delete it and run again") from error


def npz_arrays(file: BinaryIO, wanted: Collection[str] | None = None) -> tuple[dict[str, np.ndarray], list[str]]:
  """Arrays of an opened `.npz`; nothing is unpickled, and no array is made that the file does not hold.

  Args:
    file: open for reading.
    wanted: names of the arrays to be read; all if `None`.

  Returns:
    The arrays by name, and the names of all arrays in the file.

  Raises:
    An error of `DAMAGE`: not an archive of plain arrays, or one whose header claims more than the file or the memory of
      this machine holds.
  """
  with zipfile.ZipFile(file) as archive:
    entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
    members = {entry.filename.removesuffix(".npy"): entry for entry in entries}
    chosen = members if wanted is None else [name for name in members if name in wanted]
    total = sum(members[name].file_size for name in chosen)
    if total > (most := _memory()):
      raise ValueError(f"its arrays take {format_bytes(total)} and this machine has {format_bytes(most)}")
    arrays = {}
    for name in chosen:
      with archive.open(members[name]) as stream:
        claimed = _claimed_bytes(stream)
        if claimed != (held := members[name].file_size - stream.tell()):
          raise ValueError(f"{name}: its header claims {format_bytes(claimed)}, the file holds {format_bytes(held)}")
      with archive.open(members[name]) as stream:
        arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays, sorted(members)


def _claimed_bytes(stream: BinaryIO) -> int:
  """Bytes of the array whose `.npy` header is read from a stream."""
  version = np.lib.format.read_magic(stream)
  header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
  shape, _, dtype = header(stream)
  if dtype.hasobject:
    raise ValueError("it holds Python objects, which are never unpickled")
  return math.prod(shape) * dtype.itemsize


def _memory() -> int:
  """Bytes of this machine's memory; without bound where the system does not tell."""
  try:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  except (AttributeError, OSError, ValueError):
    return sys.maxsize
