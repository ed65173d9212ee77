"""Small images laid out on one large one, and PNG files."""

import io
import os
from collections.abc import Sequence

import numpy as np

from jdistill.base import UserError
from jdistill.files import write_bytes

_VISIBLE = 64  # pixels; smaller images are enlarged to about this size
NORMALISE = ("clip", "per_image", "robust")


def to_uint8(images: np.ndarray, normalise: str = "clip") -> np.ndarray:
  """Maps pixel values to bytes: `round(255 clip((x - low) / (high - low), 0, 1))`.

  NaN counts as 0, plus and minus infinity as 1 and 0.

  Args:
    images: `[m, height, width, channels]`.
    normalise: where `low` and `high` come from: `"clip"` takes 0 and 1, `"per_image"` each image's own minimum and
      maximum, `"robust"` each image's own 2nd and 98th percentile. An image of one value becomes mid-grey in the last
      two.

  Returns:
    `[m, height, width, channels]` uint8.

  Raises:
    UserError: an unknown `normalise`.
  """
  x = np.nan_to_num(np.asarray(images, np.float32), nan=0.0, posinf=1.0, neginf=0.0)
  if normalise != "clip":
    if normalise not in NORMALISE:
      raise UserError(f"normalise={normalise!r} is unknown: choose one of {', '.join(NORMALISE)}")
    percentiles = (0, 100) if normalise == "per_image" else (2, 98)
    low, high = np.percentile(x, percentiles, axis=(1, 2, 3), keepdims=True).astype(np.float32)  # [m, 1, 1, 1] each
    span = high - low
    x = np.where(span > 0, (x - low) / np.where(span > 0, span, 1.0), 0.5)
  return np.round(np.clip(x, 0.0, 1.0) * 255.0).astype(np.uint8)


def can_be_shown(images: np.ndarray) -> bool:
  """Whether images are grey or colour, and not of a camera with other channels."""
  return np.ndim(images) == 4 and np.shape(images)[-1] in (1, 3)


def image_grid(
  images: np.ndarray,
  columns: int,
  *,
  scale: int | None = None,
  pad: int = 1,
  normalise: str = "clip",
  background: int = 255,
) -> np.ndarray:
  """Lays images out row by row, with lines of `background` between and around them.

  Args:
    images: `[m, height, width, channels]` in [0, 1], 1 or 3 channels.
    columns: images per row; a last row that is not full is filled with `background`.
    scale: whole factor by which each pixel is repeated; `None` makes images about 64 pixels large and never smaller.
    pad: width of the lines in pixels of the result.
    normalise: see `to_uint8`.
    background: 0 (black) to 255 (white).

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
  tiles = to_uint8(images, normalise).repeat(scale, axis=1).repeat(scale, axis=2)
  height, width = height * scale, width * scale
  rows = -(-count // columns)
  grid = np.full((rows * (height + pad) + pad, columns * (width + pad) + pad, channels), background, np.uint8)
  for index, tile in enumerate(tiles):
    top = pad + (index // columns) * (height + pad)
    left = pad + (index % columns) * (width + pad)
    grid[top : top + height, left : left + width] = tile
  return grid


def timeline(
  snapshots: Sequence[tuple[int, np.ndarray]],
  labels: np.ndarray,
  *,
  max_steps: int = 12,
  max_classes: int = 10,
  scale: int | None = None,
  pad: int = 1,
  normalise: str = "clip",
) -> np.ndarray:
  """Shows how the first image of each class changes: one row per class, time runs from left to right.

  Args:
    snapshots: `(step, [m, height, width, channels])`, in any order.
    labels: `[m]` integer classes of the images, the same at all steps.
    max_steps: columns at most; evenly chosen in the order of steps, always with the first and the last.
    max_classes: rows at most, the lowest classes.
    scale: see `image_grid`.
    pad: see `image_grid`.
    normalise: see `to_uint8`.

  Returns:
    uint8 grid, see `image_grid`.

  Raises:
    UserError: there are no snapshots, or `labels` are not one integer per image.
  """
  if not snapshots:
    raise UserError("snapshots is empty: a timeline needs at least one (step, images)")
  labels = np.asarray(labels)
  ordered = sorted(snapshots, key=lambda snapshot: snapshot[0])
  if labels.ndim != 1 or labels.dtype.kind not in "iu" or any(len(images) != len(labels) for _, images in ordered):
    raise UserError(f"labels have shape {labels.shape} and dtype {labels.dtype}: give one integer class per image")
  chosen = np.unique(np.round(np.linspace(0, len(ordered) - 1, min(max_steps, len(ordered)))).astype(int))
  first = np.unique(labels, return_index=True)[1][:max_classes]
  columns = [np.asarray(ordered[index][1])[first] for index in chosen]  # per step [classes, height, width, channels]
  rows = np.stack(columns, axis=1)  # [classes, steps, height, width, channels]
  return image_grid(rows.reshape(-1, *rows.shape[2:]), len(chosen), scale=scale, pad=pad, normalise=normalise)


def png_bytes(array: np.ndarray) -> bytes:
  """Encodes a `[height, width]`, `[height, width, 1]` or `[height, width, 3]` uint8 array as PNG.

  Raises:
    UserError: another shape or dtype.
  """
  from PIL import Image  # only those who write images pay for the import

  array = np.asarray(array)
  if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3))):
    raise UserError(f"a PNG cannot hold {array.dtype} of shape {array.shape}: give uint8 [height, width, 1 or 3]")
  if array.ndim == 3 and array.shape[-1] == 1:
    array = array[..., 0]
  file = io.BytesIO()
  Image.fromarray(array).save(file, format="PNG", optimize=True)
  return file.getvalue()


def save_png(path: str | os.PathLike, array: np.ndarray) -> None:
  """Writes a PNG atomically; see `png_bytes` for what it takes.

  Raises:
    UserError: a wrong shape or dtype, or a full disk.
  """
  write_bytes(path, png_bytes(array))
