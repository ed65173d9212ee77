"""Plain text: what comes with an installed package, or a file of one's own."""

import importlib.resources
import os

from jdistill.base import UserError
from jdistill.files import user_path

DESCRIPTIONS = "descriptions"


def read_text(name: str | os.PathLike) -> str:
  """Reads a text: `name` says from where.

  Args:
    name: `"descriptions"`, scikit-learn's descriptions of its data sets (about 43,000 characters of English with some
      tables, the files in order of their names), or a path that ends in `.txt`, read as UTF-8.

  Raises:
    UserError: it is neither, or the file is missing, empty or not UTF-8.
  """
  name = os.fspath(name)
  if name == DESCRIPTIONS:
    folder = importlib.resources.files("sklearn.datasets.descr")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".rst")), key=lambda file: file.name)
    return "\n".join(file.read_text(encoding="utf-8") for file in files)
  path = user_path(name, "dataset")
  if path.suffix.lower() != ".txt":
    raise UserError(f"dataset={name!r}: is no text; give {DESCRIPTIONS!r}, which needs no file, or a path FILE.txt")
  try:
    text = path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"dataset={name!r}: cannot be read as UTF-8 text ({error}); give another FILE.txt") from error
  if not text:
    raise UserError(f"dataset={name!r}: the file is empty; give another FILE.txt")
  return text
