"""Many runs of one experiment as one: groups x series x seeds, one table and one figure.

A configuration with a section `sweep` is such an experiment:

    sweep.groups = {"IPC 1": {"ipc": 1}, ...}                          the figure's x axis
    sweep.series = {"early": {"method/max_start_epoch": 3}, ...}       its bars
    sweep.order = ("early", ...)                                       their order (a ConfigDict sorts its keys)
    sweep.seeds = (0, 1, 2)                                            independent repetitions

Each cell is an ordinary run in `cells/` of the work directory with the overrides of its group and series (keys with `/`
for `.`); cells share teachers, resume and are skipped like any run. A cell that fails is told and the others go on.
"""

import copy
import functools
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jdistill.base import UserError
from jdistill.config import checked_order, flat_keys
from jdistill.files import disk_errors, read_json, write_json
from jdistill.reporting import Section, comparison, duration, environment, format_table, write_report
from jdistill.schema import Field, check_known, checked, near_matches
from jdistill.stages import locked
from jdistill.stages.report import failed_section, failures, flatten
from jdistill.stages.workdir import Interrupted
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
  seeds = _checked_axes(sweep)
  order = checked_order("sweep.order", sweep.get("order"), list(sweep["series"]))
  out = []
  for seed in seeds:
    for group, group_values in sweep["groups"].items():
      for index, series in enumerate(order):
        config = copy.deepcopy(raw) | {"seed": seed}
        if index and "eval" in config:  # controls do not depend on the series: once per group and seed is enough
          config["eval"]["sets"] = ("distilled",)
        _override(config, {**group_values, **sweep["series"][series]})
        out.append(Cell(group, series, seed, config))
  return out


def _checked_axes(sweep: Any) -> list[int]:
  """The seeds of a sweep whose axes have the right form."""
  if not isinstance(sweep, Mapping):
    raise UserError(f"sweep={sweep!r}: must be a section with groups, series and seeds")
  check_known("sweep", sweep, ("groups", "series", "seeds", "order"))
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
  seeds = checked("sweep.seeds", sweep["seeds"], Field(tuple, item=Field(int, low=0, high=2**31 - 1)))
  if len(set(seeds)) < len(seeds):
    raise UserError(f"sweep.seeds={seeds}: names one of them twice; name each once")
  names = {file_name(f"{group}-{series}") for group in sweep["groups"] for series in sweep["series"]}
  if len(names) < len(sweep["groups"]) * len(sweep["series"]):
    raise UserError("sweep: two groups or series have names that differ in nothing but punctuation; rename one")
  return seeds


def file_name(text: str) -> str:
  """A name of the user's as a part of a file name."""
  name = re.sub(r"[^\w.+-]+", "_", text.lower().replace(" ", "")).strip(".") or "_"
  if len(name.encode()) > 200:
    raise UserError(f"sweep: {text[:40]!r}...: becomes a part of file names; choose a shorter name")
  return name


def _override(config: dict[str, Any], values: Mapping[str, Any]) -> None:
  for dotted, value in values.items():
    *path, last = dotted.split("/")
    section: Any = config
    for name in path:
      section = section.get(name, {}) if isinstance(section, Mapping) else {}
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
  return grid, resolved[0]["name"]


def run(
  grid: list[Cell], workdir: Path, run_cell: Callable[[dict, Path, Any], Mapping[str, Any]], stream: Any
) -> Mapping[str, Any]:
  """Runs all cells and writes `summary.json`, the figure, `report.md` and `report.html`.

  `run_cell`, `(configuration, work directory, stream) -> summary`, is an ordinary run.
  """
  distributed.on_first(lambda: _check(workdir))
  with locked.directory(workdir):
    return _run(grid, workdir, run_cell, stream)


def _run(grid: list[Cell], workdir: Path, run_cell: Callable, stream: Any) -> Mapping[str, Any]:
  show = functools.partial(print, file=stream, flush=True) if distributed.is_writer() else lambda line: None
  results: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
  failed: dict[str, str] = {}
  for number, cell in enumerate(grid, 1):
    begin = time.monotonic()
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
    results.setdefault((cell.group, cell.series), []).append(summary)
    failed |= {f"{cell.name}, {label}": message for label, message in failures(summary).items()}
    show(f"  {line(summary)}, in {duration(time.monotonic() - begin)}")
  if not results:
    raise UserError(f"sweep: every run failed; the first one: {next(iter(failed.values()))}")
  return distributed.on_first(lambda: _report(grid, results, failed, workdir, show))


def _check(workdir: Path) -> None:
  if workdir.exists() and not workdir.is_dir():
    raise UserError(f"--workdir={workdir} is a file; choose another")
  if not locked.is_new(workdir) and not (workdir / "cells").is_dir():
    raise UserError(f"--workdir={workdir} is not empty and not that of a sweep; choose another")


