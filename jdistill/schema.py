"""What an option may hold, read from the signature that declares it.

    def datm(apply, initial, *, inner_steps: Annotated[int, Range(1)] = 80, labels: Literal["soft", "hard"] = "soft"):

Type, range, choices and default stand in the signature and nowhere else: configurations are checked against it, and
messages and documentation are made of it. A section of a configuration that no builder has is a `NamedTuple` with the
same annotations.
"""

import difflib
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, NamedTuple

from jdistill.base import UserError

_NOT_FINITE = ("nan", "inf", "-inf")  # how a configuration holds them, as JSON has no word for them
_MOST_FLOAT = 3.4e38
_MOST_NAMES = 40  # in a message
REQUIRED = inspect.Parameter.empty


class Range(NamedTuple):
  """Inclusive bounds of a number; `None` where there is none."""

  low: float | None = None
  high: float | None = None


class Above(NamedTuple):
  """The exclusive lower bound of a number."""

  value: float


class Choice(NamedTuple):
  """The allowed values, where they are known at run time only; else `typing.Literal` says the same."""

  values: tuple


class Traced:
  """Marks a number that a builder only computes with: a search over it shares one compiled program.

  A builder must not decide in Python about such a number, and no value of it may mean that something is left out.
  """


class FileName:
  """Marks a text that becomes a part of file names."""


# what most options are
NonNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Above(0)]
Share = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(1)]
Size = Annotated[int, Range(0)]


class Field(NamedTuple):
  """What one key of a configuration may hold.

  Attributes:
    kind: the Python type; an int is welcome where a float is asked for.
    default: `REQUIRED` where there is none.
    low, high: inclusive bounds, or `None`.
    above: exclusive lower bound, or `None`.
    choices: the allowed values, or empty.
    optional: whether `None` is a value of its own.
    traced: see `Traced`.
    file_name: see `FileName`.
    item: what each item of a tuple may be; `None` where any plain value will do.
  """

  kind: type
  default: Any = REQUIRED
  low: float | None = None
  high: float | None = None
  above: float | None = None
  choices: tuple = ()
  optional: bool = False
  traced: bool = False
  file_name: bool = False
  item: "Field | None" = None


_PLAIN = (bool, int, float, str, tuple)


def fields(declared: Callable) -> dict[str, Field]:
  """The options that a builder or a `NamedTuple` declares, in their order; collaborators (functions) are left out.

  Args:
    declared: a function, whose keyword-only arguments of plain types are its options, or a `NamedTuple` class.
  """
  hints = typing.get_type_hints(declared, include_extras=True)
  whole = inspect.isclass(declared)
  found = {}
  for parameter in inspect.signature(declared).parameters.values():
    if whole or parameter.kind is parameter.KEYWORD_ONLY:
      field = _field(hints.get(parameter.name), parameter.default)
      if field is not None:
        found[parameter.name] = field
  return found


def _field(hint: Any, default: Any) -> Field | None:
  """A `Field` of an annotation, or `None` for what a configuration cannot hold."""
  origin, inside = typing.get_origin(hint), typing.get_args(hint)
  if origin is Annotated:
    field = _field(inside[0], default)
    return None if field is None else functools.reduce(_marked, inside[1:], field)
  if origin in (typing.Union, types.UnionType):
    members = [member for member in inside if member is not type(None)]
    field = _field(members[0], default) if len(members) == 1 else None
    return None if field is None else field._replace(optional=True)
  if origin is typing.Literal:
    return Field(type(inside[0]), default, choices=inside)
  kind = origin or hint
  item = _field(inside[0], REQUIRED) if kind is tuple and inside else None
  return Field(kind, default, item=item) if kind in _PLAIN else None


def _marked(field: Field, mark: Any) -> Field:
  match mark:
    case Range(low, high):
      return field._replace(low=low, high=high)
    case Above(value):
      return field._replace(above=value)
    case Choice(values):
      return field._replace(choices=tuple(values))
  return field._replace(traced=field.traced or mark is Traced, file_name=field.file_name or mark is FileName)


def check_known(section: str, values: Mapping[str, Any], known: Iterable[str]) -> None:
  """Refuses keys that nobody declared.

  Raises:
    UserError: the first of them, with its near matches.
  """
  known = list(known)
  for key in values:
    if key not in known:
      dotted = f"{section}.{key}" if section else key
      raise UserError(f"{dotted}={values[key]!r}: unknown key{near_matches(key, known)}")


