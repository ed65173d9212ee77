"""What the catalog knows of one system."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jdistill import schema
from jdistill.schema import Field


class Row(NamedTuple):
  """One published system.

  Attributes:
    name: its key in `config.method.name`, or in `config.data_policy.name` for a data policy; its experiment is
      `experiments/NAME.py`.
    family: a label: `dataset`, `knowledge`, `selection`, `curriculum`, `language`, `synthesis`,
      `diffusion` or `federated`.
    title: the paper's title.
    authors, venue: of the paper.
    builder: `"module:function"`.
    stages: the stages of its experiments, in order.
    test: its tests.
    toy: how the contract tests build it at toy size (`tests/contract/toys.py`).
    arxiv: the paper's arXiv id.
    url: where the paper is, if it is not on arXiv.
    parts: further builders whose options belong to the section `method`: `stream`, what its steps consume, and `start`,
      how what it learns starts.
    values: where its defaults differ from the builders'.
    keep: what its teachers leave: `"networks"` or `"trajectory"`.
    tasks: the tasks it can be run in.
    gradient: the route of `jdistill.bilevel.unroll` that its runs take where the section `unroll` leaves it open.
    policy: whether it is a data policy and not a method; a text where `config.data_policy.name` calls it so, and not by
      the name of the row.
    calibration: `"module:NAME"` of a `Calibration` that chooses open values on data that nobody tuned it for.
  """

  name: str
  family: str
  title: str
  authors: str
  venue: str
  builder: str
  stages: tuple[str, ...]
  test: str
  toy: Mapping[str, Any]
  arxiv: str = ""
  url: str = ""
  parts: Mapping[str, str] = {}
  values: Mapping[str, Any] = {}
  keep: str = "networks"
  tasks: tuple[str, ...] = ("supervised",)
  gradient: str = "mixed"
  policy: bool | str = False
  calibration: str = ""

  @property
  def paper(self) -> str:
    """Address of the paper."""
    return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else self.url

  @property
  def config(self) -> str:
    """Its experiment."""
    return f"experiments/{self.name}.py"

  @property
  def policy_name(self) -> str:
    """Its key in `config.data_policy.name`; empty for a method."""
    return self.policy if isinstance(self.policy, str) else self.name if self.policy else ""

  @property
  def asks_teachers(self) -> bool:
    """Whether the method itself learns from teachers, whatever labels students get."""
    return self.keep == "trajectory" or any(self.takes(name) for name in ("teacher_apply", "teacher_applies"))

  def build(self, part: str | None = None) -> Callable:
    """The builder itself, or that of a part."""
    return load(self.builder if part is None else self.parts[part])

  def takes(self, name: str) -> bool:
    """Whether the builder takes a collaborator of this name, such as `"unroll"`."""
    return name in inspect.signature(self.build()).parameters

  def fields(self) -> dict[str, Field]:
    """Every hyper-parameter a configuration may set, with this row's defaults."""
    if self.name not in _FIELDS:
      _FIELDS[self.name] = _fields(self)
    return _FIELDS[self.name]

  def options_of(self, options: Mapping[str, Any], part: str | None = None) -> dict[str, Any]:
    """Those of a section's options that a builder (or a part) declares."""
    return {name: options[name] for name in schema.fields(self.build(part)) if name in options}


def load(path: str) -> Callable:
  """The function that `"module:function"` names."""
  module, name = path.split(":")
  return getattr(importlib.import_module(module), name)


_FIELDS: dict[str, dict[str, Field]] = {}  # by row


def _fields(row: Row) -> dict[str, Field]:
  found = schema.fields(row.build())
  for part in row.parts:
    found |= schema.fields(row.build(part))
  if row.takes("augment") or row.takes("siamese"):
    found["augment"] = Field(str, "none")
  if row.takes("view"):
    found["view"] = Field(str, "none")
  return {key: field._replace(default=row.values.get(key, field.default)) for key, field in found.items()}
