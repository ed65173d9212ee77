"""Curves of what trainings wrote by updates: losses, what policies tell, and checks of methods with several roles."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.reporting import Section, curve_panels, curves, literal, read_jsonl
from jdistill.runs.run import Run

_BINS = 60  # points of a curve of checks: each is a mean over as many updates
_LAST = 0.1  # of a training, which warnings look at
_COLLAPSED = 0.7  # of the spread of real data; samples of a sound training are within some percent of it
_LAGS = 0.1  # the gap of a follower that is left behind; 0.01 where it keeps up
_FIRST = ("spread", "real_spread", "gap", "gan_ratio", "dm_norm")  # then the others in their order
# what methods tell of the student's own moves: 0 where it rests
_OF_MOVES = ("gap", "gan_ratio", "dm_norm", "stuck", "norm_student")
_NAMES = {
  "spread": "spread: distance between samples",
  "real_spread": "real_spread: between real examples of a part",
  "gap": "gap: fake from teacher, relative",
  "gan_ratio": "gan_ratio: adversarial / matching",
  "dm_norm": "dm_norm: matching gradient",
  "stuck": "stuck: samples without a gradient",
}


def losses(run: Run, name: str | None) -> list[tuple[str, Path]]:
  """Curves of the run's own arm: its losses, and what its data policy tells by kind; `name` is that of its metrics."""
  rows = mean_rows(run, run.subject, name)
  kinds: dict[str, list[str]] = {}
  for column in rows[0] if rows else {}:
    first, _, rest = column.partition("/")
    if first == "loss":
      kinds.setdefault("loss", []).append(column)
    elif first == "data" and "/" in rest:
      kinds.setdefault(rest.partition("/")[0], []).append(column)
  out = []
  for kind, columns in kinds.items():
    series = {one.rpartition("/")[2]: ([row["step"] for row in rows], [row[one] for row in rows]) for one in columns}
    if len(rows) > 1:
      file = run.workdir / "curves" / f"{kind}.png"
      words = "loss (mean over seeds, unweighted)" if kind == "loss" else f"{kind.replace('_', ' ')} (mean over seeds)"
      curves(file, series, words)
      out.append((f"terms of {run.subject}" if kind == "loss" else f"{words}, {run.subject}", file))
  return out


def mean_rows(run: Run, label: str, name: str | None) -> list[dict[str, float]]:
  """The metrics of an arm, means over its seeds; one file has all that train side by side, or each has its own."""
  folder = run.workdir / "metrics"
  whole = folder / f"{name}.jsonl"
  files = [whole] if whole.exists() else sorted(folder.glob(f"{name}_seed*.jsonl"))
  parts = [{row["step"]: row for row in read_jsonl(file, f"students/{label}")} for file in files]
  if not parts:
    return []
  steps = [step for step in parts[0] if all(step in part for part in parts)]
  columns = [key for key, value in parts[0][steps[0]].items() if key != "step" and "/" in key] if steps else []
  return [
    {"step": step} | {key: float(np.mean([float(part[step][key]) for part in parts])) for key in columns}
    for step in steps
  ]


def checks(run: Run, cells: Mapping[str, Any]) -> tuple[list[Section], list[str]]:
  """The section of the checks of arms whose methods move several roles, and what looks wrong, a line for each.

  Args:
    run: the run.
    cells: of the arms.
  """
  found = {label: _of(mean_rows(run, label, cell.get("metrics"))) for label, cell in cells.items()}
  found = {label: one for label, one in found.items() if one}
  names = list(dict.fromkeys(name for _, columns in found.values() for name in columns))
  names.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
  panels = {}
  for name in names:
    own = {label: (steps, columns[name]) for label, (steps, columns) in found.items() if name in columns}
    panels[_NAMES.get(name, name)] = own
  if not panels:
    return [], []
  real = _spread(run) if "spread" in names else None
  warnings = [line for label, (_, columns) in found.items() for line in _warnings(label, columns, real)]
  path = run.workdir / "curves" / "checks.png"
  curve_panels(path, panels, {} if real is None else {_NAMES["spread"]: ("real data", real)})
  text = (
    "Means over seeds and over the updates between two points; what concerns the student's moves is a mean over these "
    "alone. Norms are of the gradients of each role."
  )
  text += "\n\n" + ("\n".join(f"- {literal(line)}" for line in warnings) or "Nothing looks wrong.")
  return [Section("Checks", text, images=[("checks by updates, all arms", path)])], warnings


def _of(rows: list[dict[str, float]]) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
  """Updates and checks of an arm, means over bins; nothing where there are none or its student never moved."""
  names = [key.removeprefix("method/") for key in rows[0] if key.startswith("method/")] if rows else []
  if len(rows) < 2 or not names:
    return None
  parts = np.array_split(np.arange(len(rows)), min(_BINS, len(rows)))
  ends = np.array([rows[part[-1]]["step"] for part in parts])
  means = {name: np.array([np.mean([rows[i][f"method/{name}"] for i in part]) for part in parts]) for name in names}
  moved = means.get("moves_student", np.ones(len(parts)))
  if not moved.any():
    return None
  with np.errstate(divide="ignore", invalid="ignore"):
    means |= {name: np.where(moved > 0, means[name] / moved, np.nan) for name in _OF_MOVES if name in means}
  kept = {name: one for name, one in means.items() if not name.startswith("moves_") and np.any(np.nan_to_num(one))}
  return (ends, kept) if kept else None


def _spread(run: Run) -> float | None:
  """The mean distance between two real examples, per root of the number of elements, as methods tell it of samples."""
  x = run.task().data.x
  if not hasattr(x, "shape"):
    return None
  rows = np.float64(x).reshape(len(x), -1)[np.random.default_rng(0).permutation(len(x))[:2000]]
  return float(np.mean(np.sqrt(np.mean((rows - np.roll(rows, 1, axis=0)) ** 2, axis=1))))


def _warnings(label: str, columns: Mapping[str, np.ndarray], real: float | None) -> list[str]:
  """What of an arm looks wrong at the end of its training."""
  out = []

  def last(name: str) -> float:
    values = columns[name][-max(1, round(_LAST * len(columns[name]))) :]
    values = values[np.isfinite(values)]
    return float(np.mean(values)) if len(values) else np.nan

  if "real_spread" in columns:  # of the examples that a student should be like, where that is a part of all
    real = last("real_spread")
  if "spread" in columns and real is not None and last("spread") < _COLLAPSED * real:
    out.append(
      f"{label}: samples lie {last('spread'):.3g} apart, real data {real:.3g}: they collapse; try a larger ratio, a "
      "lower learning rate of the student, or an adversarial part"
    )
  if "gap" in columns and (now := last("gap")) > _LAGS:  # false for NaN
    out.append(
      f"{label}: the gap between fake and teacher is {now:.3g}: fake lags behind the samples, or these leave the data; "
      "try a larger ratio, or a lower learning rate of the student"
    )
  return out
