"""Named cells with paired seeds beside each other: figures, table, verdict and plot, made in one place."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from jdistill.reporting.plots import grouped_bars
from jdistill.reporting.table import mean_std

Cells = Mapping[str, Mapping[str, Any]]  # label -> {"scores": {metric: one figure per seed}, ...}


def compare(cells: Cells, metric: str, reference: str | None, *, higher: bool | None = None) -> dict[str, dict]:
  """Adds mean, deviation and the paired difference from the reference to every cell.

  Args:
    cells: by label; those that failed hold `"failed"`, a message, and stay as they are, at the end.
    metric: the figure that counts.
    reference: the label that others are compared with; `None` for none.
    higher: sorts cells, the best first, by whether more is better; `None` keeps their order.
  """
  whole = {label: cell for label, cell in cells.items() if "failed" not in cell}
  out = {}
  for label, cell in whole.items():
    values = cell["scores"][metric]
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    out[label] = {**cell, "mean": mean, "std": deviation}
    if reference in whole:
      gap, half_width = paired_difference(values, whole[reference]["scores"][metric])
      out[label] |= {"difference": gap, "half_width": half_width}
  if higher is not None:
    out = dict(sorted(out.items(), key=lambda pair: -pair[1]["mean"] if higher else pair[1]["mean"]))
  return out | {label: dict(cell) for label, cell in cells.items() if "failed" in cell}


def paired_difference(values: Sequence[float], reference: Sequence[float]) -> tuple[float, float]:
  """The mean of `values - reference`, and the half width of its 95% interval (NaN for a single pair).

  The interval is Student's, `t_{n-1} s / sqrt(n)`. Pairs share initialisation, order and examples, so what they have
  in common cancels.

  Args:
    values, reference: one number per seed, in the same order.

  Raises:
    ValueError: their lengths differ, or they are empty.
  """
  if len(values) != len(reference) or not len(values):
    raise ValueError(f"paired_difference: {len(values)} values and {len(reference)} references; give pairs")
  gaps = np.asarray(values, np.float64) - np.asarray(reference, np.float64)
  if len(gaps) < 2:
    return float(gaps.mean()), float("nan")
  error = gaps.std(ddof=1) / np.sqrt(len(gaps))
  return float(gaps.mean()), float(stats.t.ppf(0.975, len(gaps) - 1) * error)


def table(
  cells: Cells,
  metric: str,
  reference: str | None,
  *,
  first: str = "arm",
  names: Mapping[str, str] | None = None,
  columns: Mapping[str, Mapping[str, str]] | None = None,
  digits: int = 4,
) -> tuple[list[str], list[list[str]]]:
  """Headers and rows of compared cells.

  Args:
    cells: from `compare`.
    metric, reference: as there.
    first: heading of the labels' column.
    names: how labels are shown, where not as they are.
    columns: further columns, `{heading: {label: text}}`; those without any text are left out.
    digits: after the point.
  """
  whole = [cell for cell in cells.values() if "failed" not in cell]
  others = [name for name in (whole[0]["scores"] if whole else {}) if name != metric]
  columns = {heading: texts for heading, texts in (columns or {}).items() if any(texts.values())}
  against = [f"against {(names or {}).get(reference, reference)} (95%)"] if reference else []
  rows = []
  for label, cell in cells.items():
    shown = (names or {}).get(label, label)
    own = [texts.get(label, "") for texts in columns.values()]
    if "failed" in cell:
      rows.append([shown, "failed", *("" for _ in [*against, *others]), *own])
      continue
    gap = "" if label == reference or "difference" not in cell else gap_text(cell, digits)
    rows.append(
      [
        shown,
        mean_std(cell["scores"][metric], digits),
        *([gap] if against else []),
        *(mean_std(cell["scores"][name], digits) for name in others),
        *own,
      ]
    )
  return [first, metric, *against, *others, *columns], rows


def gap_text(cell: Mapping[str, Any], digits: int = 4) -> str:
  """The difference of a cell from its reference with its interval, alone where one seed has none."""
  half_width = float(cell["half_width"])  # JSON has words for what is not finite
  spread = f" ± {half_width:.{digits}f}" if math.isfinite(half_width) else ""
  return f"{cell['difference']:+.{digits}f}{spread}"


def verdict(
  cells: Cells, label: str, reference: str | None, metric: str, higher: bool, names: Mapping[str, str] | None = None
) -> str:
  """One plain sentence: is a cell better than its reference by more than the interval?"""
  name, other = ((names or {}).get(one, one) for one in (label, reference))
  if label == reference:
    return f"{name} is the reference"
  if reference not in cells:
    return f"{name} has no control beside it, so nothing can be said of the gain"
  for one, shown in ((label, name), (reference, other)):
    if "failed" in cells[one]:
      return f"{shown} failed: {cells[one]['failed']}"
  cell = cells[label]
  gain = cell["difference"] if higher else -cell["difference"]
  gap = f"{gap_text(cell)} {metric} (95% interval of paired differences)"
  if not math.isfinite(float(cell["half_width"])):
    return f"{name} against {other}: {gap_text(cell)} {metric}: one seed only, so no spread is known"
  if gain > cell["half_width"]:
    return f"{name} beats {other}: {gap}"
  if gain < -cell["half_width"]:
    return f"{name} is worse than {other}: {gap}"
  return f"no difference between {name} and {other} can be claimed: {gap}"


def bars(path: Path, groups: Mapping[str, Cells], metric: str, *, differences: bool = False) -> None:
  """Bars of cells in groups: means with standard deviations, or differences with their intervals.

  Args:
    path: the PNG to write.
    groups: group -> cells from `compare`; a label that a group lacks leaves a gap.
    metric: for the axis.
    differences: show the differences from the reference.
  """
  value, spread = ("difference", "half_width") if differences else ("mean", "std")
  whole = {
    group: {label: cell for label, cell in cells.items() if value in cell and not (differences and not cell[value])}
    for group, cells in groups.items()
  }
  labels = list(dict.fromkeys(label for cells in whole.values() for label in cells)) or ["nothing to show"]
  empty = {value: math.nan, spread: 0.0}
  series = {
    label: tuple([float(cells.get(label, empty)[key]) for cells in whole.values()] for key in (value, spread))
    for label in labels
  }
  names = list(groups)
  if len(groups) == 1:  # one bar per label needs no legend
    names, series = labels, {metric: tuple([one[part][0] for one in series.values()] for part in (0, 1))}
  pairs = [pair for values in series.values() for pair in zip(*values, strict=True) if math.isfinite(pair[0])]
  ends = [end for mean, error in pairs for end in (mean - np.nan_to_num(error), mean + np.nan_to_num(error))] or [0.0]
  low, high = min(ends), max(ends)
  margin = 0.25 * (high - low) or 0.05
  floor = min(0.0, low - margin / 3) if differences else max(0.0, low - margin)
  path.parent.mkdir(parents=True, exist_ok=True)
  grouped_bars(path, names, series, metric, ylim=(floor, max(high, 0.0) + margin))
