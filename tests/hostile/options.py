"""Every option of every section of every experiment, set to what it cannot hold."""

import functools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jdistill import catalog, config, stages
from jdistill.config import Plain
from jdistill.schema import Field
from tests.hostile.case import Action, Case, changed, config_of, experiments, python, tiny

# every wrong value of these; of the others one per option, in turn
WHOLE = ("datm", "kd")

_NAN, _INF = float("nan"), float("inf")
_ANY = {"list": [[1]], "dict": {"a": 1}}
_NUMBERS = {"word": "abc", "NaN": _NAN, "inf": _INF, "-inf": -_INF, "true": True, "huge": 10**400, "endless": 10**5000}


def declared(name: str) -> dict[str, Field]:
  """What every option of an experiment may hold, by its dotted key."""
  whole, found = config_of(name), {}
  known = {stage: one.fields for stage, one in stages.STAGES.items()}
  for part in config.declared(catalog.row(whole["method"]["name"]), known):
    found |= part.keys
    for section, about in part.sections.items():
      if isinstance(about, Plain):
        fields = dict(about.fields)
      else:
        default = whole.get(about.default) if isinstance(about.default, str) else about.default
        named = (whole.get(section) or {}).get("name") or (default or {}).get("name")
        fields = {"name": Field(str, choices=tuple(about.names()))}
        fields |= about.fields(named) if named in about.names() else {}
      found |= {f"{section}.{key}": field for key, field in fields.items()}
  return found


def wrong_values(field: Field) -> dict[str, Any]:
  """Values that an option cannot hold, by a word for what is wrong with them."""
  out = dict(_ANY)
  if field.kind is bool:
    return out | {"word": "maybe", "number": 3, "NaN": _NAN}
  if field.kind is str:
    out |= {"number": 3, "fraction": 2.5, "true": True}
    return out | {"near miss": f"{field.choices[0]}x", "empty": ""} if field.choices else out
  if field.kind is tuple:
    return {"dict": {"a": 1}, "list": [[[1]]], "none": [None]}
  out |= _NUMBERS | ({"fraction": 1.5} if field.kind is int else {})
  if field.choices:
    out["no choice"] = max(field.choices) + 1
  if field.low is not None:
    out["low"] = field.kind(field.low) - 1
  if field.above is not None:
    out["not above"] = field.kind(field.above)
  if field.high is not None:
    out["high"] = field.kind(field.high) + 1
  return out


def shown(value: Any) -> str:
  """What of a value a message must at least contain."""
  if isinstance(value, int) and abs(value) > 10**300:
    return ""  # nobody wants to read it
  if value == [None]:
    return ""
  if isinstance(value, dict | list):
    return str(value)[1:4].strip("[]{} ")
  return str(value)


def cases() -> Iterator[Case]:
  """From Python, every wrong value; on the command line, every option with two words and a near miss of its key."""
  seen: set[tuple[str, Field]] = set()
  for name in sorted(experiments(), key=lambda name: name not in WHOLE):
    for dotted, field in declared(name).items():
      if (dotted, field) in seen:
        continue  # the same option of another experiment is checked by the same declaration
      seen.add((dotted, field))
      turn = zlib.crc32(f"{name} {dotted}".encode())
      values = wrong_values(field)
      chosen = list(values) if name in WHOLE else [list(values)[turn % len(values)]]
      for what in chosen:
        start = functools.partial(_from_python, name, dotted, values[what])
        yield _case(f"option/{name}/{dotted}/{what}", "option", start, dotted, shown(values[what]))
      if name in WHOLE:
        yield from _on_the_command_line(name, dotted, field)


def _case(name: str, kind: str, start: Callable[[Path], Action], dotted: str, value: str) -> Case:
  return Case(name, kind, start, (dotted.rpartition(".")[2], value))


def _from_python(name: str, dotted: str, value: Any, place: Path) -> Action:
  config = config_of(name)
  config.pop("sweep", None)  # its cells would set some of the options anew
  return python(changed(config, dotted, value), place)


def _on_the_command_line(name: str, dotted: str, field: Field) -> Iterator[Case]:
  miss = dotted + "q"
  yield _case(f"override/{name}/{dotted}/near miss", "override", _override(name, f"{miss}=1"), miss, dotted)
  words = {bool: ["maybe"], int: ["abc", "1.5", "nan", "1e400", "[1]"], float: ["abc", "nan", "inf", "1e400", "[1]"]}
  tried = words.get(field.kind, [])
  turn = zlib.crc32(dotted.encode())
  for word in {tried[(turn + i) % len(tried)]: None for i in range(2)} if tried else ():  # two of them, in turn
    start = _override(name, f"{dotted}={word}")
    yield _case(f"override/{name}/{dotted}/{word}", "override", start, dotted, word.replace("1e400", ""))


def _override(name: str, text: str) -> Callable[[Path], Action]:
  return lambda place: tiny(name, place, text)
