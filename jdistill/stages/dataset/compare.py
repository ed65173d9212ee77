"""Many runs of data-set distillation beside each other: one table and one figure."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.files import read_json, write_json
from jdistill.reporting import Section, environment, format_table, grouped_bars, mean_std, write_report
from jdistill.stages.sweep import Cell, Comparison

_CONTROLS = {"random_hard": "random real, hard labels", "random_soft": "random real, soft labels"}


def again(config: dict) -> None:
  """The controls do not depend on the series: once per group and seed is enough."""
  config["eval"]["sets"] = ("distilled",)


def line(summary: Mapping[str, Any]) -> str:
  """What a run came to."""
  return f"accuracy {summary['accuracy_mean']:.3f}, accepted {100 * summary['accepted_share']:.0f}%"


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


COMPARISON = Comparison(("distill", "evaluate", "report"), "evaluations", again, line, report)
