"""What a configuration of knowledge distillation may say.

One teacher (or committee), one student, one schedule, and several *arms*: the method and its controls. An arm is a few
keys that differ, `{"method/name": "kd", "method/temperature": 4.0}`; everything else is the same for all, so that a
difference between two arms is a difference between methods.
"""

import copy
import itertools
from collections.abc import Mapping
from typing import Any

from jdistill import catalog, models
from jdistill.base import UserError
from jdistill.catalog import near_matches
from jdistill.config.fields import Field, check_known, check_model, checked
from jdistill.config.parallel import PARALLEL, fill_parallel
from jdistill.methods.knowledge.student import PRECISIONS
from jdistill.methods.optimizers import OPTIMIZERS, SCHEDULES

STAGES = ("teacher", "tune", "students", "report")
SOURCES = ("online", "cached")

_TOP = {
  "name": Field(str),
  "seed": Field(int, low=0, high=2**31 - 1),
  "seeds": Field(int, low=1, high=1000),
  "dataset": Field(str),
  "data_dir": Field(str, optional=True),
  "train_size": Field(int, low=1, optional=True),
  "test_size": Field(int, low=1, optional=True),
  "validation_size": Field(int, low=1),
  "preprocessing": Field(str, choices=("none", "standardize", "channel", "zca")),
  "reference": Field(str, optional=True),
  "tune_seeds": Field(int, low=1),
  "log_every": Field(int, low=1),
  "checkpoint_seconds": Field(float, low=0),
  "stages": Field(tuple),
}
_TRAIN = {
  "epochs": Field(int, low=1),
  "batch_size": Field(int, low=1),
  "optimizer": Field(str, choices=OPTIMIZERS),
  "lr": Field(float, above=0),
  "momentum": Field(float, low=0, high=0.9999),
  "nesterov": Field(bool),
  "weight_decay": Field(float, low=0),
  "decay_all": Field(bool),
  "clip": Field(float, above=0, optional=True),
  "schedule": Field(str, choices=SCHEDULES),
  "warmup_epochs": Field(float, low=0),
  "milestones": Field(tuple),
  "final_lr": Field(float, low=0),
  "ema_decay": Field(float, low=0, high=1, optional=True),
  "precision": Field(str, choices=tuple(PRECISIONS)),
  "augment": Field(str),
}
TRAIN_DEFAULTS = {
  "momentum": 0.9,
  "nesterov": False,
  "weight_decay": 0.0,
  "decay_all": True,
  "clip": None,
  "schedule": "cosine",
  "warmup_epochs": 0.0,
  "milestones": [],
  "final_lr": 0.0,
  "ema_decay": None,
  "precision": "float32",
  "augment": "none",
}
_TARGETS = {
  "source": Field(str, choices=SOURCES),
  "top_k": Field(int, low=1, optional=True),
  "count": Field(int, low=1, high=64),
  "also": Field(tuple),
  "stored": Field(str, optional=True),
}
_TARGETS_DEFAULTS = {"source": "online", "top_k": None, "count": 1, "also": [], "stored": None}
_FIXED_TARGETS = ("targets/count", "targets/also", "targets/stored")  # which teachers there are
_TEACHER_SECTIONS = ("teacher", "teacher_method", "teacher_train")
_ARM_SECTIONS = (
  *("method", "train", "student", "task", "targets", "start_method", "start_train"),
  *_TEACHER_SECTIONS,
)
_SECTIONS = ("task", "teacher", "teacher_train", "targets", "student", "train", "method")
NO_START = "none"  # students start from new parameters


