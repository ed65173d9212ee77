"""Image operators with their random numbers handed in: each is affine in the pixels and draws nothing itself.

All take `x [batch, height, width, channels]` first and one number (or pair) per image after it, and return an array of
the same shape and dtype. Pairs that count pixels are `(rows, columns)`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.ops import affine


def _per_image(values: jax.Array, x: jax.Array) -> jax.Array:
  return values.astype(x.dtype).reshape(-1, 1, 1, 1)


def _position_dtype(x: jax.Array) -> jnp.dtype:
  # Half precision cannot tell the pixels of a large image apart.
  return jnp.dtype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x.dtype


def brightness(x: jax.Array, offset: jax.Array) -> jax.Array:
  """Adds one number to all pixels of an image: `y = x + offset`, `offset [batch]` in units of `x`."""
  return x + _per_image(offset, x)


def saturation(x: jax.Array, factor: jax.Array) -> jax.Array:
  """Scales the distance of each pixel from its own mean over channels: `y = (x - mean_c x) factor + mean_c x`.

  Args:
    x: `[batch, height, width, channels]`; with one channel nothing changes.
    factor: `[batch]`; 0 gives a grey image, 1 the image itself.
  """
  grey = jnp.mean(x, axis=-1, keepdims=True)
  return (x - grey) * _per_image(factor, x) + grey


def contrast(x: jax.Array, factor: jax.Array) -> jax.Array:
  """Scales the distance from the image's mean over rows, columns and channels: `y = (x - mean x) factor + mean x`.

  Args:
    x: `[batch, height, width, channels]`.
    factor: `[batch]`; 0 gives a constant image, 1 the image itself.
  """
  mean = jnp.mean(x, axis=(1, 2, 3), keepdims=True)
  return (x - mean) * _per_image(factor, x) + mean


def flip(x: jax.Array, on: jax.Array) -> jax.Array:
  """Mirrors left and right where `on [batch]` (bool) is true: `y[b,i,j] = x[b,i,width-1-j]`."""
  return jnp.where(on.reshape(-1, 1, 1, 1), x[:, :, ::-1], x)


def translate(x: jax.Array, shift: jax.Array, pad: tuple[int, int]) -> jax.Array:
  """Shifts by whole pixels, zeros outside: `y[b,i,j] = x[b, i + shift[b,0], j + shift[b,1]]`.

  This is a crop of the original size out of the zero-padded image.

  Args:
    x: `[batch, height, width, channels]`.
    shift: `[batch, 2]` int, `(rows, columns)`; positive moves the picture up and to the left.
    pad: largest `|shift|` on each axis, static; larger shifts are cut to it.
  """
  padded = jnp.pad(x, ((0, 0), (pad[0], pad[0]), (pad[1], pad[1]), (0, 0)))
  window = x.shape[1:]

  def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
    return lax.dynamic_slice(image, (corner[0], corner[1], jnp.zeros_like(corner[0])), window)

  return jax.vmap(crop)(padded, shift + jnp.array([pad], shift.dtype))


def cutout(x: jax.Array, centre: jax.Array, side: tuple[int, int]) -> jax.Array:
  """Zeroes the rectangle of rows `[a, a + side)` with `a = centre - side // 2`, and columns alike.

  What lies beyond the border is cut off: near it the hole is smaller, it is never moved inwards.

  Args:
    x: `[batch, height, width, channels]`.
    centre: `[batch, 2]` int, `(row, column)`.
    side: `(rows, columns)` of the rectangle, static; 0 cuts nothing.
  """

  def hole(axis: int) -> jax.Array:  # [batch, size]
    from_corner = jnp.arange(x.shape[axis + 1], dtype=centre.dtype).reshape(1, -1) - centre[:, axis : axis + 1]
    from_corner = from_corner + side[axis] // 2
    return (from_corner >= 0) & (from_corner < side[axis])

  inside = hole(0)[:, :, None, None] & hole(1)[:, None, :, None]
  return jnp.where(inside, jnp.zeros((), x.dtype), x)


def scale(x: jax.Array, factors: jax.Array) -> jax.Array:
  """Zooms about the centre: output column `j` reads input column `c + sx (j - c)`, `c = (width - 1) / 2`; rows alike.

  Bilinear with zeros outside: `affine_sample` with `theta = [[sx, 0, 0], [0, sy, 0]]`, computed axis by axis.

  Args:
    x: `[batch, height, width, channels]`.
    factors: `[batch, 2]`, `(sx, sy)`: width first, as in `theta`. Above 1 the picture shrinks, below 1 it grows.
  """
  factors = factors.astype(_position_dtype(x))

  def weights(axis: int, factor: jax.Array) -> jax.Array:
    centre = (x.shape[axis] - 1) / 2
    offsets = jnp.arange(x.shape[axis], dtype=factors.dtype) - centre
    return affine.hat_weights(factor * offsets.reshape(1, -1) + centre, x.shape[axis]).astype(x.dtype)

  return affine.separable_resample(x, weights(1, factors[:, 1:]), weights(2, factors[:, :1]))


def rotate(x: jax.Array, degrees: jax.Array) -> jax.Array:
  """Rotates about the centre: `affine_sample` with `theta = [[cos a, -sin a, 0], [sin a, cos a, 0]]`.

  Coordinates are normalised per axis, so on an image that is not square this is a rotation of the unit square
  stretched to the image. Positive angles turn the picture counter-clockwise on the screen.

  Args:
    x: `[batch, height, width, channels]`.
    degrees: `[batch]`, the angle `a`.
  """
  angle = jnp.deg2rad(degrees.astype(_position_dtype(x)))
  cos, sin, zero = jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle)
  theta = jnp.stack([jnp.stack([cos, -sin, zero], -1), jnp.stack([sin, cos, zero], -1)], 1)  # [batch, 2, 3]
  return affine.affine_sample(x, theta)
