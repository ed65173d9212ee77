"""Samples and curves of several arms in panels side by side, as PNG files."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jdistill.base import UserError
from jdistill.reporting.grids import image_grid
from jdistill.reporting.plots import COLOURS, save_figure

_SIDE = 32  # pixels; smaller images are enlarged to about this size
_DPI = 120
_GREY, _PALE = "#555555", "#bbbbbb"


def _panels(path: str | os.PathLike, titles: Sequence[str], across: int, size: tuple[float, float], draw: Any) -> None:
  """`draw(axes, title)` into every panel; `size` of one in inches, without its title."""
  from matplotlib.figure import Figure  # slow to import, and only figures need it

  if not titles:
    raise UserError("panels: there are none; give at least one")
  across = min(across, len(titles))
  down = math.ceil(len(titles) / across)
  figure = Figure((across * size[0], down * (size[1] + 0.3)), dpi=_DPI, layout="constrained", facecolor="white")
  axes = figure.subplots(down, across, squeeze=False).ravel()
  for one, title in zip(axes, titles, strict=False):
    one.set_title(title, fontsize=9, loc="left")
    draw(one, title)
  for one in axes[len(titles) :]:
    one.set_axis_off()
  save_figure(figure, path)


def image_panels(path: str | os.PathLike, panels: Mapping[str, np.ndarray], columns: int) -> None:
  """Draws a grid of images for every name, equally large.

  Args:
    path: the PNG to write.
    panels: `[n, height, width, 1 or 3]` in [0, 1] by name, of equal shapes; NaN is black.
    columns: images in a row of a grid.

  Raises:
    UserError: there are no panels or no images, or images of another rank or number of channels; or a full disk.
  """
  grids = {
    title: image_grid(images, columns, scale=max(1, round(_SIDE / max(np.shape(images)[1:3]))))
    for title, images in panels.items()
  }

  def draw(axes: Any, title: str) -> None:
    grid = grids[title]
    axes.imshow(grid if grid.shape[-1] == 3 else grid[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()

  height, width = max((grid.shape[:2] for grid in grids.values()), default=(1, 1))
  _panels(path, list(grids), max(1, min(3, 1100 // width)), (width / _DPI + 0.15, height / _DPI + 0.05), draw)


def point_panels(path: str | os.PathLike, panels: Mapping[str, np.ndarray], behind: np.ndarray | None = None) -> None:
  """Draws points of the plane for every name, all with the same axes.

  Args:
    path: the PNG to write.
    panels: `[n, 2]` by name. Where some lie outside of the frame or are not finite, the title has their share.
    behind: `[n, 2]` real points, drawn in grey below each, which the frame is made for; `None` for the first panel.

  Raises:
    UserError: there are no panels, or points of another shape; or a full disk.
  """
  for title, points in panels.items():
    if np.ndim(points) != 2 or np.shape(points)[1] != 2:
      raise UserError(f"points of {title!r} have shape {np.shape(points)}: give [n, 2]")
  real = np.asarray(next(iter(panels.values()), np.zeros((1, 2))) if behind is None else behind, np.float64)
  middle, reach = (real.max(0) + real.min(0)) / 2, 0.65 * float(np.max(real.max(0) - real.min(0)))

  def draw(axes: Any, title: str) -> None:
    points = np.asarray(panels[title], np.float64)
    seen = (np.abs(points - middle) <= reach).all(1)  # false for NaN
    if not seen.all():
      axes.set_title(f"{title} ({np.mean(~seen):.0%} outside)", fontsize=9, loc="left")
    if behind is not None:
      axes.scatter(*real.T, s=5, color=_PALE, linewidths=0)
    axes.scatter(*points[seen].T, s=4, color=COLOURS[0], alpha=0.7, linewidths=0)
    axes.set_xlim(middle[0] - reach, middle[0] + reach)
    axes.set_ylim(middle[1] - reach, middle[1] + reach)
    axes.set_aspect("equal")
    axes.tick_params(colors=_GREY, labelsize=7)
    axes.spines[:].set_color(_PALE)

  _panels(path, list(panels), 4, (2.4, 2.0), draw)


def curve_panels(
  path: str | os.PathLike,
  panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
  levels: Mapping[str, tuple[str, float]],
  *,
  xlabel: str = "update",
) -> None:
  """Draws lines over steps for every name, each with an axis of its own; values that are not finite leave gaps.

  Args:
    path: the PNG to write.
    panels: `(steps, values)` by series by name. Positive values that span more than a factor of 50 have a log axis.
    levels: a name and a height by panel: where a dashed line is drawn.
    xlabel: what the steps are.

  Raises:
    UserError: there are no panels; or a full disk.
  """
  order = list(dict.fromkeys(name for series in panels.values() for name in series))

  def draw(axes: Any, title: str) -> None:
    whole = []
    for name, (steps, values) in panels[title].items():
      place, values = order.index(name), np.asarray(values, np.float64)
      whole.append(values[np.isfinite(values)])
      colour, width = COLOURS[place % len(COLOURS)], 1.8 if place == 0 else 1.2
      axes.plot(steps, np.where(np.isfinite(values), values, np.nan), color=colour, linewidth=width, label=name)
    if title in levels:
      words, height = levels[title]
      axes.axhline(height, color=_GREY, linestyle="--", linewidth=1, label=words)
    found = np.concatenate(whole)
    if len(found) and found.min() > 0 and found.max() > 50 * found.min():
      axes.set_yscale("log")
    axes.set_xlabel(xlabel, fontsize=8)
    axes.tick_params(colors=_GREY, labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    if len(order) > 1 or title in levels:
      axes.legend(frameon=False, fontsize=7)

  _panels(path, list(panels), 3, (3.2, 2.1), draw)
