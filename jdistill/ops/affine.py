"""Bilinear resampling of images: along each axis by itself (two small matmuls), or under any affine map (four taps).

Both use the same picture of an image: a grid of points with value zero everywhere outside, interpolated linearly, so
that the weight of input pixel `q` at the real position `p` is the hat function `max(0, 1 - |p - q|)` on each axis.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def affine_positions(theta: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
  """Where each output pixel reads its input, in pixels.

  Normalised coordinates put -1 and +1 on the *centres* of the first and last pixel (PyTorch's `align_corners=True`):
  column `j` of `width` lies at `u = 2 j / (width - 1) - 1`, row `i` of `height` at `v = 2 i / (height - 1) - 1`, and a
  side of one pixel lies at 0. `theta` maps OUTPUT coordinates to INPUT coordinates, columns first:

      (u', v') = theta @ (u, v, 1),   column = (u' + 1) (width - 1) / 2,   row = (v' + 1) (height - 1) / 2

  so a diagonal above 1 zooms out, and `[[cos a, -sin a, 0], [sin a, cos a, 0]]` turns the reading grid clockwise on the
  screen (rows grow downwards), that is, the picture counter-clockwise, by `a`.

  Args:
    theta: `[batch, 2, 3]`, row 0 gives `u'` (width), row 1 gives `v'` (height).
    height: rows of the image.
    width: columns of the image.

  Returns:
    `(rows, columns)`, each `[batch, height, width]`, in pixels and not clipped. The identity gives exact integers.
  """
  cy, cx = (height - 1) / 2, (width - 1) / 2
  v = jnp.arange(height, dtype=theta.dtype) - cy  # pixels from the centre: exact halves, so the identity stays exact
  u = jnp.arange(width, dtype=theta.dtype) - cx
  u, v = u.reshape(1, 1, width), v.reshape(1, height, 1)
  t = theta.reshape(-1, 2, 3, 1, 1)
  # A side of one pixel has its only coordinate at zero, so what multiplies it does not matter.
  rows = t[:, 1, 1] * v + t[:, 1, 0] * (u * (cy / cx if cx else 0.0)) + (t[:, 1, 2] * cy + cy)
  columns = t[:, 0, 0] * u + t[:, 0, 1] * (v * (cx / cy if cy else 0.0)) + (t[:, 0, 2] * cx + cx)
  return rows, columns


def hat_weights(positions: jax.Array, size: int) -> jax.Array:
  """Linear interpolation on one axis as a matrix: `weights[..., i, q] = max(0, 1 - |positions[..., i] - q|)`.

  Args:
    positions: `[..., outputs]`, in input pixels; outside `(-1, size)` nothing is read.
    size: number of input pixels.

  Returns:
    `[..., outputs, size]`; rows sum to one inside the image and to less where they read the zeros around it.
  """
  pixels = jnp.arange(size, dtype=positions.dtype).reshape((1,) * positions.ndim + (size,))
  return jnp.maximum(1 - jnp.abs(positions[..., None] - pixels), 0)


def resize_weights(old: int, new: int, kind: Literal["bilinear", "area"] = "bilinear") -> np.ndarray:
  """What each pixel of an axis in another size takes of the pixels that there are.

  Args:
    old, new: numbers of pixels.
    kind: `"bilinear"`, hats around the new centres, of the width of a pixel of the coarser grid, so that a smaller size
      averages over as many pixels as one takes the place of; or `"area"`, the mean of `old / new` pixels.

  Returns:
    `[new, old]` float32, rows of sum 1.

  Raises:
    ValueError: `"area"` where `new` does not divide `old`.
  """
  if kind == "area":
    if old % new:
      raise ValueError(f"resize_weights: {new} pixels of {old} are no means of equally many; use 'bilinear'")
    return np.repeat(np.eye(new, dtype=np.float32), old // new, axis=1) * np.float32(new / old)
  centres = (np.arange(new) + 0.5) * old / new - 0.5
  hats = np.maximum(0, 1 - np.abs(np.arange(old)[None] - centres[:, None]) / max(1, old / new))
  return np.float32(hats / hats.sum(1, keepdims=True))


def separable_resample(x: jax.Array, wy: jax.Array, wx: jax.Array) -> jax.Array:
  """Resamples rows and columns independently: `y[b,i,j,c] = sum_p sum_q wy[b,i,p] wx[b,j,q] x[b,p,q,c]`.

  Two batched matmuls, whose transposes are matmuls again: no gather and no scatter in any order of differentiation.

  Args:
    x: `[batch, height, width, channels]`.
    wy: `[batch, rows_out, height]`, for example from `hat_weights`; same dtype as `x`.
    wx: `[batch, columns_out, width]`.

  Returns:
    `[batch, rows_out, columns_out, channels]`, dtype of `x`.
  """
  # Pixels are kept to full precision on accelerators too: unit weights have to return the image itself.
  x = jnp.einsum("bip,bpqc->biqc", wy, x, precision=lax.Precision.HIGHEST)
  return jnp.einsum("bjq,biqc->bijc", wx, x, precision=lax.Precision.HIGHEST)


def resize(x: jax.Array, sides: tuple[int, int], kind: Literal["bilinear", "area"] = "bilinear") -> jax.Array:
  """Images in another size, by `resize_weights` of rows and columns.

  Args:
    x: `[batch, height, width, channels]`.
    sides: `(height, width)` of the result.
    kind: see `resize_weights`.

  Returns:
    `[batch, *sides, channels]`, dtype of `x`; linear in it.
  """
  weights = (jnp.asarray(resize_weights(old, new, kind), x.dtype) for old, new in zip(x.shape[1:3], sides, strict=True))
  return separable_resample(x, *(jnp.broadcast_to(one, (x.shape[0], *one.shape)) for one in weights))


def affine_sample(x: jax.Array, theta: jax.Array) -> jax.Array:
  """Reads each image through an affine map: bilinear, zeros outside, `align_corners=True`.

      y[b,i,j] = sum_p sum_q hat(row[b,i,j] - p) hat(column[b,i,j] - q) x[b,p,q],   hat(t) = max(0, 1 - |t|)

  with rows and columns from `affine_positions`. The sums have four terms, which are gathered. Linear in `x`, and
  differentiable (almost everywhere) in `theta`. For maps without rotation or shear, `separable_resample` is cheaper.

  Args:
    x: `[batch, height, width, channels]`.
    theta: `[batch, 2, 3]`, from output to input coordinates; positions are computed in its dtype.

  Returns:
    `[batch, height, width, channels]`, dtype of `x`.
  """
  batch, height, width, channels = x.shape
  rows, columns = affine_positions(theta, height, width)
  # One pixel beyond the border everything is zero already; clipping keeps far positions inside the range of int32.
  rows, columns = jnp.clip(rows, -1, height), jnp.clip(columns, -1, width)
  top, left = jnp.floor(rows), jnp.floor(columns)
  down, right = rows - top, columns - left
  top, left = top.astype(jnp.int32), left.astype(jnp.int32)
  pixels = x.reshape(batch, height * width, channels)
  read = jax.vmap(lambda image, index: image.at[index].get(mode="promise_in_bounds"))  # by image, so it shards
  out = jnp.zeros_like(x)
  for p, weight_p in ((top, 1 - down), (top + 1, down)):
    for q, weight_q in ((left, 1 - right), (left + 1, right)):
      inside = (p >= 0) & (p < height) & (q >= 0) & (q < width)
      weight = jnp.where(inside, weight_p * weight_q, 0).astype(x.dtype)
      index = jnp.clip(p, 0, height - 1) * width + jnp.clip(q, 0, width - 1)
      tap = read(pixels, index.reshape(batch, height * width)).reshape(x.shape)
      out = out + tap * weight[..., None]
  return out