def resolve(raw: dict[str, Any]) -> dict[str, Any]:
  """`jdistill.config.resolve` for this family; arms come out with all their sections whole."""
  raw.pop("auto", None)
  fill_parallel(raw)
  raw.setdefault("teacher_method", {"name": "ce"})
  raw.setdefault("start_method", {"name": NO_START})
  raw.setdefault("start_train", {})
  _check_mappings(raw)
  raw["targets"] = _TARGETS_DEFAULTS | {k: v for k, v in raw.get("targets", {}).items() if v is not None}
  rest = ("parallel", "arms", "order", "tune", "published", "committee")
  check_known("", raw, [*_TOP, *_SECTIONS, *_ARM_SECTIONS, *rest])
  for key, field in _TOP.items():
    raw[key] = checked(key, raw.get(key), field)
  for key, field in PARALLEL.items():
    raw["parallel"][key] = checked(f"parallel.{key}", raw["parallel"].get(key), field)
  check_known("parallel", raw["parallel"], PARALLEL)
  given = copy.deepcopy(raw)
  _check_sections("", raw)
  raw["committee"] = _committee(given)
  raw["arms"] = _arms(given, raw)
  raw["order"] = list(raw["arms"])
  _check_together(raw)
  raw["tune"] = _grids(raw)
  raw["published"] = dict(raw.get("published") or {})
  return raw


def _check_mappings(raw: Mapping[str, Any]) -> None:
  for section in _SECTIONS:
    if not isinstance(raw.get(section, {} if section == "targets" else None), Mapping):
      raise UserError(f"{section}: missing; an experiment's configuration needs this section")
  for section in (*_ARM_SECTIONS, "arms", "tune", "committee"):
    if not isinstance(found := raw.get(section) or {}, Mapping):
      raise UserError(f"{section}={found!r}: must be a section with keys of its own")
  for section, what in (("arms", "method/temperature"), ("tune", "method/temperature"), ("committee", "teacher/name")):
    for label, paths in (raw.get(section) or {}).items():
      if not isinstance(paths, Mapping):
        raise UserError(f"{section}.{label}={paths!r}: must be a mapping of paths such as {what!r}")


def _check_sections(prefix: str, raw: dict[str, Any]) -> None:
  """Fills and checks the sections that an arm may change, in place."""
  _check_task(prefix, raw["task"])
  starts = raw["start_method"].get("name") != NO_START
  if not starts:
    raw["start_method"], raw["start_train"] = {"name": NO_START}, {}
  for section in ("method", "teacher_method", *(["start_method"] if starts else [])):
    _check_method(f"{prefix}{section}", raw[section])
  for section in ("train", "teacher_train", *(["start_train"] if starts else [])):
    _check_train(f"{prefix}{section}", raw[section])
  for section in ("teacher", "student"):
    name = raw[section].get("name")
    if name not in models.names():
      raise UserError(f"{prefix}{section}.name={name!r}: unknown{near_matches(name, models.names())}")
    check_model(raw[section], f"{prefix}{section}")
  check_known(f"{prefix}targets", raw["targets"], _TARGETS)
  for key, field in _TARGETS.items():
    raw["targets"][key] = checked(f"{prefix}targets.{key}", raw["targets"].get(key), field)
  if raw["targets"]["top_k"] is not None and raw["targets"]["source"] != "cached":
    raise UserError(f"{prefix}targets.top_k={raw['targets']['top_k']}: needs targets.source='cached'")
  for label in raw["targets"]["also"]:
    if label not in (known := raw.get("committee") or {}):
      cure = near_matches(label, known) if known else ", which is empty; name its teachers there"
      raise UserError(f"{prefix}targets.also={raw['targets']['also']}: no teacher {label!r} in committee{cure}")
  if raw["targets"]["stored"] is not None and (raw["targets"]["count"] > 1 or raw["targets"]["also"]):
    raise UserError(f"{prefix}targets.stored={raw['targets']['stored']!r}: stands alone; set count=1 and also=()")
  if raw["targets"]["source"] == "cached" and raw["train"]["augment"] != "none":
    raise UserError(
      f"{prefix}targets.source='cached': stored targets are of images without train.augment="
      f"{raw['train']['augment']!r}; use 'online', or augment='none'"
    )


