"""The one table of systems. It feeds `--list`, the configuration check, the documentation, citations and the tests.

Names become functions here and in the registries of networks, tasks, sources and augmentations, and nowhere else.
"""

import functools
import re

from jdistill import schema
from jdistill.base import UserError
from jdistill.catalog import dataset, diffusion, federated, knowledge, language, selection
from jdistill.catalog.row import Row, load
from jdistill.schema import near_matches

__all__ = [
  "Row",
  "citation",
  "load",
  "names",
  "policy",
  "policy_fields",
  "policy_names",
  "row",
  "rows",
  "selector",
  "selector_fields",
  "selector_names",
  "table",
]

_ROWS: tuple[Row, ...] = (
  dataset.ROWS + knowledge.ROWS + language.ROWS + diffusion.ROWS + selection.ROWS + federated.ROWS
)

# Data policies that no paper of their own stands for, or that a method of the table brings with it.
_POLICIES = {
  "shuffle": "jdistill.data.policies:shuffle",
  "static_subset": "jdistill.data.policies:static_subset",
  "span": "jdistill.data.policies:span",
  "mixture": "jdistill.methods.language.ddk:mixture",
  "ordered": "jdistill.data.policies:ordered",
  "kd3": "jdistill.methods.knowledge.kd3:kd3_policy",
  "ssld": "jdistill.methods.knowledge.ssld:ssld_policy",
} | {row.policy_name: row.builder for row in _ROWS if row.policy}

# What rounds of queries ask about: `() -> Selector` with options.
_SELECTORS = (
  "random", "margin", "entropy", "least_confidence", "class_balanced", "k_center", "badge", "pcoreset", "rad", "oracle",
)  # fmt: skip


def rows() -> tuple[Row, ...]:
  """All systems, in the order of the table."""
  return _ROWS


def names(stage: str | None = None) -> list[str]:
  """The names of all methods, or of those whose experiments have a stage: `"students"` has the recipes."""
  return [row.name for row in _ROWS if not row.policy and (stage is None or stage in row.stages)]


def row(name: str) -> Row:
  """The row of a system.

  Raises:
    UserError: no such system; the nearest names are given.
  """
  for candidate in _ROWS:
    if candidate.name == name:
      return candidate
  raise UserError(f"method.name={name!r}: unknown{near_matches(name, names())}")


def policy_names() -> list[str]:
  """The names of all data policies."""
  return list(_POLICIES)


def policy(name: str):
  """The builder of a data policy, `(size, batch_size, *, options) -> DataPolicy`."""
  return load(_POLICIES[name])


@functools.cache
def policy_fields(name: str) -> dict[str, schema.Field]:
  """The options of a data policy."""
  return schema.fields(policy(name))


def selector_names() -> list[str]:
  """The names of all selectors of queries."""
  return list(_SELECTORS)


def selector(name: str):
  """The builder of a selector of queries, `(*, options) -> (rng, pool, count) -> positions`."""
  return load(f"jdistill.selection.queries:{name}")


@functools.cache
def selector_fields(name: str) -> dict[str, schema.Field]:
  """The options of a selector of queries."""
  return schema.fields(selector(name))


def citation(name: str) -> str:
  """BibTeX of the paper behind a system.

  Args:
    name: its name in the catalog.
  """
  entry = row(name)
  year = entry.venue.split()[-1]
  title = re.sub(r"([&%#_])", r"\\\1", entry.title)  # special characters of LaTeX
  where = (
    [f"  eprint = {{{entry.arxiv}}},", "  archivePrefix = {arXiv},"] if entry.arxiv else [f"  url = {{{entry.url}}},"]
  )
  return "\n".join(
    (
      f"@inproceedings{{{entry.name}{year},",
      f"  title = {{{title}}},",
      f"  author = {{{entry.authors}}},",
      f"  booktitle = {{{entry.venue.rsplit(' ', 1)[0]}}},",
      f"  year = {{{year}}},",
      *where,
      "}",
    )
  )


def table() -> tuple[list[str], list[list[str]]]:
  """Headers and rows of `--list`."""
  headers = ["name", "family", "paper", "address", "experiment"]
  return headers, [[r.name, r.family, f"{r.title} ({r.venue})", r.paper, r.config] for r in _ROWS]
