"""The one resolver: the keys of every run, the fields of the chosen stages, and the options of what they name."""

import copy
import json
from collections.abc import Mapping
from typing import Any

from jdistill import catalog
from jdistill.base import UserError
from jdistill.catalog import Row
from jdistill.config.common import RUN
from jdistill.config.sections import Declared, Named, Plain
from jdistill.files import parse_bytes, to_jsonable
from jdistill.schema import REQUIRED, Field, check_known, checked, near_matches


def resolve(config: Mapping[str, Any], stages: Mapping[str, Declared]) -> dict[str, Any]:
  """Turns an experiment's configuration into plain values that are all set and all allowed.

  Keys that are `None` are filled from `config.auto`, a table of published or tested values: `auto[DATASET][IPC]` with
  keys such as `"method/image_lr"`, of the largest listed ipc that does not exceed the wanted one (else the smallest),
  on top of `auto[DATASET]["*"]` on top of `auto["*"]["*"]`. A data set that is not listed takes its rows from
  `auto["*"]`. What is still open has the default of its declaration. What the user has set is never touched.

  Args:
    config: a `ConfigDict` or nested mapping.
    stages: what each stage declares.

  Returns:
    Nested plain dictionaries without `auto`.

  Raises:
    UserError: an unknown key, method, network or stage; a wrong type or range; or values that contradict each other.
  """
  raw = _plain(config)
  auto = _tables(raw.pop("auto", None))
  _mapping("method", raw.get("method"))
  row = catalog.row(raw["method"].get("name"))
  if row.policy:
    cure = f"set data_policy.name={row.policy_name!r} beside a method"
    raise UserError(f"method.name={row.name!r}: is a data policy; {cure}")
  parts = declared(row, stages)
  raw["stages"] = _stages(raw.get("stages"), row)
  keys, known = {}, {}
  for part in parts:
    keys |= part.keys
    known |= part.sections
  free = list(dict.fromkeys(name for part in parts for name in part.free))
  check_known("", raw, [*keys, *known, *free])
  dataset = raw.get("dataset")
  if dataset is not None and not (isinstance(dataset, str) and dataset and "\n" not in dataset and "\0" not in dataset):
    raise UserError(f"dataset={raw.get('dataset')!r}: must be the name of a data set, an .npz file or a folder")
  untouched = copy.deepcopy(raw)
  if auto:
    _fill(raw, auto, known, keys)
  given = copy.deepcopy(raw)
  out = {key: checked_or_default(key, raw.get(key), field) for key, field in keys.items()}
  # copies of others come last
  for name, section in sorted(known.items(), key=lambda pair: isinstance(getattr(pair[1], "default", None), str)):
    out[name] = checked_section(name, raw.get(name), section, out)
  for name in free:
    out[name] = _mapping(name, raw.get(name) or {})
  _check_memory(out)
  for part in parts:
    part.opened(untouched, out)
  for part in parts:
    part.complete(given, out)
  return out


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
  """A configuration as what JSON holds."""
  raw = config.to_dict() if hasattr(config, "to_dict") else config
  if not isinstance(raw, Mapping):
    raise UserError(
      f"config: is a {type(raw).__name__}; give a mapping, such as get_config() of an experiment gives it"
    )
  try:
    return json.loads(json.dumps(_writable(to_jsonable(raw))))
  except (ValueError, RecursionError) as error:
    if isinstance(error, UserError):
      raise
    raise UserError(f"config: cannot be stored as JSON ({error}); give numbers, strings and lists") from error


def _writable(value: Any) -> Any:
  """A JSON value in which whole numbers of thousands of digits, which Python does not write, are infinite."""
  if isinstance(value, dict):
    return {key: _writable(one) for key, one in value.items()}
  if isinstance(value, list):
    return [_writable(one) for one in value]
  endless = isinstance(value, int) and value.bit_length() > 14_000
  return ("-inf" if value < 0 else "inf") if endless else value


def _tables(auto: Any) -> dict[str, dict[str, dict[str, Any]]]:
  """The section `auto`: `{DATASET or "*": {IPC or "*": {"section/key": value}}}`."""
  auto = auto or {}
  if not isinstance(auto, Mapping):
    raise UserError(f"auto={auto!r}: must be a mapping of data sets")
  for dataset, tables in auto.items():
    if not isinstance(tables, Mapping):
      raise UserError(f"auto.{dataset}={tables!r}: must be a mapping of images per class, or '*'")
    for ipc, table in tables.items():
      if ipc != "*" and not (ipc.isascii() and ipc.isdigit()):
        raise UserError(f"auto.{dataset}.{ipc}: must be a number of images per class, or '*'")
      if not isinstance(table, Mapping):
        raise UserError(f"auto.{dataset}.{ipc}={table!r}: must be a mapping of paths such as 'method/image_lr'")
  return dict(auto)


def declared(row: Row, stages: Mapping[str, Declared]) -> list[Declared]:
  """What a configuration of a method declares: every run's part, then that of each of its stages."""
  return [RUN, *(stages[name] for name in row.stages)]


