"""Line and bar charts as PNG files, without pyplot and its global state."""

import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jdistill.base import UserError
from jdistill.files import write_bytes

# The eight colours of Okabe and Ito, which colour-blind readers can tell apart, strongest first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
_HATCHES = ("", "////", "....")
_DASHES = ("-", "--", ":", "-.")
_GREY = "#555555"


def _axes(xlabel: str, ylabel: str) -> tuple[Any, Any]:
  from matplotlib.figure import Figure  # slow to import, and only figures need it

  figure = Figure(figsize=(6.4, 3.8), dpi=120, layout="constrained", facecolor="white")
  axes = figure.add_subplot()
  axes.set_xlabel(xlabel)
  axes.set_ylabel(ylabel)
  axes.spines[["top", "right"]].set_visible(False)
  axes.spines[["left", "bottom"]].set_color(_GREY)
  axes.tick_params(colors=_GREY, labelsize=9)
  axes.grid(axis="y", color="#dddddd", linewidth=0.8)
  axes.set_axisbelow(True)
  return figure, axes


def save_figure(figure: Any, path: str | os.PathLike) -> None:
  """Writes a figure of matplotlib as PNG, atomically.

  Raises:
    UserError: the disk is full.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  file = io.BytesIO()
  FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})  # the same bytes from every version
  write_bytes(path, file.getvalue())


def curves(
  path: str | os.PathLike,
  series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
  ylabel: str,
  *,
  xlabel: str = "step",
) -> None:
  """Draws lines over steps; values that are not finite leave gaps.

  Args:
    path: the PNG to write.
    series: `(steps, values)` by name, of equal length; at most a few dozen points per pixel are worth giving.
    ylabel: what the values are, with their unit.
    xlabel: what the steps are.

  Raises:
    UserError: there are no series, or one has unequal lengths; or the disk is full.
  """
  if not series:
    raise UserError("series is empty: give at least one (steps, values)")
  figure, axes = _axes(xlabel, ylabel)
  for index, (name, (steps, values)) in enumerate(series.items()):
    steps, values = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    if steps.shape != values.shape or steps.ndim != 1:
      raise UserError(f"series {name!r} has steps {steps.shape} and values {values.shape}: give two equal lengths")
    axes.plot(
      steps,
      np.where(np.isfinite(values), values, np.nan),
      color=COLOURS[index % len(COLOURS)],
      linestyle=_DASHES[index // len(COLOURS) % len(_DASHES)],
      linewidth=1.6,
      marker="o" if len(steps) <= 12 else None,
      markersize=4,
      label=name,
    )
  if len(series) > 1:
    axes.legend(frameon=False, fontsize=9)
  save_figure(figure, path)


_READABLE = 80  # characters that fit side by side below an axis


def grouped_bars(
  path: str | os.PathLike,
  groups: Sequence[str],
  series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
  ylabel: str,
  ylim: tuple[float, float],
) -> None:
  """Draws bars with error bars side by side in groups.

  Args:
    path: the PNG to write.
    groups: the names along the horizontal axis (such as images per class).
    series: `(heights, errors)` by name, one number per group each; a NaN height draws no bar.
    ylabel: what the heights are, with their unit.
    ylim: lower and upper end of the vertical axis.

  Raises:
    UserError: no groups or series, or a number of values other than of groups; or the disk is full.
  """
  if not groups or not series:
    raise UserError(f"{len(groups)} groups and {len(series)} series: a bar chart needs at least one of both")
  figure, axes = _axes("", ylabel)
  centres, handles = np.arange(len(groups), dtype=np.float64), []
  width = 0.8 / len(series)
  for index, (name, (heights, errors)) in enumerate(series.items()):
    bars = axes.bar(
      centres + (index - (len(series) - 1) / 2) * width,
      _per_group(name, heights, groups),
      width * 0.92,
      yerr=np.nan_to_num(_per_group(name, errors, groups)),
      color=COLOURS[index % len(COLOURS)],
      hatch=_HATCHES[index // len(COLOURS) % len(_HATCHES)],  # colours come again, with another pattern
      edgecolor="white",
      linewidth=0,
      error_kw={"ecolor": "#222222", "elinewidth": 1.1, "capsize": min(3, 15 * width)},
      label=name,
    )
    handles.append(bars)
  names = [str(group).replace(", ", "\n") for group in groups]
  crowded = sum(map(len, names)) > _READABLE
  axes.set_xticks(centres, names, **({"rotation": 40, "ha": "right"} if crowded else {}))
  axes.grid(visible=False, axis="x")
  axes.set_ylim(*ylim)
  if len(handles) > 1:
    columns = min(3 if len(handles) < 10 else 4, len(handles))
    figure.set_figheight(figure.get_figheight() + 0.22 * max(0, -(-len(handles) // columns) - 3))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
  save_figure(figure, path)


def _per_group(name: str, values: Sequence[float], groups: Sequence[str]) -> np.ndarray:
  array = np.asarray(values, np.float64)
  if array.shape != (len(groups),) or any(math.isinf(value) for value in array):
    raise UserError(f"{name!r} has values {list(values)}: give one finite number for each of the {len(groups)} groups")
  return array
