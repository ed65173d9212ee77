"""Many runs of one experiment as one: groups x series x seeds, one table and one figure.

A configuration with a section `sweep` is such an experiment:

    sweep.groups = {"IPC 1": {"ipc": 1}, ...}                          the figure's x axis
    sweep.series = {"early": {"method/max_start_epoch": 3}, ...}       its bars
    sweep.order = ("early", ...)                                       their order (a ConfigDict sorts its keys)
    sweep.seeds = (0, 1, 2)                                            independent repetitions

Each cell is an ordinary run in `cells/` of the work directory with the overrides of its group and series (keys with `/`
for `.`); cells share experts and teachers, resume and are skipped like any run. What is told of a finished cell, and
the closing report, are the family's: `jdistill.stages.dataset.compare` and `jdistill.stages.knowledge.compare`.
"""

import copy
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jdistill.base import UserError
from jdistill.reporting import duration
from jdistill.stages.context import Interrupted
from jdistill.training import distributed


class Cell(NamedTuple):
  """One run of the grid."""

  group: str
  series: str
  seed: int
  config: dict

  @property
  def name(self) -> str:
    return f"{self.group}-{self.series}-seed{self.seed}".lower().replace(" ", "")


class Comparison(NamedTuple):
  """What a family of methods makes of many runs.

  Attributes:
    needs: stages that every run must have.
    what: what is compared, for the message about a missing stage.
    again: `(configuration) -> None`, takes out in place what need not be done in any but the first series.
    line: `(summary) -> str` about a finished run.
    report: `(cells, {(group, series): summaries}, work directory, say) -> summary of the sweep`.
  """

  needs: tuple[str, ...]
  what: str
  again: Callable[[dict], None]
  line: Callable[[Mapping[str, Any]], str]
  report: Callable[..., Mapping[str, Any]]


def cells(experiment: Mapping[str, Any], again: Callable[[dict], None] = lambda config: None) -> list[Cell]:
  """The configurations of a sweep, not yet resolved.

  Args:
    experiment: with a section `sweep`.
    again: `Comparison.again`.

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
        if index:
          again(config)
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
  grid: list[Cell],
  comparison: Comparison,
  workdir: Path,
  run_cell: Callable[[dict, Path, Any], Mapping[str, Any]],
  say: Callable[[str], None],
) -> Mapping[str, Any]:
  """Runs all cells and writes `summary.json`, the figure, `report.md` and `report.html`.

  Args:
    grid: from `cells`.
    comparison: of the family.
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
    say(f"  {comparison.line(summary)}, in {duration(time.monotonic() - begin)}")
  return distributed.lead(lambda: comparison.report(grid, results, workdir, say))
