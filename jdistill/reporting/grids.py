"""Small images laid out on one large one, and PNG files."""

import io
import os
from collections.abc import Sequence

import numpy as np

from jdistill.base import UserError
from jdistill.files import write_bytes

_VISIBLE = 64  # pixels; smaller images are enlarged to about this size
_MOST_STEPS = 12  # columns of a timeline


def to_uint8(images: np.ndarray) -> np.ndarray:
  """Maps pixel values to bytes: `round(255 clip(x, 0, 1))`; NaN counts as 0."""
  x = np.nan_to_num(np.asarray(images, np.float32), nan=0.0, posinf=1.0, neginf=0.0)
  return np.round(np.clip(x, 0.0, 1.0) * 255.0).astype(np.uint8)


def can_be_shown(images: np.ndarray) -> bool:
  """Whether images are grey or colour, and not of a camera with other channels."""
  return np.ndim(images) == 4 and np.shape(images)[-1] in (1, 3)


def image_grid(images: np.ndarray, columns: int, *, scale: int | None = None, pad: int = 1) -> np.ndarray:
  """Lays images out row by row, with white lines between and around them.

  Args:
    images: `[m, height, width, channels]` in [0, 1], 1 or 3 channels.
    columns: images per row; a last row that is not full is filled with white.
    scale: whole factor by which each pixel is repeated; `None` makes images about 64 pixels large and never smaller.
    pad: width of the lines in pixels of the result.

  Returns:
    `[rows (height scale + pad) + pad, columns (width scale + pad) + pad, channels]` uint8.

  Raises:
    UserError: the images have another rank or number of channels, there are none, or `columns` is below one.
  """
  images = np.asarray(images)
  if not can_be_shown(images) or images.size == 0:
    raise UserError(
      f"images have shape {images.shape}: a grid needs [m, height, width, 1 or 3] with at least one image"
    )
  if columns < 1:
    raise UserError(f"columns={columns}: a grid needs at least one column")
  count, height, width, channels = images.shape
  scale = max(1, round(_VISIBLE / max(height, width))) if scale is None else scale
  tiles = to_uint8(images).repeat(scale, axis=1).repeat(scale, axis=2)
  height, width = height * scale, width * scale
  rows = -(-count // columns)
  grid = np.full((rows * (height + pad) + pad, columns * (width + pad) + pad, channels), 255, np.uint8)
  for index, tile in enumerate(tiles):
    top = pad + (index // columns) * (height + pad)
    left = pad + (index % columns) * (width + pad)
    grid[top : top + height, left : left + width] = tile
  return grid


def timeline(snapshots: Sequence[tuple[int, np.ndarray]], *, scale: int | None = None, pad: int = 1) -> np.ndarray:
  """Shows how images change: one row per image, time runs from left to right.

  Of many steps twelve are chosen evenly in their order, always with the first and the last.

  Args:
    snapshots: `(step, [m, height, width, channels])`, in any order.
    scale, pad: see `image_grid`.

  Returns:
    uint8 grid, see `image_grid`.

  Raises:
    UserError: there are no snapshots.
  """
  if not snapshots:
    raise UserError("snapshots is empty: a timeline needs at least one (step, images)")
  ordered = sorted(snapshots, key=lambda snapshot: snapshot[0])
  chosen = timeline_steps(len(ordered))
  rows = np.stack([ordered[index][1] for index in chosen], axis=1)  # [m, steps, height, width, channels]
  return image_grid(rows.reshape(-1, *rows.shape[2:]), len(chosen), scale=scale, pad=pad)


def timeline_steps(count: int) -> list[int]:
  """Which of `count` ordered snapshots `timeline` shows."""
  return np.unique(np.round(np.linspace(0, count - 1, min(_MOST_STEPS, count))).astype(int)).tolist()


def save_png(path: str | os.PathLike, array: np.ndarray) -> None:
  """Writes a `[height, width]`, `[height, width, 1]` or `[height, width, 3]` uint8 array as PNG, atomically.

  Raises:
    UserError: another shape or dtype, or a full disk.
  """
  from PIL import Image  # only those who write images pay for the import

  array = np.asarray(array)
  if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3))):
    raise UserError(f"a PNG cannot hold {array.dtype} of shape {array.shape}: give uint8 [height, width, 1 or 3]")
  if array.ndim == 3 and array.shape[-1] == 1:
    array = array[..., 0]
  file = io.BytesIO()
  Image.fromarray(array).save(file, format="PNG", optimize=True)
  write_bytes(path, file.getvalue())
