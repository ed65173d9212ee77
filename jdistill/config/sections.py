"""How a part of a run declares what a configuration may hold: keys at the top, and sections of two kinds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jdistill import catalog, models, schema, tasks
from jdistill.schema import Field


class Plain(NamedTuple):
  """A section with the same keys for everyone; `fields` by key."""

  fields: Mapping[str, Field]


class Named(NamedTuple):
  """A section that names something and gives its options: `{"name": "mlp", "widths": (64,)}`.

  Attributes:
    names: `() -> names` that may be chosen.
    fields: `(name) -> fields` of its options.
    default: the section where a configuration has none, or the name of another section to copy; `None` asks for one.
    open: whether experiments show the options of everything that may be named, so that the command line reaches them
      whatever it chooses.
    common: options that all names have; an arm that names another keeps their values.
  """

  names: Callable[[], Sequence[str]]
  fields: Callable[[str], Mapping[str, Field]]
  default: Mapping[str, Any] | str | None = None
  open: bool = False
  common: Mapping[str, Field] = {}

  def shown(self, name: str | None) -> dict[str, Field]:
    """The options that an experiment shows in this section."""
    if not self.open:
      return dict(self.fields(name)) if name in self.names() else {}
    return {key: field for name in reversed(self.names()) for key, field in self.fields(name).items()}


class Declared(NamedTuple):
  """What a stage adds to a configuration.

  Attributes:
    keys: fields at the top.
    sections: by name.
    free: names of sections whose keys are the user's own; `complete` checks them.
    complete: `(given, resolved) -> None`, called in place after the single keys are checked: what depends on several
      of them. `given` is the configuration before defaults were filled in.
    opened: `(untouched, resolved) -> None`, called in place before `complete`; `untouched` is the configuration before
      the tables of `auto`, so that what is `None` in it was set by nobody.
  """

  keys: Mapping[str, Field] = {}
  sections: Mapping[str, Plain | Named] = {}
  free: tuple[str, ...] = ()
  complete: Callable[[Mapping[str, Any], dict[str, Any]], None] = lambda given, resolved: None
  opened: Callable[[Mapping[str, Any], dict[str, Any]], None] = lambda untouched, resolved: None


def network_fields(name: str) -> dict[str, Field]:
  """The options of a network of the zoo; their values are checked where it is built."""
  known = models.options(name)
  return {key: Field(_kind(value), value, optional=value is None, item=_item(value)) for key, value in known.items()}


def _item(value: Any) -> Field | None:
  """What the items of a list of sizes may be."""
  whole = isinstance(value, list | tuple) and value and all(isinstance(one, int) for one in value)
  return Field(int, low=1) if whole else None


def _kind(value: Any) -> type:
  return tuple if isinstance(value, list | tuple) else str if value is None else type(value)


def network(default: Mapping[str, Any] | str | None = None) -> Named:
  """A section that names a network."""
  return Named(models.names, network_fields, default, open=True)


def method(default: Mapping[str, Any] | None = None, stage: str | None = None) -> Named:
  """A section that names a method of the catalog, of those with a stage if one is given."""
  return Named(lambda: catalog.names(stage), lambda name: catalog.row(name).fields(), default)


def task(default: Mapping[str, Any] | None = None) -> Named:
  """A section that names a task."""
  return Named(tasks.names, lambda name: schema.fields(tasks.builder(name)), default)


def data_policy(default: Mapping[str, Any] | None = None) -> Named:
  """A section that names a data policy."""
  return Named(catalog.policy_names, catalog.policy_fields, default or {"name": "shuffle"}, open=True)


def selector() -> Named:
  """A section that names a selector of queries."""
  return Named(catalog.selector_names, catalog.selector_fields, {"name": "random"}, open=True)
