"""What a configuration of data-set distillation may say."""

from collections.abc import Mapping
from typing import Any

from jdistill import catalog, models
from jdistill.base import UserError
from jdistill.bilevel import ROUTES
from jdistill.catalog import near_matches
from jdistill.config.fields import Field, check_known, check_model, checked
from jdistill.config.parallel import PARALLEL, fill_parallel
from jdistill.data.checks import require_per_class
from jdistill.files import parse_bytes
from jdistill.teachers import check_bounds

STAGES = ("experts", "distill", "evaluate", "export", "report")
PER_PIXEL = ("segnet",)
SETS = ("distilled", "random_hard", "random_soft", "initial", "full_data")


_TOP = {
  "name": Field(str),
  "seed": Field(int, low=0, high=2**31 - 1),
  "dataset": Field(str),
  "data_dir": Field(str, optional=True),
  "train_size": Field(int, low=1, optional=True),
  "test_size": Field(int, low=1, optional=True),
  "preprocessing": Field(str, choices=("none", "standardize", "channel", "zca")),
  "ipc": Field(int, low=1),
  "steps": Field(int, low=1),
  "log_every": Field(int, low=1),
  "snapshot_every": Field(int, low=1, optional=True),
  "checkpoint_seconds": Field(float, low=0),
  "tensorboard": Field(bool),
  "memory_limit": Field(str, optional=True),
  "stages": Field(tuple),
}
_EXPERTS = {
  "count": Field(int, low=1),
  "epochs": Field(int, low=1),
  "batch_size": Field(int, low=1),
  "lr": Field(float, above=0),
  "momentum": Field(float, low=0, high=0.999),
  "weight_decay": Field(float, low=0),
  "rho": Field(float, low=0),
  "alpha": Field(float, low=0),
  "adaptive": Field(bool),
  "augment": Field(str),
}
_EVAL = {
  "seeds": Field(int, low=1),
  "epochs": Field(int, low=1),
  "batch_size": Field(int, low=1),
  "momentum": Field(float, low=0, high=0.999),
  "weight_decay": Field(float, low=0),
  "augment": Field(str),
  "models": Field(tuple),
  "sets": Field(tuple),
  "control_lrs": Field(tuple),
  "full_epochs": Field(int, low=1),
  "full_lr": Field(float, above=0),
  "full_batch_size": Field(int, low=1),
}
_METHOD = {
  "inner_steps": Field(int, low=1),
  "batch_size": Field(int, low=1, optional=True),
  "learn_labels": Field(bool),
  "threshold": Field(float, above=0, optional=True),
  "image_lr": Field(float, low=0),
  "image_momentum": Field(float, low=0, high=0.999),
  "label_lr": Field(float, low=0),
  "label_momentum": Field(float, low=0, high=0.999),
  "lr_lr": Field(float, low=0),
  "lr_momentum": Field(float, low=0, high=0.999),
  "ema_decay": Field(float, low=0, high=1, optional=True),
  "gradient": Field(str, choices=("auto", *ROUTES)),
  "window": Field(int, low=1, optional=True),
  "chunk_size": Field(int, low=1, optional=True),
  "initial": Field(str, choices=("correct", "real")),
  "labels": Field(str, choices=("soft", "hard")),
  "lr_init": Field(float, above=0),
  "expert_epochs": Field(int, low=1),
  "min_start_epoch": Field(int, low=0),
  "current_start_epoch": Field(int, low=0, optional=True),
  "max_start_epoch": Field(int, low=1),
  "schedule_steps": Field(int, low=1),
  "augment": Field(str),
}
_SECTIONS = {"experts": _EXPERTS, "eval": _EVAL, "parallel": PARALLEL}


def resolve(raw: dict[str, Any]) -> dict[str, Any]:
  """`jdistill.config.resolve` for this family.

  Keys that are `None` are filled from `config.auto`, a table of published or tested settings: `auto[DATASET][IPC]`
  with dotted keys, of the largest listed ipc that does not exceed the wanted one (else the smallest), on top of
  `auto[DATASET]["*"]` on top of `auto["*"]["*"]`. A data set that is not listed takes its rows from `auto["*"]`. What
  the user has set is never touched.
  """
  auto = raw.pop("auto", {}) or {}
  fill_parallel(raw)
  check_known("", raw, [*_TOP, "method", "model", *_SECTIONS])
  for section in ("method", "model", *_SECTIONS):
    if not isinstance(raw.get(section), dict):
      raise UserError(f"{section}: missing; an experiment's configuration needs this section")
  row = catalog.row(raw["method"].get("name"))
  if not isinstance(raw.get("dataset"), str) or not raw["dataset"]:
    raise UserError(f"dataset={raw.get('dataset')!r}: must be the name of a data set, an .npz file or a folder")
  ipc = checked("ipc", raw.get("ipc"), _TOP["ipc"])
  name = raw["model"].get("name")
  if name not in models.names():
    raise UserError(f"model.name={name!r}: unknown{near_matches(name, models.names())}")
  _fill(raw, auto, raw["dataset"], ipc)
  check_known("method", raw["method"], ["name", *row.options()])
  for key, value in row.options().items():
    if raw["method"].get(key) is None:
      raw["method"][key] = value
  check_model(raw["model"])
  for key, field in _TOP.items():
    raw[key] = checked(key, raw.get(key), field)
  for section, fields in _SECTIONS.items():
    check_known(section, raw[section], fields)
    for key, field in fields.items():
      raw[section][key] = checked(f"{section}.{key}", raw[section].get(key), field)
  for key in row.options():
    raw["method"][key] = checked(f"method.{key}", raw["method"][key], _METHOD[key])
  _check_together(raw)
  return raw