def checked_section(dotted: str, value: Any, section: Plain | Named, others: Mapping[str, Any]) -> dict[str, Any]:
  """A section with everything set.

  Args:
    dotted: its name, with what stands before it in messages.
    value: what was given, or `None`.
    section: what it may hold.
    others: sections that are resolved already, of which an open one may be a copy.

  Raises:
    UserError: see `resolve`.
  """
  if isinstance(section, Plain):
    given = _mapping(dotted, {} if value is None else value)
    fields, out = section.fields, {}
  else:
    given = value
    if section.default and (not given or (isinstance(given, dict) and given.get("name") is None)):
      own = {key: one for key, one in (given or {}).items() if one is not None}
      given = others.get(section.default) if isinstance(section.default, str) else section.default
      given = given | own if own and isinstance(given, dict) else given  # such as the teacher: as `model`, but wider
    given = copy.deepcopy(_mapping(dotted, given))
    name = given.pop("name", None)
    if name not in (known := section.names()):
      raise UserError(f"{dotted}.name={name!r}: unknown{near_matches(name, known)}")
    fields, out = section.fields(name), {"name": name}
    given = {key: one for key, one in given.items() if one is not None or key in fields}
  for key in given:
    if out and key not in fields:  # perhaps one of another name's, which is no misspelling
      owners = [other for other in section.names() if key in section.fields(other)]
      cure = near_matches(key, fields)
      if owners and "did you mean" not in cure:
        cure = f"; it belongs to {' and '.join(owners)}, set it to None"
      raise UserError(f"{dotted}.{key}={given[key]!r}: {out['name']} has no such option{cure}")
  check_known(dotted, given, fields)
  return out | {key: checked_or_default(f"{dotted}.{key}", given.get(key), field) for key, field in fields.items()}


def checked_or_default(key: str, value: Any, field: Field) -> Any:
  """`schema.checked`, where a key that is open has its declared default."""
  if value is None and field.default is not REQUIRED:
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    if value is None:
      return None
  return checked(key, value, field)


def _mapping(dotted: str, value: Any) -> dict[str, Any]:
  if value is None:
    raise UserError(f"{dotted}: missing; an experiment's configuration needs this section")
  if not isinstance(value, Mapping):
    raise UserError(f"{dotted}={value!r}: must be a section with keys of its own")
  return dict(value)


def _stages(value: Any, row: Row) -> list[str]:
  """The chosen stages, in the order of the method's own."""
  wanted = list(row.stages) if value is None else checked("stages", value, RUN.keys["stages"])
  for stage in wanted:
    if stage not in row.stages:
      raise UserError(f"stages: unknown stage {stage!r}{near_matches(stage, row.stages)}")
  if not wanted:
    raise UserError(f"stages=(): nothing to do; choose some of {', '.join(row.stages)}")
  if [stage for stage in row.stages if stage in wanted] != wanted:
    raise UserError(f"stages={wanted}: must be in the order {', '.join(row.stages)}, each at most once")
  return wanted


def _fill(raw: dict, auto: Mapping, known: Mapping[str, Plain | Named], keys: Mapping[str, Field]) -> None:
  """Fills what is `None` from the tables, the most specific table first."""
  dataset = raw.get("dataset") or keys["dataset"].default
  own = auto.get(dataset) or {key: value for key, value in auto.get("*", {}).items() if key != "*"}
  listed = sorted(int(key) for key in own if key != "*")
  fitting: list[int] = []
  if listed and "ipc" not in keys:
    raise UserError(f"auto.{dataset}.{listed[0]}: this method has no images per class; use '*'")
  if listed:
    ipc = checked_or_default("ipc", raw.get("ipc"), keys["ipc"])
    fitting = [value for value in listed if value <= ipc] or listed[:1]
  tables = [own[str(fitting[-1])]] if fitting else []
  tables += [own.get("*", {}), auto.get("*", {}).get("*", {})]
  for table in tables:
    for path, value in table.items():
      section, _, key = path.rpartition("/")
      _check_path(path, value, known, keys)
      target = raw.setdefault(section, {}) if section else raw
      if not isinstance(target, dict):
        continue  # refused afterwards, by name
      declared_as = known.get(section)
      if isinstance(declared_as, Named) and key not in _options(declared_as, target, raw):
        continue  # the table speaks of another network
      if target.get(key) is None:
        target[key] = value


def _check_path(path: str, value: Any, known: Mapping[str, Plain | Named], keys: Mapping[str, Field]) -> None:
  """Refuses a path of a table that no configuration of the method has, or a value that it cannot hold."""
  name, _, key = path.rpartition("/")
  section = known.get(name)
  if name and section is None:
    raise UserError(f"auto: {path}={value!r}: no such section{near_matches(name, known)}")
  if isinstance(section, Named):
    fields = {"name": Field(str)} | {
      key: field for one in section.names() for key, field in section.fields(one).items()
    }
    checkable = False  # the same option can hold other values elsewhere
  else:
    fields, checkable = section.fields if name else keys, True
  if key not in fields:
    raise UserError(f"auto: {path}={value!r}: no such key{near_matches(key, fields)}")
  if checkable and value is not None:
    checked(f"auto: {path}", value, fields[key])


def _options(section: Named, target: Mapping[str, Any], raw: Mapping[str, Any]) -> list[str]:
  default = section.default
  default = raw.get(default) if isinstance(default, str) else default
  name = target.get("name") or (default or {}).get("name")
  return [*section.fields(name)] if name in section.names() else []


def _check_memory(out: Mapping[str, Any]) -> None:
  if out["memory_limit"] is not None:
    try:
      parse_bytes(out["memory_limit"])
    except ValueError as error:
      raise UserError(f"memory_limit: {error}") from error