def _check_task(prefix: str, task: dict[str, Any]) -> None:
  name = task.get("name")
  if name not in catalog.task_names():
    raise UserError(f"{prefix}task.name={name!r}: unknown{near_matches(name, catalog.task_names())}")
  known = catalog.builder_options(catalog.task(name))
  for key in [key for key, value in task.items() if value is None and key not in known]:
    del task[key]  # an option of another task that nobody set
  check_known(f"{prefix}task", task, ["name", *known])
  for key, default in known.items():
    if task.get(key) is None:
      task[key] = default
    _check_like(f"{prefix}task.{key}", task, key, default)


def _check_method(section: str, method: dict[str, Any]) -> None:
  name, students = method.get("name"), [row.name for row in catalog.rows() if row.family == "knowledge"]
  if name not in catalog.names():
    raise UserError(f"{section}.name={name!r}: unknown{near_matches(name, students)}")
  row = catalog.row(name)
  if row.family != "knowledge":
    raise UserError(f"{section}.name={row.name!r}: is of family {row.family}; see --list for those of family knowledge")
  known = row.options()
  check_known(section, method, ["name", *known])
  for key, default in known.items():
    if method.get(key) is None:
      method[key] = default
    _check_like(f"{section}.{key}", method, key, default)


def _check_like(dotted: str, section: dict[str, Any], key: str, default: Any) -> None:
  """An option has the type of its default, and no negative weights, sizes or temperatures."""
  value = section[key]
  if value is None or isinstance(value, list | tuple):
    return
  if default is None:  # an option that may be left out: any plain value, ranges as by name
    kind = float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)
    if kind is float:
      checked(dotted, float(value), Field(float, **_range(key)))
    return
  kind = type(default)
  limits = _range(key) if kind in (int, float) else {}
  section[key] = checked(dotted, value, Field(kind, **limits))


_MAY_BE_ABSENT = ("rotated_size", "junk_size")  # parts of a pool


def _range(key: str) -> dict[str, float]:
  if "temperature" in key or key in ("eps", "epsilon", "sigma"):
    return {"above": 0}
  if key.endswith("_smoothing"):
    return {"low": 0, "high": 1}
  if key.endswith(("_size", "_count")) and key not in _MAY_BE_ABSENT:
    return {"low": 1}
  return {"low": 0}


def _check_train(section: str, train: dict[str, Any]) -> None:
  check_known(section, train, _TRAIN)
  for key, field in _TRAIN.items():
    value = train.get(key)
    train[key] = checked(f"{section}.{key}", TRAIN_DEFAULTS.get(key) if value is None else value, field)
  if train["schedule"] == "step" and not train["milestones"]:
    raise UserError(f"{section}.milestones=(): schedule 'step' needs the epochs at which the rate drops")
  for epoch in train["milestones"]:
    if isinstance(epoch, bool) or not isinstance(epoch, int | float) or epoch <= 0:
      raise UserError(f"{section}.milestones={train['milestones']}: must be epochs above 0, such as (150, 180, 210)")
  if train["warmup_epochs"] >= train["epochs"]:
    raise UserError(f"{section}.warmup_epochs={train['warmup_epochs']}: must be below epochs={train['epochs']}")


def _arms(given: dict[str, Any], raw: dict[str, Any]) -> dict[str, dict]:
  """The method's own arm and the controls, each with its sections whole."""
  controls = given.get("arms") or {}
  own = raw["method"]["name"]
  if own in controls:
    raise UserError(f"arms.{own}: is the name of the method's own arm; call the control something else")
  order = list(given.get("order") or [own, *controls])
  if sorted(order) != sorted([own, *controls]):
    raise UserError(f"order={order}: must name every one of {sorted([own, *controls])} once")
  return {label: _arm(label, controls.get(label, {}), given) for label in order}


