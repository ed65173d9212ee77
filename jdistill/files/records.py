"""JSON records that know when they were changed: what one stage writes and a later one relies on."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jdistill.base import UserError
from jdistill.files.json_files import read_json, to_jsonable, write_json

_DIGEST = "sha256"  # of the rest of the record


class Damaged(UserError):
  """A file that was written here is missing, damaged or was edited.

  Attributes:
    path: which one.
    found: what is the matter with it.
  """

  def __init__(self, path: str | os.PathLike, found: str = "is damaged or was edited (its checksum differs)"):
    self.path, self.found = Path(path), found
    super().__init__(f"{path} {found}")


def write_record(path: str | os.PathLike, record: Mapping[str, Any]) -> None:
  """Writes a mapping as JSON with the SHA-256 of its content in it, atomically."""
  content = to_jsonable(record)
  write_json(path, {**content, _DIGEST: _digest(content)})


def read_record(path: str | os.PathLike) -> dict[str, Any]:
  """Reads what `write_record` wrote.

  Raises:
    Damaged: the file is missing, or anything in it is not as it was written.
  """
  if not Path(path).is_file():
    raise Damaged(path, "is missing")
  try:
    found = read_json(path)
  except UserError as error:
    raise Damaged(path, "is damaged (it is not JSON)") from error
  if not isinstance(found, dict) or found.pop(_DIGEST, None) != _digest(found):
    raise Damaged(path)
  return found


def _digest(content: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=True).encode()).hexdigest()
