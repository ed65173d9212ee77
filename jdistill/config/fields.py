"""What one key of a configuration may hold, and the messages about what it does not hold."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jdistill import models
from jdistill.base import UserError
from jdistill.catalog import near_matches


class Field(NamedTuple):
  """What one key may hold.

  Attributes:
    kind: the Python type; an int is welcome where a float is asked for.
    low, high: inclusive bounds, or `None`.
    above: exclusive lower bound, or `None`.
    choices: the allowed values, or empty.
    optional: whether `None` is a value of its own.
  """

  kind: type
  low: float | None = None
  high: float | None = None
  above: float | None = None
  choices: tuple = ()
  optional: bool = False


def check_known(section: str, values: Mapping, known) -> None:
  for key in values:
    if key not in known:
      dotted = f"{section}.{key}" if section else key
      raise UserError(f"{dotted}={values[key]!r}: unknown key{near_matches(key, known)}")


def checked(key: str, value: Any, field: Field) -> Any:
  if value is None:
    if field.optional:
      return None
    raise UserError(f"{key}: not set, and there is no default for this data set; give --config.{key}=...")
  if field.kind is tuple:
    items = [value] if isinstance(value, str | int | float) else list(value)
    # the command line hands over `--config.eval.models=mlp,lenet` as one word
    return [part for item in items for part in (item.split(",") if isinstance(item, str) else [item])]
  if field.kind is float and isinstance(value, int) and not isinstance(value, bool):
    value = float(value)
  if not isinstance(value, field.kind) or (isinstance(value, bool) and field.kind is not bool):
    raise UserError(f"{key}={value!r}: must be of type {field.kind.__name__}")
  if field.choices and value not in field.choices:
    raise UserError(f"{key}={value!r}: unknown{near_matches(value, field.choices)}")
  if field.low is not None and value < field.low:
    raise UserError(f"{key}={value}: must be at least {field.low:,}")
  if field.above is not None and value <= field.above:
    raise UserError(f"{key}={value}: must be above {field.above:,}")
  if field.high is not None and value > field.high:
    raise UserError(f"{key}={value}: must be at most {field.high:,}")
  return value


def check_model(model: dict, section: str = "model") -> None:
  name = model["name"]
  known = models.options(name)
  for key in list(model):
    if key != "name" and key not in known:
      if model[key] is None:  # an option of another network that nobody set
        del model[key]
      else:
        raise UserError(
          f"{section}.{key}={model[key]!r}: {name} has no such option{near_matches(key, ['name', *known])}"
        )
  for key, value in known.items():
    if model.get(key) is None:
      model[key] = list(value) if isinstance(value, tuple) else value
