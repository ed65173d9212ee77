"""The one table of methods. It feeds `--list`, the configuration check, the documentation, citations and the tests.

Names become functions here and nowhere else. A row says where the builder is, which hyper-parameters a configuration
may set, what its stream is made of, and where its experiment and its tests are.
"""

import difflib
import importlib
import re
from collections.abc import Callable

from jdistill.base import UserError
from jdistill.catalog import dataset, knowledge
from jdistill.catalog.row import Row, builder_options, option_types

__all__ = [
  "Row",
  "builder_options",
  "citation",
  "names",
  "near_matches",
  "option_types",
  "row",
  "rows",
  "table",
  "task",
  "task_names",
]  # fmt: skip

_ROWS = dataset.ROWS + knowledge.ROWS
_TASKS = knowledge.TASKS


def task_names() -> list[str]:
  """The names of all tasks."""
  return list(_TASKS)


def task(name: str) -> Callable:
  """The builder of a task, `(Request, *, options) -> Task`."""
  module, function = _TASKS[name].split(":")
  return getattr(importlib.import_module(module), function)


def rows() -> tuple[Row, ...]:
  """All methods, in the order of the table."""
  return _ROWS


def names() -> list[str]:
  """The names of all methods."""
  return [row.name for row in _ROWS]


def row(name: str) -> Row:
  """The row of a method.

  Raises:
    UserError: no such method; the nearest names are given.
  """
  for candidate in _ROWS:
    if candidate.name == name:
      return candidate
  raise UserError(f"method.name={name!r}: unknown{near_matches(name, names())}")


def near_matches(name: str, known) -> str:
  """The end of a message about an unknown name: the near matches, or all names where nothing is near."""
  known = list(known)
  near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
  if near:
    return f"; did you mean {' or '.join(repr(n) for n in near)}?"
  return f"; choose one of {', '.join(sorted(known))}"


def citation(name: str) -> str:
  """BibTeX of the paper behind a method.

  Args:
    name: the method's name in the catalog.
  """
  entry = row(name)
  year = entry.venue.split()[-1]
  title = re.sub(r"([&%#_])", r"\\\1", entry.title)  # special characters of LaTeX
  return "\n".join(
    (
      f"@inproceedings{{{entry.name}{year},",
      f"  title = {{{title}}},",
      f"  author = {{{entry.authors}}},",
      f"  booktitle = {{{entry.venue.rsplit(' ', 1)[0]}}},",
      f"  year = {{{year}}},",
      f"  eprint = {{{entry.arxiv}}},",
      "  archivePrefix = {arXiv},",
      "}",
    )
  )


def table() -> tuple[list[str], list[list[str]]]:
  """Headers and rows of `--list`."""
  headers = ["method", "family", "paper", "arXiv", "experiment"]
  return headers, [[r.name, r.family, f"{r.title} ({r.venue})", r.arxiv, r.config] for r in _ROWS]
