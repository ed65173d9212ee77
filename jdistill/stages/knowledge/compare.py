"""Many runs of knowledge distillation beside each other: one sorted table per run, and what holds in all of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.files import read_json, write_json
from jdistill.reporting import Section, environment, format_table, grouped_bars, write_report
from jdistill.stages.knowledge import report as one
from jdistill.stages.sweep import Cell, Comparison


def line(summary: Mapping[str, Any]) -> str:
  """What a run came to."""
  best = next(iter(summary["arms"]))
  found = summary["arms"][best]
  teachers = [
    f"{teacher['model']} {scores[summary['metric']]:.3f} (hash {teacher['hash']})"
    for teacher in summary.get("teachers", [])
    for scores in teacher["scores"]
    if summary["metric"] in scores
  ]
  gap = f"{found['difference']:+.4f} ± {found['half_width']:.4f} against {summary['reference']}"
  return f"teacher {', '.join(teachers) or 'none'}; best {best} {found['mean']:.4f}, {gap}"


def report(grid: list[Cell], results: Mapping, workdir: Path, say: Callable[[str], None]) -> Mapping[str, Any]:
  """All tables, the figure and the files of a sweep."""
  sections, text, gaps, names = [], [], {}, []
  for (group, series), summaries in results.items():
    for number, summary in enumerate(summaries):
      name = f"{group}, {series}" + (f", repetition {number}" if len(summaries) > 1 else "")
      names.append(name)
      headers, rows = one.table(summary)
      told = line(summary)
      sections.append(Section(name, told[0].upper() + told[1:] + ".", (headers, rows)))
      text.append(f"{name}\n{told}\n\n{format_table(headers, rows)}\n")
      for label, arm in summary["arms"].items():
        gaps.setdefault(label, {})[name] = (arm["difference"], arm["half_width"])
  first = next(iter(results.values()))[0]
  summary = {"metric": first["metric"], "reference": first["reference"], "differences": gaps}
  figure = workdir / "figure.png"
  shown = {label: found for label, found in gaps.items() if label != first["reference"]}
  bars = {
    label: (
      [found.get(name, (np.nan, 0.0))[0] for name in names],
      [np.nan_to_num(found.get(name, (np.nan, 0.0))[1]) for name in names],
    )
    for label, found in shown.items()
  }
  pairs = [pair for values, errors in bars.values() for pair in zip(values, errors, strict=True)]
  heights = [end for value, error in pairs for end in (value - error, value + error)]
  low, high = min(0.0, np.nanmin(heights)), max(0.0, np.nanmax(heights))
  margin = 0.3 * (high - low) or 0.05
  label = f"{first['metric']} against {first['reference']}"
  grouped_bars(figure, names, bars, label, ylim=(low - margin / 3, high + margin))
  known = [[key, str(value)] for key, value in environment().items()]
  sections[0] = sections[0]._replace(images=[(f"{label}; whiskers are 95% intervals of paired differences", figure)])
  write_report(workdir, grid[0].config["name"], [*sections, Section("Environment", table=(["what", "value"], known))])
  write_json(workdir / "summary.json", summary)
  say("\n" + "\n".join(text) + f"\nfigure: {figure}; report: {workdir / 'report.html'}")
  return read_json(workdir / "summary.json")


COMPARISON = Comparison(("students", "report"), "students", lambda config: None, line, report)