def line(summary: Mapping[str, Any]) -> str:
  """What a run came to."""
  label = "distilled" if "distilled" in summary["arms"] else next(iter(summary["arms"]))
  own = summary["arms"][label]
  if "failed" in own:
    return f"{label} failed"
  gap = f", {comparison.gap_text(own)} against {summary['reference']}" if own.get("difference") else ""
  return f"{label}: {summary['metric']} {own['mean']:.4f}{gap}"


def _report(
  grid: list[Cell], results: Mapping, failed: Mapping[str, str], workdir: Path, show: Callable[[str], None]
) -> Mapping[str, Any]:
  """The tables, figures and files of a sweep: runs with a set beside each other, runs with arms in turn."""
  first = next(iter(results.values()))[0]
  side_by_side = _sets if "distilled" in first["arms"] else _arms
  summary, sections, text = side_by_side(results, first, workdir)
  summary |= {"metric": first["metric"], "failed": dict(failed)}
  sections += failed_section(failed)
  sections.append(Section("Environment", table=(["what", "value"], flatten(environment()))))
  write_report(workdir, grid[0].config["name"], sections)
  write_json(workdir / "summary.json", summary)
  show(f"\n{text}\nfigure: {workdir / 'figure.png'}; report: {workdir / 'report.html'}")
  return read_json(workdir / "summary.json")


def _sets(results: Mapping, first: Mapping[str, Any], workdir: Path):
  """Each series' own set by group, over independent repetitions; the controls are those of the first series."""
  metric = first["metric"]
  tables, rows, best, groups = {}, [], {}, {}
  for group in dict.fromkeys(group for group, _ in results):
    found = {series: summaries for (name, series), summaries in results.items() if name == group}
    scores = {series: _means(summaries, "distilled") for series, summaries in found.items()}
    controls = next(iter(found.values()))
    for name in dict.fromkeys(name for one in controls for name in one["arms"] if name.startswith("random_")):
      scores[name] = _means(controls, name)
    scores = {name: values for name, values in scores.items() if values}
    named = {name: {"scores": {metric: values}} for name, values in scores.items()}
    tables[group], groups[group] = comparison.compare(named, metric, None), scores
    rows += [[group, *row] for row in comparison.table(tables[group], metric, None, digits=3)[1]]
    own = [name for name in tables[group] if not name.startswith("random_")]
    if own:
      sign = 1 if first.get("higher_is_better", True) else -1
      best[group] = max(own, key=lambda name, cells=tables[group], sign=sign: sign * cells[name]["mean"])
  comparison.bars(workdir / "figure.png", tables, metric)
  said = "; ".join(f"{group}: {f'{best[group]} is best' if group in best else 'every set failed'}" for group in tables)
  headers = ["group", "run", metric]
  repetitions = max(len(summaries) for summaries in results.values())
  text = (
    f"{said}.\n\nMean ± standard deviation over {repetitions} independent repetitions (teachers, distillation and "
    "evaluation anew), each the mean over its evaluation networks."
  )
  section = Section("Result", text, (headers, rows), [(f"{metric} by group and series", workdir / "figure.png")])
  return {"best": best, "groups": groups}, [section], f"{format_table(headers, rows)}\n{said}"


def _means(summaries: list[Mapping[str, Any]], name: str) -> list[float]:
  """The means of a set over the repetitions in which it did not fail."""
  return [one["arms"][name]["mean"] for one in summaries if "mean" in one["arms"].get(name, {})]


def _arms(results: Mapping, first: Mapping[str, Any], workdir: Path):
  """One sorted table per run, and the differences from the reference beside each other."""
  metric, reference = first["metric"], first["reference"]
  tables, sections, text = {}, [], []
  for (group, series), summaries in results.items():
    for number, summary in enumerate(summaries):
      name = f"{group}, {series}" + (f", repetition {number}" if len(summaries) > 1 else "")
      tables[name] = summary["arms"]
      table = comparison.table(summary["arms"], metric, reference)
      sections.append(Section(name, line(summary) + ".", table))
      text.append(f"{name}\n{line(summary)}\n\n{format_table(*table)}\n")
  comparison.bars(workdir / "figure.png", tables, f"{metric} against {reference}", differences=True)
  caption = "differences from the reference; whiskers are 95% intervals of paired differences"
  sections[0] = sections[0]._replace(images=[(caption, workdir / "figure.png")])
  gaps: dict[str, dict[str, tuple[float, float]]] = {}
  for name, arms in tables.items():
    for label, arm in arms.items():
      if "difference" in arm:
        gaps.setdefault(label, {})[name] = (arm["difference"], float(arm["half_width"]))
  mean = {label: float(np.mean([gap for gap, _ in found.values()])) for label, found in gaps.items()}
  summary = {"reference": reference, "differences": gaps, "mean_differences": mean}
  return summary, sections, "\n".join(text)
