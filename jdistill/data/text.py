"""Plain text: what comes with an installed package, or a file of one's own."""

import importlib.resources
import json
import os
import pydoc_data.topics
from collections.abc import Sequence

from jdistill.base import UserError
from jdistill.files import user_path
from jdistill.synthetic.corpora import generated, is_generated

DESCRIPTIONS, PYTHON = "descriptions", "python"


def read_text(name: str | os.PathLike) -> str:
  """Reads a text: `name` says from where.

  Args:
    name: `"descriptions"`, scikit-learn's descriptions of its data sets (about 43,000 characters of English with some
      tables, the files in order of their names); `"python"`, the pages of the running Python's reference that its
      `help()` shows (about 460,000 characters, of which some sections are on several pages); a generated corpus
      without prompts, such as `"markov"` (see `jdistill.synthetic.generated`), a paragraph per document; or a path that
      ends in `.txt`, read as UTF-8.

  Raises:
    UserError: it is neither, or the file is missing, empty or not UTF-8.
  """
  name = os.fspath(name)
  if name == DESCRIPTIONS:
    folder = importlib.resources.files("sklearn.datasets.descr")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".rst")), key=lambda file: file.name)
    return "\n".join(file.read_text(encoding="utf-8") for file in files)
  if name == PYTHON:
    return "\n\n".join(page for _, page in sorted(pydoc_data.topics.topics.items()))
  if is_generated(name):
    return "\n\n".join(response for _, response in generated(name).records)
  path = user_path(name, "dataset")
  if path.suffix.lower() != ".txt":
    raise UserError(f"dataset={name!r}: is no text; give {DESCRIPTIONS!r}, which needs no file, or a path FILE.txt")
  return _read(name, path, "FILE.txt")


def has_records(name: str | os.PathLike) -> bool:
  """Whether `read_records` reads this data set: a `.jsonl` file, or a generated corpus with prompts."""
  name = os.fspath(name)
  if is_generated(name):
    return bool(generated(name).records[0][0])
  return name.lower().endswith(".jsonl")


def read_records(name: str | os.PathLike, keys: Sequence[str]) -> list[tuple[str, ...]]:
  """Reads records of texts: a JSON object per line with all of these keys, in UTF-8. Empty lines are left out.

  Args:
    name: path of a `.jsonl` file, or a generated corpus such as `"addition"`.
    keys: of every record, whose values are texts that are not empty. Other keys are ignored.

  Returns:
    The values of each record, in the order of the keys.

  Raises:
    UserError: the file is missing, empty or not UTF-8, or a line is no such record; with its number.
  """
  name, found = os.fspath(name), []
  if is_generated(name):
    known = [dict(zip(("prompt", "response"), record, strict=True)) for record in generated(name).records]
    return [tuple(record[key] for key in keys) for record in known]
  for number, line in enumerate(_read(name, user_path(name, "dataset"), "FILE.jsonl").split("\n"), 1):
    if not line.strip():
      continue
    where = f"dataset={name!r}: line {number}"
    try:
      record = json.loads(line)
    except (ValueError, RecursionError) as error:
      raise UserError(f"{where}: is no JSON ({error}); write one object per line") from error
    wanted = " and ".join(repr(key) for key in keys)
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in keys):
      raise UserError(f"{where}: is no object with texts {wanted}; write them into every record")
    empty = [key for key in keys if not record[key]]
    if empty:
      raise UserError(f"{where}: {empty[0]!r} is empty; fill it in, or leave the record out")
    found.append(tuple(record[key] for key in keys))
  return found


def _read(name: str, path: os.PathLike, kind: str) -> str:
  try:
    text = path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"dataset={name!r}: cannot be read as UTF-8 text ({error}); give another {kind}") from error
  if not text:
    raise UserError(f"dataset={name!r}: the file is empty; give another {kind}")
  return text