def _fill(raw: dict, auto: Mapping, dataset: str, ipc: int) -> None:
  """Fills what is `None` from the tables, the most specific table first."""
  own = auto.get(dataset) or {key: value for key, value in auto.get("*", {}).items() if key != "*"}
  listed = sorted(int(key) for key in own if key != "*")
  fitting = [value for value in listed if value <= ipc] or listed[:1]
  tables = [own[str(fitting[-1])]] if fitting else []
  tables += [own.get("*", {}), auto.get("*", {}).get("*", {})]
  for table in tables:
    for dotted, value in table.items():
      *path, last = dotted.split("/")
      section = raw
      for name in path:
        section = section[name]
      if path == ["model"] and last not in models.options(raw["model"]["name"]):
        continue  # the table speaks of another network
      if section.get(last) is None:
        section[last] = value


def _check_together(raw: dict) -> None:
  method, experts, evaluation = raw["method"], raw["experts"], raw["eval"]
  for stage in raw["stages"]:
    if stage not in STAGES:
      raise UserError(f"stages: unknown stage {stage!r}{near_matches(stage, STAGES)}")
  if [s for s in STAGES if s in raw["stages"]] != raw["stages"]:
    raise UserError(f"stages={raw['stages']}: must be in the order {', '.join(STAGES)}, each at most once")
  for name in evaluation["models"]:
    if name not in models.names():
      raise UserError(f"eval.models: unknown network {name!r}{near_matches(name, models.names())}")
    if name in PER_PIXEL:
      raise UserError(f"eval.models: {name!r} classifies pixels; name networks that classify images")
  if not evaluation["models"]:
    raise UserError("eval.models: empty; name at least one network, such as 'convnet'")
  for name in evaluation["sets"]:
    if name not in SETS:
      raise UserError(f"eval.sets: unknown set {name!r}{near_matches(name, SETS)}")
  if "distilled" not in evaluation["sets"]:
    raise UserError(f"eval.sets={evaluation['sets']}: must contain 'distilled'")
  for value in evaluation["control_lrs"]:
    if not isinstance(value, int | float) or value <= 0:
      raise UserError(f"eval.control_lrs: {value!r} is not a learning rate; give numbers above 0")
  if not evaluation["control_lrs"]:
    raise UserError("eval.control_lrs: empty; give at least one learning rate")
  if raw["model"]["name"] in PER_PIXEL:
    raise UserError(f"model.name={raw['model']['name']!r}: classifies pixels; name a network that classifies images")
  if raw["model"].get("norm") == "batch" or raw["model"]["name"].endswith("_bn"):
    key = "name" if raw["model"]["name"].endswith("_bn") else "norm"
    cure = "running statistics have no place in a matched trajectory; use 'instance' or 'group'"
    raise UserError(f"model.{key}={raw['model'][key]!r}: {cure}")
  if method["learn_labels"] and method["labels"] == "hard":
    raise UserError("method.learn_labels=True: hard labels cannot be learned; set method.labels='soft'")
  if raw["memory_limit"] is not None:
    try:
      parse_bytes(raw["memory_limit"])
    except ValueError as error:
      raise UserError(f"memory_limit: {error}") from error
  how = raw["parallel"]
  if (how["data"] or 1) > 1 and how["route"] != "jit" and method["gradient"] in ("full", "remat"):
    raise UserError(
      f"method.gradient={method['gradient']!r}: cannot spread a batch over parallel.data={how['data']} devices with "
      f"parallel.route={how['route']!r}; set method.gradient='mixed', or parallel.route='jit'"
    )
  window, steps = method["window"], method["inner_steps"]
  if method["gradient"] == "truncated" and (window is None or window > steps):
    raise UserError(
      f"method.window={window}: gradient 'truncated' needs how many of the {steps} inner steps it goes back, 1..{steps}"
    )
  check_bounds(
    epochs=experts["epochs"],
    **{
      key: method[key]
      for key in ("min_start_epoch", "current_start_epoch", "max_start_epoch", "schedule_steps", "expert_epochs")
    },
  )


def check_against_data(raw: Mapping[str, Any], dataset) -> None:
  """Refuses what only the data can refute: too few images for `ipc`, batches larger than the set."""
  require_per_class(dataset, raw["ipc"], "ipc")
  size, total = raw["experts"]["batch_size"], len(dataset.train_y)
  if size > total:
    raise UserError(f"experts.batch_size={size}: larger than the {total} training images; lower it")
