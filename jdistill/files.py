"""Files that are either whole or absent: atomic writes, plain array archives and checksums.

Every writer fills a temporary file beside its target, flushes it to the disk and renames it over the target, so a crash
or a full disk leaves the earlier file as it was. A killed process can leave a hidden `.<name>.<hex>.tmp` behind, which
is safe to delete.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jdistill.base import UserError

CHECKSUMS = "checksums.json"
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold; the clock must not change the bytes of a file
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
# what `zipfile` and `numpy` raise on flipped bits; RuntimeError is an encryption flag or an unknown compression method
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, LookupError, EOFError, RuntimeError, OSError)


def format_bytes(count: float) -> str:
  """Says a number of bytes in words, decimal units: `1_234_567 -> "1.2 MB"`."""
  for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
    if count >= size:
      return f"{count / size:.1f} {unit}"
  return f"{int(count)} B"


_UNITS = {
  "": 1,
  "b": 1,
  "kb": 1e3,
  "mb": 1e6,
  "gb": 1e9,
  "tb": 1e12,
  "kib": 2**10,
  "mib": 2**20,
  "gib": 2**30,
  "tib": 2**40,
}


def parse_bytes(text: str) -> int:
  """Reads a number of bytes: `"1.5 GB"`, `"512MiB"`, `"4000000"`.

  Raises:
    ValueError: anything else, or nothing above 0.
  """
  found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", text.lower())
  if found is None or found[2] not in _UNITS or not float(found[1]) > 0:
    raise ValueError(f"{text!r} is no number of bytes; write it like '2GB' or '500MB'")
  return int(float(found[1]) * _UNITS[found[2]])


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike, needed: int | None = None) -> Iterator[None]:
  """Turns a full or forbidden disk inside the `with` block into one readable line.

  Args:
    path: the file being written; the message names it.
    needed: how many bytes are to be written, if known.

  Raises:
    UserError: on "no space left", "quota exceeded", "permission denied" or "read-only file system".
  """
  try:
    yield
  except OSError as error:
    if error.errno in _FULL:
      wanted = f"about {format_bytes(needed)} needed, " if needed is not None else ""
      raise UserError(
        f"{path}: no space left: {wanted}{_free(Path(path))} free; nothing was lost, what was written before is "
        "untouched: free some space or choose another directory, then run the same command again"
      ) from error
    if error.errno in _FORBIDDEN:
      raise UserError(f"{path}: cannot be written ({error.strerror}): choose a writable directory") from error
    raise


def _free(path: Path) -> str:
  for parent in path.absolute().parents:
    if parent.is_dir():
      return format_bytes(shutil.disk_usage(parent).free)
  return "an unknown amount"


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], None], needed: int | None = None) -> None:
  """Writes a file so that readers see the old bytes or the new ones and never a mixture; makes missing directories.

  Args:
    path: the target.
    write: fills the open binary file.
    needed: bytes to be written, for the message on a full disk.

  Raises:
    UserError: the disk is full or not writable; the earlier file is untouched.
  """
  path = Path(path)
  temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
  with disk_errors(path, needed):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      with open(temporary, "xb") as file:  # not `tempfile`: its files are private, and these are meant to be shared
        write(file)
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
    except BaseException:
      temporary.unlink(missing_ok=True)
      raise


def remove_leftovers(directory: str | os.PathLike) -> None:
  """Deletes what killed writers left below a directory: hidden files named `.<name>.<8 hex digits>.tmp`."""
  for path in Path(directory).rglob(".*.tmp"):
    if path.is_file() and re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", path.name):
      path.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Writes bytes atomically; see `atomic_write`."""
  atomic_write(path, lambda file: file.write(data), len(data))


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes UTF-8 text atomically, with the line ends as given; see `atomic_write`."""
  write_bytes(path, text.encode())


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
  _must_exist(path)
  try:
    return json.loads(Path(path).read_bytes())
  except ValueError as error:
    raise UserError(f"{path} is damaged ({error}): delete it and run again") from error


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
  _must_exist(path)
  with open(path, "rb") as file:
    try:
      # Checked before NumPy looks inside: a flipped bit in an array's shape would otherwise ask for absurd memory.
      with zipfile.ZipFile(file) as archive:
        if (broken := archive.testzip()) is not None:
          raise ValueError(f"wrong CRC of {broken}")
      file.seek(0)
      with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
    except _DAMAGE as error:
      raise UserError(f"{path} is damaged: delete it and run again") from error


def sha256_file(path: str | os.PathLike) -> str:
  """Returns the SHA-256 of a file's bytes, as hexadecimal digits."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_arrays(arrays: Mapping[str, Any]) -> str:
  """Returns one SHA-256 over named arrays: name, dtype, shape and little-endian C-order bytes, in the order of names.

  The order of the mapping, memory layout and byte order of the machine do not matter.

  Raises:
    UserError: an array of objects.
  """
  digest = hashlib.sha256()
  for name, value in sorted(arrays.items()):
    array = np.asarray(value)
    if array.dtype.hasobject:
      raise UserError(f"array {name!r} holds Python objects, which have no canonical bytes: give numbers or strings")
    array = np.ascontiguousarray(array).reshape(array.shape)  # `ascontiguousarray` alone makes scalars 1-d
    if not array.dtype.newbyteorder("<").isnative or not array.dtype.isnative:
      array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    # the name of the dtype, as all of bfloat16's kin share one type string; strings need their width
    kind = array.dtype.str if array.dtype.kind in "US" else array.dtype.name
    header = json.dumps([name, kind, array.shape]).encode()
    digest.update(len(header).to_bytes(8, "little") + header)
    digest.update(array.reshape(-1).view(np.uint8))
  return digest.hexdigest()


def write_checksums(directory: str | os.PathLike, names: Iterable[str]) -> dict[str, str]:
  """Writes `checksums.json` with the SHA-256 of the named files of a directory; write it last, as the sign of success.

  Returns:
    File name to hexadecimal digest, as written.
  """
  checksums = {name: sha256_file(Path(directory) / name) for name in sorted(names)}
  write_json(Path(directory) / CHECKSUMS, checksums)
  return checksums


def verify_checksums(directory: str | os.PathLike, names: Iterable[str] | None = None) -> dict[str, str]:
  """Checks files of a directory against its `checksums.json`.

  Args:
    directory: where the files are.
    names: only these files; all listed ones when `None`.

  Returns:
    File name to hexadecimal digest, of the files that were checked.

  Raises:
    UserError: `checksums.json` is missing or malformed, or a file is missing, unlisted or has changed.
  """
  directory = Path(directory)
  if not (directory / CHECKSUMS).is_file():
    raise UserError(f"{directory} has no {CHECKSUMS}, so it was never finished or is not ours: write it again")
  listed = read_json(directory / CHECKSUMS)
  if not isinstance(listed, dict) or any(Path(name).name != name for name in listed):
    raise UserError(f"{directory / CHECKSUMS} is damaged: delete it and run again")
  chosen = list(listed) if names is None else list(names)
  for name in chosen:
    if name not in listed:
      raise UserError(f"{directory / CHECKSUMS} does not list {name}: write the directory again")
    if not (directory / name).is_file():
      raise UserError(f"{directory / name} is missing: copy the whole directory, or write it again")
    if sha256_file(directory / name) != listed[name]:
      raise UserError(f"{directory / name} is damaged or was edited (its checksum differs): write it again")
  return {name: listed[name] for name in chosen}


def _must_exist(path: str | os.PathLike) -> None:
  if not Path(path).is_file():
    raise UserError(f"{path} does not exist: check the path")
