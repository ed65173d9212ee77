"""Random resized crop, of images or of one of their cells, mirroring and roll."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import base
from jdistill.augment import operators
from jdistill.augment.basic import check_replay, check_shape
from jdistill.ops import affine

_TRIES = 10


class CropRecord(NamedTuple):
  """What `resized_crop` drew.

  Attributes:
    box: `[batch, 4]` float32, `(top, left, height, width)` as shares of the image's sides.
  """

  box: jax.Array


class CellRecord(NamedTuple):
  """What `cell_crop` drew.

  Attributes:
    cell: `[batch, 2]` int32, `(row, column)` of the cell.
    box: `[batch, 4]` float32, `(top, left, height, width)` as shares of the cell's sides.
  """

  cell: jax.Array
  box: jax.Array


def resized_crop(
  scale: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
  *,
  siamese: bool = False,
  size: tuple[int, int] | None = None,
) -> base.Augmentation:
  """Random resized crop: a window of random area and aspect ratio, resized to the image's own size or another one.

  With `A` the area of the image, an area `a A`, `a ~ U(scale)`, and a ratio of width to height `r`,
  `log r ~ U(log ratio)`, give a window of `round(sqrt(a A r))` columns and `round(sqrt(a A / r))` rows. The first of
  ten draws that fits into the image is taken, its corner uniform over the whole pixels where it fits; if none fits,
  the largest central window whose ratio is allowed. Resizing is bilinear between pixel centres and reads nothing
  outside the window.

  Args:
    scale: bounds of the window's share of the area, `0 < low <= high <= 1`.
    ratio: bounds of the window's width over height.
    siamese: one draw is shared by all images of the batch (a transform applied to a whole batch tensor).
    size: `(height, width)` to which windows are resized; `None` for the image's own.

  Returns:
    `Augmentation` whose record is a `CropRecord`. Linear in the pixels.

  Raises:
    UserError: bounds out of order or range; a shape is not `(batch, height, width, channels)`; a record of another
      batch size.

  References:
    Szegedy et al., "Going Deeper with Convolutions" (arXiv 1409.4842), sec. 6.
  """
  if not 0 < scale[0] <= scale[1] <= 1:
    raise base.UserError(f"scale: {tuple(scale)}; give two shares of the area with 0 < low <= high <= 1")
  if not 0 < ratio[0] <= ratio[1]:
    raise base.UserError(f"ratio: {tuple(ratio)}; give two ratios of width to height with 0 < low <= high")

  def sample(key: base.Key, shape: tuple[int, ...]) -> CropRecord:
    check_shape(shape)
    box = _draw_boxes(key, 1 if siamese else shape[0], shape[1:3], scale, ratio)
    return CropRecord(jnp.broadcast_to(box, (shape[0], 4)))

  def apply(record: CropRecord, x: jax.Array) -> jax.Array:
    check_replay(record.box.shape[0], x)
    weights = [
      _window_weights(record.box[:, axis], record.box[:, axis + 2], x.shape[axis + 1], size and size[axis]).astype(
        x.dtype
      )
      for axis in (0, 1)
    ]
    return affine.separable_resample(x, *weights)

  return base.Augmentation(sample, apply)


def cell_crop(
  cells: int, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
) -> base.Augmentation:
  """Random resized crop inside one of an image's `cells x cells` equal cells, resized to the size of the image.

  For images that are grids of smaller ones: no window reaches across two of them. The cell is drawn for every image,
  each with the same probability; the window is drawn in it as `resized_crop` does in an image, so that `scale` bounds
  its share of the cell.

  Args:
    cells: along an axis, at least 1; with 1 it is `resized_crop`, but for the draw.
    scale, ratio: see `resized_crop`.

  Returns:
    `Augmentation` whose record is a `CellRecord`. Linear in the pixels, and reads none outside the cell.

  Raises:
    UserError: `cells < 1`, or sides that it does not divide; what `resized_crop` refuses.

  References:
    "Rethinking Large-scale Dataset Compression: Shifting Focus From Labels to Images" (arXiv 2502.06434), whose code
    was not released.
  """
  if cells < 1:
    raise base.UserError(f"cells={cells}: give at least 1 cell along an axis")
  inside = resized_crop(scale, ratio)

  def sample(key: base.Key, shape: tuple[int, ...]) -> CellRecord:
    check_shape(shape)
    key_cell, key_box = jax.random.split(key)
    box = inside.sample(key_box, (shape[0], *cell_sides(shape[1:3], cells), shape[3])).box
    return CellRecord(jax.random.randint(key_cell, (shape[0], 2), 0, cells, jnp.int32), box)

  def apply(record: CellRecord, x: jax.Array) -> jax.Array:
    check_replay(record.cell.shape[0], x)
    count, height, width, channels = x.shape
    h, w = cell_sides((height, width), cells)
    cut = x.reshape(count, cells, h, cells, w, channels)
    own = cut[jnp.arange(count, dtype=jnp.int32), record.cell[:, 0], :, record.cell[:, 1]]
    return resized_crop(scale, ratio, size=(height, width)).apply(CropRecord(record.box), own)

  return base.Augmentation(sample, apply)


def cell_sides(sides: tuple[int, int], cells: int, key: str = "cells") -> tuple[int, int]:
  """`(height, width)` of one of `cells x cells` equal cells of images with these sides; `key` is for messages.

  Raises:
    UserError: the sides are not multiples of `cells`.
  """
  if any(side % cells for side in sides):
    raise base.UserError(
      f"{key}={cells}: images of {sides[0]} x {sides[1]} pixels cannot be cut into {cells} x {cells} equal cells; give "
      "a divisor"
    )
  return sides[0] // cells, sides[1] // cells


def _draw_boxes(
  key: base.Key, count: int, sides: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> jax.Array:
  """`[count, 4]` windows as shares of the sides."""
  key_area, key_ratio, key_corner = jax.random.split(key, 3)
  size = np.float32(sides)  # (height, width)
  area = jax.random.uniform(key_area, (count, _TRIES), jnp.float32, *scale) * size.prod()
  log_ratio = jax.random.uniform(
    key_ratio, (count, _TRIES), jnp.float32, float(np.log(ratio[0])), float(np.log(ratio[1]))
  )
  aspect = jnp.exp(log_ratio)
  windows = jnp.round(jnp.stack([jnp.sqrt(area / aspect), jnp.sqrt(area * aspect)], -1))  # [count, tries, 2]
  fits = jnp.all((windows >= 1) & (windows <= size.reshape(1, 1, 2)), axis=-1)
  first = jnp.argmax(fits, axis=-1)
  window = jnp.take_along_axis(windows, first[:, None, None], axis=1)[:, 0]
  room = size.reshape(1, 2) - window
  corner = jnp.floor(jax.random.uniform(key_corner, (count, 2), jnp.float32) * (room + 1))
  # float32 uniforms can round up to the excluded end
  drawn = jnp.concatenate([jnp.minimum(corner, room), window], axis=-1)
  box = jnp.where(jnp.any(fits, axis=-1)[:, None], drawn, jnp.asarray(_central(sides, ratio))[None])
  return box / jnp.asarray(np.tile(size, 2))[None]


def _central(sides: tuple[int, int], ratio: tuple[float, float]) -> np.ndarray:
  """The largest central window of an allowed ratio, `(top, left, height, width)` in pixels."""
  height, width = sides
  if width / height < ratio[0]:
    height = min(height, max(1, round(width / ratio[0])))
  elif width / height > ratio[1]:
    width = min(width, max(1, round(height * ratio[1])))
  return np.float32([(sides[0] - height) // 2, (sides[1] - width) // 2, height, width])


def _window_weights(start: jax.Array, length: jax.Array, size: int, outputs: int | None = None) -> jax.Array:
  """Interpolation weights `[batch, outputs, size]` of one axis for windows given as shares of it."""
  start, length, outputs = (start * size)[:, None], (length * size)[:, None], outputs or size
  places = (jnp.arange(outputs, dtype=start.dtype) + 0.5)[None] * length / outputs - 0.5  # exact where it is all
  # resizing the window by itself: its border pixels are repeated, what lies beyond them is not seen
  return affine.hat_weights(start + jnp.clip(places, 0, length - 1), size)


def flip(probability: float = 0.5, *, siamese: bool = False) -> base.Augmentation:
  """Mirrors images left and right.

  Args:
    probability: of mirroring, in `[0, 1]`.
    siamese: one draw is shared by all images of the batch.

  Returns:
    `Augmentation` whose record is `[batch]` bool.

  Raises:
    UserError: `probability` out of range; a shape is not `(batch, height, width, channels)`; a record of another batch
      size.
  """
  if not 0 <= probability <= 1:
    raise base.UserError(f"probability: {probability} is out of range; give a number in [0, 1]")

  def sample(key: base.Key, shape: tuple[int, ...]) -> jax.Array:
    check_shape(shape)
    return jnp.broadcast_to(jax.random.bernoulli(key, probability, (1 if siamese else shape[0],)), shape[:1])

  def apply(record: jax.Array, x: jax.Array) -> jax.Array:
    check_replay(record.shape[0], x)
    return operators.flip(x, record)

  return base.Augmentation(sample, apply)


def roll_jitter(max_shift: int) -> base.Augmentation:
  """Rolls the whole batch by one draw: `y[b, i, j] = x[b, (i - s) mod height, (j - t) mod width]`.

  Args:
    max_shift: `s` and `t` are independent integers, uniform in `[0, max_shift]`.

  Returns:
    `Augmentation` whose record is `[2]` int32, `(rows, columns)`.

  Raises:
    UserError: `max_shift` is negative; a shape is not `(batch, height, width, channels)`.
  """
  if max_shift < 0:
    raise base.UserError(f"max_shift: {max_shift} is negative; give the largest number of pixels, 0 for no jitter")

  def sample(key: base.Key, shape: tuple[int, ...]) -> jax.Array:
    check_shape(shape)
    return jax.random.randint(key, (2,), 0, max_shift + 1, jnp.int32)

  def apply(record: jax.Array, x: jax.Array) -> jax.Array:
    check_shape(x.shape)
    return jnp.roll(x, (record[0], record[1]), axis=(1, 2))

  return base.Augmentation(sample, apply)