def _arm(label: str, overrides: Mapping[str, Any], given: dict[str, Any], room: str = "arms") -> dict[str, Any]:
  out = {section: copy.deepcopy(given[section]) for section in _ARM_SECTIONS}
  for section in ("method", "task", "teacher", "teacher_method", "start_method", "student"):
    name = overrides.get(f"{section}/name")
    if name is not None and name != given[section]["name"]:
      out[section] = {"name": name}  # the options of another name mean nothing to this one
  for dotted, value in overrides.items():
    set_path(out, dotted, value, f"{room}.{label}")
  out["committee"] = given.get("committee")
  _check_sections(f"{room}.{label}: ", out)
  del out["committee"]
  return out


def _committee(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
  """Additional teachers: the sections `teacher`, `teacher_method` and `teacher_train` of each, whole."""
  found = {}
  for label, overrides in (given.get("committee") or {}).items():
    for dotted, value in overrides.items():
      if dotted.partition("/")[0] not in _TEACHER_SECTIONS:
        raise UserError(
          f"committee.{label}.{dotted}={value!r}: a teacher may set {', '.join(f'{s}/KEY' for s in _TEACHER_SECTIONS)}"
        )
    whole = _arm(label, overrides, given, "committee")
    found[label] = {section: whole[section] for section in _TEACHER_SECTIONS}
  return found


def set_path(arm: dict[str, Any], dotted: str, value: Any, where: str) -> None:
  """Sets `section/key` of an arm.

  Raises:
    UserError: there is no such section.
  """
  section, _, key = dotted.partition("/")
  if section not in _ARM_SECTIONS or not key:
    raise UserError(f"{where}.{dotted}={value!r}: an arm may set {', '.join(f'{s}/KEY' for s in _ARM_SECTIONS)}")
  arm[section][key] = value


def combinations(
  arm: Mapping[str, Any], grid: Mapping[str, list], where: str = "tune"
) -> list[tuple[dict[str, Any], dict]]:
  """All combinations of a grid, as `(what is set, the whole arm)`; `where` is for messages."""
  out = []
  for values in itertools.product(*grid.values()):
    one = copy.deepcopy(dict(arm))
    chosen = dict(zip(grid, values, strict=True))
    for dotted, value in chosen.items():
      set_path(one, dotted, value, where)
    one["committee"] = dict.fromkeys(one["targets"]["also"])  # it was checked with the arm
    _check_sections(f"{where}: ", one)
    del one["committee"]
    out.append((chosen, one))
  return out


def _grids(raw: dict[str, Any]) -> dict[str, dict[str, list]]:
  grids = {}
  for label, grid in (raw.get("tune") or {}).items():
    if label not in raw["arms"]:
      raise UserError(f"tune.{label}: no such arm{near_matches(label, raw['arms'])}")
    grids[label] = {dotted: list(v) if isinstance(v, list | tuple) else [v] for dotted, v in grid.items()}
    if not grid:
      raise UserError(f"tune.{label}: empty; give keys and their values, or leave the arm out")
    for dotted, values in grids[label].items():
      if not values:
        raise UserError(f"tune.{label}.{dotted}: empty; give at least one value")
      if dotted.partition("/")[0] in (*_TEACHER_SECTIONS, "task") or dotted in _FIXED_TARGETS:
        raise UserError(f"tune.{label}.{dotted}: teachers and data are not searched; give every one of them an arm")
    combinations(raw["arms"][label], grids[label], f"tune.{label}")  # refuses what an arm would refuse
  return grids


def _check_together(raw: dict[str, Any]) -> None:
  for stage in raw["stages"]:
    if stage not in STAGES:
      raise UserError(f"stages: unknown stage {stage!r}{near_matches(stage, STAGES)}")
  if [s for s in STAGES if s in raw["stages"]] != raw["stages"]:
    raise UserError(f"stages={raw['stages']}: must be in the order {', '.join(STAGES)}, each at most once")
  if raw["reference"] is not None and raw["reference"] not in raw["arms"]:
    raise UserError(f"reference={raw['reference']!r}: no such arm{near_matches(raw['reference'], raw['arms'])}")
