"""SHA-256 of files and arrays, and directories whose files are listed with theirs."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.base import UserError
from jdistill.files.json_files import read_json, write_json

CHECKSUMS = "checksums.json"


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