def checked(key: str, value: Any, field: Field) -> Any:
  """A value that may stand in a configuration, in its declared type.

  Args:
    key: dotted, for messages.
    value: what was found.
    field: what is allowed.

  Raises:
    UserError: another type, or outside the bounds or the choices.
  """
  if value is None:
    if field.optional:
      return None
    raise UserError(f"{key}: not set, and there is no default for this data set; give --config.{key}=...")
  if field.kind is tuple:
    items = [value] if isinstance(value, str | int | float) else value
    if not isinstance(items, list | tuple):
      raise UserError(f"{key}={_shown(value)}: must be a list")
    # the command line hands over `--config.eval.models=mlp,lenet` as one word
    items = [part for item in items for part in (item.split(",") if isinstance(item, str) else [item])]
    return [checked(key, _number(item, field.item.kind), field.item) for item in items] if field.item else items
  if field.kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1023:
    value = float(value)
  if field.kind is float and value in _NOT_FINITE:
    raise UserError(f"{key}={value}: must be a finite number")
  if not isinstance(value, field.kind) or (isinstance(value, bool) and field.kind is not bool):
    raise UserError(f"{key}={_shown(value)}: must be of type {field.kind.__name__}")
  if isinstance(value, int) and abs(value) >= 2**31:
    raise UserError(f"{key}={_shown(value)}: must be below 2**31; lower it")
  if isinstance(value, float) and math.isfinite(value) and abs(value) > _MOST_FLOAT:
    raise UserError(f"{key}={value}: must be below {_MOST_FLOAT}, the largest float32; lower it")
  if isinstance(value, float) and not math.isfinite(value):
    raise UserError(f"{key}={value}: must be a finite number")
  if field.file_name and not re.fullmatch(r"[\w+=@-][\w .+=@-]{,99}", value):
    raise UserError(
      f"{key}={_shown(value)}: becomes a part of file names; use at most 100 letters, digits, '-', '_' and '.'"
    )
  if field.choices and value not in field.choices:
    raise UserError(f"{key}={value!r}: unknown{near_matches(value, field.choices)}")
  if field.low is not None and value < field.low:
    raise UserError(f"{key}={value}: must be at least {field.low:,}")
  if field.above is not None and value <= field.above:
    raise UserError(f"{key}={value}: must be above {field.above:,}")
  if field.high is not None and value > field.high:
    raise UserError(f"{key}={value}: must be at most {field.high:,}")
  return value


def _number(item: Any, kind: type) -> Any:
  """A word of the command line as the number that it may be."""
  if isinstance(item, str) and kind in (int, float):
    try:
      return kind(item)
    except ValueError:
      return item
  return item


def _shown(value: Any) -> str:
  """A value as messages show it: whole numbers and containers can be longer than a line."""
  try:
    text = repr(value)
  except ValueError:  # Python refuses to write whole numbers of thousands of digits
    return f"a whole number of {value.bit_length()} bits"
  return text if len(text) <= 80 else f"{text[:77]}..."


def validated(section: str) -> Callable[[Callable], Callable]:
  """Decorates a builder: a call refuses what its signature does, with the message that a configuration gets.

  Arrays are left alone, for a traced number cannot be looked at.

  Args:
    section: in front of the option's name, in messages.
  """

  def decorate(builder: Callable) -> Callable:
    declared = functools.cache(lambda: fields(builder))

    @functools.wraps(builder)
    def build(*args: Any, **options: Any) -> Any:
      for key, value in options.items():
        if key in declared() and not hasattr(value, "dtype"):
          options[key] = checked(f"{section}.{key}", value, declared()[key])
      return builder(*args, **options)

    return build

  return decorate


def near_matches(name: Any, known: Iterable[str]) -> str:
  """The end of a message about an unknown name: the near matches, or the names that there are where nothing is near.

  Of dotted names, those of the same section come first. Where there are very many, each other section stands as
  `section.*`; where there are still too many, the first ones are told, and how many more.
  """
  known = [str(one) for one in known]
  section = str(name).rpartition(".")[0]
  own = [one for one in known if one.rpartition(".")[0] == section]
  near = difflib.get_close_matches(str(name), own, n=3, cutoff=0.6) or difflib.get_close_matches(
    str(name), known, n=3, cutoff=0.6
  )
  if near:
    return f"; did you mean {' or '.join(repr(n) for n in near)}?"
  if len(known) > _MOST_NAMES:
    known = own + list({f"{one.rpartition('.')[0]}.*" for one in known if one not in own})
  more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
  return f"; choose one of {', '.join(sorted(known)[:_MOST_NAMES])}{more}"
