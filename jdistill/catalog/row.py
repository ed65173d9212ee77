"""What the catalog knows of one method."""

import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Row(NamedTuple):
  """One published method.

  Attributes:
    name: its key in `config.method.name`.
    family: `dataset`, `knowledge`, `language`, `diffusion`, `selection` or `curriculum`.
    title: the paper's title.
    authors, venue, arxiv: where it was published.
    builder: `"module:function"`.
    stream: what its steps consume; `jdistill.stages` knows how to make it. For knowledge distillation, the tasks
      (kinds of data) it can be run in, separated by blanks.
    stream_options: names and defaults of the options that belong to the stream and the starting point.
    values: where its defaults differ from the builder's.
    config: its experiment.
    test: its tests.
  """

  name: str
  family: str
  title: str
  authors: str
  venue: str
  arxiv: str
  builder: str
  stream: str
  stream_options: Mapping[str, Any]
  values: Mapping[str, Any]
  config: str
  test: str

  def build(self) -> Callable:
    """The builder itself."""
    module, name = self.builder.split(":")
    return getattr(importlib.import_module(module), name)

  def options(self) -> dict[str, Any]:
    """Every hyper-parameter a configuration may set, with its default."""
    return builder_options(self.build()) | dict(self.stream_options) | dict(self.values)


def option_types(builder: Callable) -> dict[str, type]:
  """The type of each of `builder_options`: that of its default, or of what its annotation allows beside `None`."""
  hints = typing.get_type_hints(builder)

  def kind(name: str, default: Any) -> type:
    if default is not None:
      return type(default)
    return next(t for t in typing.get_args(hints[name]) if t is not type(None))

  return {name: kind(name, default) for name, default in builder_options(builder).items()}


def builder_options(builder: Callable) -> dict[str, Any]:
  """The plain-valued keyword-only arguments of a builder and their defaults; collaborators (functions) are left out."""
  parameters = inspect.signature(builder).parameters.values()
  plain = (bool, int, float, str, type(None))
  return {
    p.name: p.default
    for p in parameters
    if p.kind is p.KEYWORD_ONLY and isinstance(p.default, plain) and "Augmentation" not in str(p.annotation)
  }
