"""Many runs of one experiment as one: groups x series x seeds, one table and one figure.

A configuration with a section `sweep` is such an experiment:

    sweep.groups = {"IPC 1": {"ipc": 1}, ...}                          the figure's x axis, by the numbers in names
    sweep.series = {"early": {"method/max_start_epoch": 3}, ...}       its bars
    sweep.order = ("early", ...)                                       their order (a ConfigDict sorts its keys)
    sweep.seeds = (0, 1, 2)                                            independent repetitions
    sweep.bases = {"early": {...}, ...}                                whole experiments, where series differ in more

Each cell is an ordinary run in `cells/` of the work directory with the overrides of its group and series (keys with `/`
for `.`, and `"arms/NAME/train/lr"` for what an arm sets itself); cells share teachers, resume and are skipped like any
run. A cell that fails is told and the others go on.

A series with a base is an experiment of its own: its method, tables of settings and sections. What is set in the
configuration around the sweep, such as the data set or the section `eval`, holds for all of them.
"""

import copy
import functools
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jdistill.base import UserError
from jdistill.config import checked_order, flat_keys
from jdistill.files import disk_errors
from jdistill.reporting import duration, restart_peak_memory
from jdistill.runs import locked
from jdistill.runs.workdir import Interrupted
from jdistill.schema import Field, check_known, checked, near_matches
from jdistill.stages import sweep_report
from jdistill.stages.report import failures
from jdistill.training import distributed


class Cell(NamedTuple):
  """One run of the grid."""

  group: str
  series: str
  seed: int
  config: dict

  @property
  def name(self) -> str:
    return f"{file_name(f'{self.group}-{self.series}')}-seed{self.seed}"


def cells(experiment: Mapping[str, Any]) -> list[Cell]:
  """The configurations of an experiment with a section `sweep`, not yet resolved.

  Raises:
    UserError: an empty axis, or an override of a key that is not there.
  """
  raw = experiment.to_dict() if hasattr(experiment, "to_dict") else copy.deepcopy(dict(experiment))
  sweep = raw.pop("sweep")
  seeds, bases = _checked_axes(sweep), sweep.get("bases") or {}
  order = checked_order("sweep.order", sweep.get("order"), list(sweep["series"]))
  out = []
  for seed in seeds:
    for group, group_values in _in_order(sweep["groups"]):
      for index, series in enumerate(order):
        config = _based(bases[series], raw) if series in bases else copy.deepcopy(raw)
        config["seed"] = seed
        # controls do not depend on the series: once per group and seed is enough
        if index and not bases and "eval" in config:
          config["eval"]["sets"] = ("distilled",)
        _override(config, {**group_values, **sweep["series"][series]})
        out.append(Cell(group, series, seed, config))
  return out


def _in_order(groups: Mapping[str, Mapping]) -> list[tuple[str, Mapping]]:
  """'IPC 5' before 'IPC 10', which a ConfigDict sorts as text; names that differ in more stay as they are."""
  items, number = list(groups.items()), re.compile(r"\d+(?:\.\d+)?")
  if len({number.sub("", name) for name, _ in items}) > 1:
    return items
  return sorted(items, key=lambda item: [float(found) for found in number.findall(item[0])])


def _checked_axes(sweep: Any) -> list[int]:
  """The seeds of a sweep whose axes have the right form."""
  if not isinstance(sweep, Mapping):
    raise UserError(f"sweep={sweep!r}: must be a section with groups, series and seeds")
  check_known("sweep", sweep, ("groups", "series", "seeds", "order", "bases"))
  for axis in ("groups", "series", "seeds"):
    if not sweep.get(axis):
      raise UserError(f"sweep.{axis}: empty; a sweep needs at least one entry")
  for axis in ("groups", "series"):
    if not isinstance(sweep[axis], Mapping):
      raise UserError(f"sweep.{axis}={sweep[axis]!r}: must be a mapping of names")
    for name, values in sweep[axis].items():
      if not name.strip() or not name.isprintable() or re.search(r"[/\\]|\.\.", name):
        raise UserError(f"sweep.{axis}: {name!r} is no name; give one without line breaks, '/' and '..'")
      if not isinstance(values, Mapping):
        raise UserError(f"sweep.{axis}.{name}={values!r}: must be a mapping of paths such as 'method/image_lr'")
  _check_bases(sweep)
  seeds = checked("sweep.seeds", sweep["seeds"], Field(tuple, item=Field(int, low=0, high=2**31 - 1)))
  if len(set(seeds)) < len(seeds):
    raise UserError(f"sweep.seeds={seeds}: names one of them twice; name each once")
  names = {file_name(f"{group}-{series}") for group in sweep["groups"] for series in sweep["series"]}
  if len(names) < len(sweep["groups"]) * len(sweep["series"]):
    raise UserError("sweep: two groups or series have names that differ in nothing but punctuation; rename one")
  return seeds


def _check_bases(sweep: Mapping[str, Any]) -> None:
  bases = sweep.get("bases") or {}
  if not isinstance(bases, Mapping):
    raise UserError(f"sweep.bases={bases!r}: must be a mapping of series to whole configurations")
  for name, base in bases.items():
    if name not in sweep["series"]:
      raise UserError(f"sweep.bases.{name}: no such series{near_matches(name, sweep['series'])}")
    if not isinstance(base, Mapping) or not isinstance(base.get("method"), Mapping):
      raise UserError(f"sweep.bases.{name}: must be a whole configuration with a section method")


