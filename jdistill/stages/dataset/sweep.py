"""Many runs of one experiment as one: groups x series x seeds, one table and one figure.

A configuration with a section `sweep` is such an experiment:

    sweep.groups = {"IPC 1": {"ipc": 1}, ...}                          the figure's x axis
    sweep.series = {"early": {"method/max_start_epoch": 3}, ...}       its bars
    sweep.order = ("early", ...)                                       their order (a ConfigDict sorts its keys)
    sweep.seeds = (0, 1, 2)                                            independent repetitions

Each cell is an ordinary run in `cells/` of the work directory with the overrides of its group and series (keys with `/`
for `.`); cells share experts, resume and are skipped like any run.
"""

import copy
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jdistill.base import UserError
from jdistill.files import read_json, write_json
from jdistill.reporting import Section, duration, environment, format_table, grouped_bars, mean_std, write_report
from jdistill.stages.context import Interrupted
from jdistill.training import distributed

_CONTROLS = {"random_hard": "random real, hard labels", "random_soft": "random real, soft labels"}


class Cell(NamedTuple):
  """One run of the grid."""

  group: str
  series: str
  seed: int
  config: dict

  @property
  def name(self) -> str:
    return f"{self.group}-{self.series}-seed{self.seed}".lower().replace(" ", "")


def cells(experiment: Mapping[str, Any]) -> list[Cell]:
  """The configurations of a sweep, not yet resolved.

  Raises:
    UserError: an empty axis, or an override of a key that is not there.
  """
  raw = experiment.to_dict() if hasattr(experiment, "to_dict") else copy.deepcopy(dict(experiment))
  sweep = raw.pop("sweep")
  for axis in ("groups", "series", "seeds"):
    if not sweep.get(axis):
      raise UserError(f"sweep.{axis}: empty; a sweep needs at least one entry")
  order = list(sweep.get("order") or sweep["series"])
  if sorted(order) != sorted(sweep["series"]):
    raise UserError(f"sweep.order={order}: must name every one of {sorted(sweep['series'])} once")
  out = []
  for seed in sweep["seeds"]:
    for group, group_values in sweep["groups"].items():
      for index, series in enumerate(order):
        series_values = sweep["series"][series]
        config = copy.deepcopy(raw)
        config["seed"] = int(seed)
        if index:  # the controls do not depend on the series: once per group and seed is enough
          config["eval"]["sets"] = ("distilled",)
        for dotted, value in {**group_values, **series_values}.items():
          *path, last = dotted.split("/")
          section = config
          for name in path:
            section = section.get(name, {})
          if last not in section:
            raise UserError(f"sweep: {dotted}={value!r}: the configuration has no such key")
          section[last] = value
        out.append(Cell(group, series, int(seed), config))
  return out


def run(
  grid: list[Cell], workdir: Path, run_cell: Callable[[dict, Path, Any], Mapping[str, Any]], say: Callable[[str], None]
) -> Mapping[str, Any]:
  """Runs all cells and writes `summary.json`, the figure, `report.md` and `report.html`.

  Args:
    grid: from `cells`.
    workdir: the sweep's directory.
    run_cell: `(configuration, work directory, stream) -> summary`, an ordinary run.
    say: prints a line.
  """
  results: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
  for number, cell in enumerate(grid, 1):
    begin = time.monotonic()
    directory = workdir / "cells" / cell.name
    say(f"run {number}/{len(grid)}: {cell.group}, {cell.series}, seed {cell.seed}: log in {directory}.log")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{directory}.log" if distributed.is_writer() else os.devnull, "a", encoding="utf-8") as log:
      try:
        summary = run_cell(cell.config, directory, log)
      except Interrupted as stop:
        raise Interrupted(f"run {number} of {len(grid)}: {stop}") from stop
    results.setdefault((cell.group, cell.series), []).append(summary)
    say(
      f"  accuracy {summary['accuracy_mean']:.3f}, accepted {100 * summary['accepted_share']:.0f}%, "
      f"in {duration(time.monotonic() - begin)}"
    )
  return distributed.lead(lambda: report(grid, results, workdir, say))


def report(grid: list[Cell], results: Mapping, workdir: Path, say: Callable[[str], None]) -> Mapping[str, Any]:
  """The sweep's table, figure and files."""
  groups = list(dict.fromkeys(cell.group for cell in grid))
  series = list(dict.fromkeys(cell.series for cell in grid))
  means = {key: [summary["accuracy_mean"] for summary in value] for key, value in results.items()}
  controls = {
    name: {g: [s["controls"][name]["accuracy_mean"] for s in results[g, series[0]]] for g in groups}
    for name in _CONTROLS
    if all(name in s["controls"] for g in groups for s in results[g, series[0]])
  }
  rows = []
  for group in groups:
    for name in series:
      accepted = np.mean([summary["accepted_share"] for summary in results[group, name]])
      rows.append([group, name, mean_std(means[group, name]), f"{100 * accepted:.0f}%"])
    rows += [[group, _CONTROLS[name], mean_std(values[group]), ""] for name, values in controls.items()]
  headers = ["group", "run", "test accuracy", "accepted steps"]
  best = {group: max(series, key=lambda name, g=group: float(np.mean(means[g, name]))) for group in groups}
  verdict = "; ".join(f"{group}: {name} is best" for group, name in best.items())
  figure = workdir / "figure.png"
  bars = {
    name: (
      [float(np.mean(means[g, name])) for g in groups],
      [float(np.std(means[g, name], ddof=1)) if len(means[g, name]) > 1 else 0.0 for g in groups],
    )
    for name in series
  }
  lines = {_CONTROLS[name]: [float(np.mean(values[g])) for g in groups] for name, values in controls.items()}
  grouped_bars(figure, groups, bars, "test accuracy", controls=lines)
  seeds = len({cell.seed for cell in grid})
  text = (
    f"{verdict}.\n\nMean ± standard deviation over {seeds} independent repetitions (experts, distillation and "
    "evaluation anew), each the mean over its evaluation networks. 0% accepted means that nothing was learned and the "
    "set is its initialisation."
  )
  known = [[key, str(value)] for key, value in environment().items()]
  write_report(
    workdir,
    grid[0].config["name"],
    [
      Section("Result", text, (headers, rows), [("accuracy by group and series", figure)]),
      Section("Environment", table=(["what", "value"], known)),
    ],
  )
  summary = {
    "best": best,
    "accuracies": {group: {name: means[group, name] for name in series} for group in groups},
    "accepted_share": {
      group: {name: [s["accepted_share"] for s in results[group, name]] for name in series} for group in groups
    },
    "controls": controls,
  }
  write_json(workdir / "summary.json", summary)
  say("\n" + format_table(headers, rows) + f"\n{verdict}\nfigure: {figure}; report: {workdir / 'report.html'}")
  return read_json(workdir / "summary.json")
