"""Stage `calibrate`: measures, on training data alone, values that nobody set, before the long part of a run."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jdistill import catalog, schema
from jdistill.base import UserError
from jdistill.calibration import Calibration, Lab
from jdistill.config import Declared, Plain
from jdistill.files import parse_seconds, write_json
from jdistill.reporting import Section
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.stages import build
from jdistill.stages.stage import Part, Stage

_LIMIT = 600.0  # seconds of a run whose user set none


class Keys(NamedTuple):
  """Keys at the top."""

  time_limit: str | None = None


class Which(NamedTuple):
  """What is measured.

  Attributes:
    enabled: whether anything is.
    keys: paths such as `method/image_lr`; empty for all that nobody set.
  """

  enabled: bool = False
  keys: tuple[str, ...] = ()


def calibration_of(name: str) -> Calibration | None:
  """The calibration of a method."""
  path = catalog.row(name).calibration
  return catalog.load(path) if path else None


def _opened(untouched: Mapping[str, Any], out: dict[str, Any]) -> None:
  """Writes into the configuration which values are measured."""
  which, known = out["calibration"], calibration_of(out["method"]["name"])
  if not which["enabled"]:
    which["keys"] = []
    others = [name for name in out["stages"] if name != "calibrate"]
    out["stages"] = others or out["stages"]
    return
  unknown = [path for path in which["keys"] if path not in known.paths]
  if unknown:
    raise UserError(f"calibration.keys: {unknown[0]!r} cannot be measured; choose from {', '.join(known.paths)}")
  which["keys"] = which["keys"] or [path for path in known.paths if _is_open(untouched, out, path)]


def _is_open(untouched: Mapping[str, Any], out: Mapping[str, Any], path: str) -> bool:
  """Whether nobody set a value; a name is open where nobody set an option of its section either."""
  section, _, key = path.rpartition("/")
  if section == "model" and key not in out[section]:
    return False  # another network has it
  if key == "name":
    return all(value is None for other, value in (untouched.get(section) or {}).items() if other != "name")
  return value_of(untouched, path) is None


def value_of(config: Mapping[str, Any], path: str) -> Any:
  """What stands at `"section/key"`; `None` where nothing does."""
  section, _, key = path.rpartition("/")
  return ((config.get(section) or {}) if section else config).get(key)


def _complete(given: Mapping[str, Any], out: dict[str, Any]) -> None:
  if out["time_limit"] is not None:
    try:
      parse_seconds(out["time_limit"])
    except ValueError as error:
      raise UserError(f"time_limit: {error}") from error


def _run(run: Run) -> None:
  begin, which = time.monotonic(), run.config["calibration"]
  choices = on_first(lambda: [tuple(one) for one in _choose(run)]) if which["enabled"] else []
  run.finish("calibrate", begin, choices=choices)


def _choose(run: Run):
  c, task = run.config, run.task()
  limit = c["time_limit"]
  seconds = _LIMIT if limit is None else parse_seconds(limit)
  run.log(f"calibrate: on {len(task.teacher.y):,} training images, for a run of about {seconds / 60:.0f} min")

  lab = Lab(
    x=task.teacher.x,
    y=task.teacher.y,
    num_classes=task.num_classes,
    ipc=c["ipc"],
    seed=c["seed"],
    seconds=seconds,
    network=lambda options: run.network(c["model"] | dict(options)),
    start=lambda **options: build.part(run, "start", **options),
    value=lambda path: value_of(c, path),
    is_open=lambda path: path in c["calibration"]["keys"],
    log=run.log,
  )
  return calibration_of(c["method"]["name"]).choose(lab)


def adopt(run: Run, resolve: Callable[[Mapping[str, Any]], dict[str, Any]]) -> bool:
  """Gives a run the values that its stage `calibrate` chose, and stores them in `config.json`.

  Args:
    run: the run, whose configuration changes.
    resolve: checks a configuration and fills it in.

  Returns:
    Whether anything changed.
  """
  record = run.finished("calibrate")
  if record is None or not record["choices"]:
    return False
  raw = {key: dict(value) if isinstance(value, Mapping) else value for key, value in run.config.items()}
  names = {path.rpartition("/")[0] for path, _, _ in record["choices"] if path.endswith("/name")}
  for name in names:
    raw[name] = {}  # the options of the former name
  for path, value, _ in record["choices"]:
    section, _, key = path.rpartition("/")
    (raw[section] if section else raw)[key] = value
  for name, section in run.config.items():  # such as the teacher, which is as the model
    if name != "model" and section == run.config["model"]:
      raw[name] = dict(raw["model"])
  run.config.update(resolve(raw))
  on_first(lambda: write_json(run.workdir / "config.json", run.config))
  return True


def _plan(run: Run) -> list[tuple[str, ...]]:
  which = run.config["calibration"]
  if not which["enabled"]:
    return []
  return [
    (f"measures {len(which['keys'])} values before the rest, which is planned with the values it starts from", "")
  ]


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  if not record["choices"]:
    return Part()
  rows = [[path.replace("/", "."), str(value), reason] for path, value, reason in record["choices"]]
  text = "Measured on training images before the run; a value that is set is not measured."
  values = {path: value for path, value, _ in record["choices"]}
  return Part({"calibrated": values}, sections=[Section("Calibration", text, (("key", "value", "why"), rows))])


STAGE = Stage(
  "calibrate",
  _run,
  Declared(schema.fields(Keys), {"calibration": Plain(schema.fields(Which))}, complete=_complete, opened=_opened),
  plan=_plan,
  report=_report,
)