def _based(base: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
  """A series' own experiment with what is set for all of them; what is open in `common` (`None`) stays the base's.

  Raises:
    UserError: an option of a method, which belongs to a series, or a section that the base does not have.
  """
  config = copy.deepcopy(dict(base))
  own = {key: value for key, value in common["method"].items() if key != "name" and value is not None}
  if own:
    key = next(iter(own))
    raise UserError(f"method.{key}={own[key]!r}: methods differ here; set it in sweep.series as 'method/{key}'")
  shared = {key: value for key, value in common.items() if key not in ("method", "auto", "name", "stages")}
  for key, value in shared.items():
    if isinstance(value, Mapping):
      given = {name: one for name, one in value.items() if one is not None}
      if given and not isinstance(config.get(key), Mapping):
        raise UserError(f"{key}.{next(iter(given))}: {config['name']} has no section {key}; set it in sweep.series")
      if given:
        config[key] = {**config[key], **given}
    elif value is not None:
      config[key] = value
  return config


def file_name(text: str) -> str:
  """A name of the user's as a part of a file name."""
  name = re.sub(r"[^\w.+-]+", "_", text.lower().replace(" ", "")).strip(".") or "_"
  if len(name.encode()) > 200:
    raise UserError(f"sweep: {text[:40]!r}...: becomes a part of file names; choose a shorter name")
  return name


def _override(config: dict[str, Any], values: Mapping[str, Any]) -> None:
  for dotted, value in values.items():
    section, last = config, dotted
    # keys of arms have a '/' of their own
    while isinstance(section, Mapping) and last not in section and "/" in last:
      name, _, rest = last.partition("/")
      section, last = section.get(name, {}), rest
    if not isinstance(section, Mapping) or last not in section:
      known = [key.replace(".", "/") for key in flat_keys(config)]
      raise UserError(f"sweep: {dotted}={value!r}: the configuration has no such key{near_matches(dotted, known)}")
    section[last] = value


def prepare(experiment: Mapping[str, Any], resolve: Callable[[dict], Mapping]) -> tuple[list[Cell], str]:
  """The cells of a sweep, every one of them checked by `jdistill.stages.resolve`, and the sweep's name.

  Raises:
    UserError: a mistake in any of them, or stages without anything to compare.
  """
  grid = cells(experiment)
  resolved = []
  for cell in grid:
    try:
      resolved.append(resolve(cell.config))
    except UserError as error:
      raise UserError(f"sweep, {cell.group}, {cell.series}: {error}") from error
  chosen = resolved[0]["stages"]
  if "report" not in chosen or not {"evaluate", "transfer", "students"} & set(chosen):
    raise UserError(f"stages={chosen}: a sweep compares results; it needs evaluate, transfer or students, and report")
  return grid, experiment.get("name") or resolved[0]["name"]


def run(
  grid: list[Cell], name: str, workdir: Path, run_cell: Callable[[dict, Path, Any], Mapping[str, Any]], stream: Any
) -> Mapping[str, Any]:
  """Runs all cells and writes `summary.json`, the figure, `report.md` and `report.html`.

  `name` is that of the experiment. `run_cell`, `(configuration, work directory, stream) -> summary`, is an ordinary
  run.
  """
  distributed.on_first(lambda: _check(workdir))
  with locked.directory(workdir):
    return _run(grid, name, workdir, run_cell, stream)


def _run(grid: list[Cell], name: str, workdir: Path, run_cell: Callable, stream: Any) -> Mapping[str, Any]:
  show = functools.partial(print, file=stream, flush=True) if distributed.is_writer() else lambda line: None
  results: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
  failed: dict[str, str] = {}
  for number, cell in enumerate(grid, 1):
    begin = time.monotonic()
    restart_peak_memory()  # of this run, with what others have left
    directory = workdir / "cells" / cell.name
    show(f"run {number}/{len(grid)}: {cell.group}, {cell.series}, seed {cell.seed}: log in {directory}.log")
    directory.parent.mkdir(parents=True, exist_ok=True)
    log_file = f"{directory}.log" if distributed.is_writer() else os.devnull
    with disk_errors(log_file), open(log_file, "a", encoding="utf-8") as log:
      try:
        summary = run_cell(cell.config, directory, log)
      except Interrupted as stop:
        raise Interrupted(f"run {number} of {len(grid)}: {stop}") from stop
      except UserError as error:
        failed[cell.name] = str(error)
        show(f"  failed: {error}")
        continue
    results.setdefault((cell.group, cell.series), {})[cell.seed] = summary
    failed |= {f"{cell.name}, {label}": message for label, message in failures(summary).items()}
    show(f"  {sweep_report.line(summary)}, in {duration(time.monotonic() - begin)}")
  if not results:
    raise UserError(f"sweep: every run failed; the first one: {next(iter(failed.values()))}")
  return distributed.on_first(lambda: sweep_report.write(name, results, failed, workdir, show))


def _check(workdir: Path) -> None:
  if workdir.exists() and not workdir.is_dir():
    raise UserError(f"--workdir={workdir} is a file; choose another")
  if not locked.is_new(workdir) and not (workdir / "cells").is_dir():
    raise UserError(f"--workdir={workdir} is not empty and not that of a sweep; choose another")
