"""Winograd's form of 3x3 convolutions, along the rows: half of the products.

Four outputs of a column need six inputs. With the matrices `B [6, 6]`, `G [6, 3]` and `A [4, 6]` below,

    y[4 t + o] = sum_a A[o, a] (sum_i B[a, i] x[4 t + i - 1]) * (sum_h G[a, h] k[h])

where the rows of `x` and `k` are images and kernels of one row each, and `*` is their convolution: six rows of three
taps in place of four of nine. That is F(4, 3) in the one direction; in the other one too it would halve the products
again, but leave so many small ones that they are no faster. The rounding error is about twice that of the sum itself.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.ops.bilinear import Padding, pad_space

_A = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
_G = (
  (1 / 4, 0, 0),
  (-1 / 6, -1 / 6, -1 / 6),
  (-1 / 6, 1 / 6, -1 / 6),
  (1 / 24, 1 / 12, 1 / 6),
  (1 / 24, -1 / 12, 1 / 6),
  (0, 0, 1),
)
_TILE = 4  # outputs
# Where the sums before and after take as long as the products that they save: fewer channels on either side, fewer
# pixels per kernel, or too many rows that are thrown away.
_FEWEST_CHANNELS = 128
_FEWEST_PIXELS = 2048
_MOST_ROWS = 1.2
# How many numbers are taken at once, for the sake of memory: what is made of them takes three times theirs.
_CHUNK = 2**24


def suits(x: jax.Array, k: jax.Array, padding: Padding) -> bool:
  """Whether `forward` knows such a convolution of stride 1, and is the faster one as far as shapes tell."""
  images, height, width, inputs = x.shape
  return (
    k.shape[:2] == (3, 3)
    and tuple(padding[0]) == (1, 1)
    and min(inputs, k.shape[3]) >= _FEWEST_CHANNELS
    and images * height * width >= _FEWEST_PIXELS
    and -(-height // _TILE) * _TILE <= _MOST_ROWS * height
  )


def forward(x: jax.Array, k: jax.Array, padding: Padding, convolve: Callable[..., jax.Array]) -> jax.Array:
  """The convolution of `x [N, H, W, I]` with `k [3, w, I, O]`, one row of zeros above and below.

  Args:
    x: images.
    k: kernel.
    padding: `((1, 1), (left, right))`.
    convolve: `(x, k, padding) -> y`, a convolution of the same ranks, for kernels of one row.

  Returns:
    `[N, H, W', O]`.
  """
  images, height = x.shape[:2]
  x = pad_space(x, ((0, -height % _TILE), (0, 0))) if height % _TILE else x
  most = max(_CHUNK // (x.size // images), 1)
  chunk = next(size for size in range(min(most, images), 0, -1) if images % size == 0)
  kernels = _kernels(k)

  def one(x: jax.Array) -> jax.Array:
    return _outputs(
      [convolve(row, kernel, ((0, 0), padding[1])) for row, kernel in zip(_rows(x), kernels, strict=True)]
    )

  if chunk == images or chunk < most // 2:
    y = one(x)
  else:
    y = lax.map(one, x.reshape(-1, chunk, *x.shape[1:]))
    y = y.reshape(images, *y.shape[2:])
  return y[:, :height]


def _rows(x: jax.Array) -> list[jax.Array]:
  """`B` applied to the six rows around every four: `[N, H, W, I]` to six of `[N, H / 4, W, I]`."""
  tiles = x.reshape(x.shape[0], -1, _TILE, *x.shape[2:])
  d1, d2, d3, d4 = (tiles[:, :, row] for row in range(_TILE))
  zeros = jnp.zeros_like(d1[:, :1])
  d0, d5 = jnp.concatenate([zeros, d4[:, :-1]], 1), jnp.concatenate([d1[:, 1:], zeros], 1)
  even, odd, near_even, near_odd = d4 - 4 * d2, d3 - 4 * d1, d4 - d2, 2 * (d3 - d1)
  return [
    4 * d0 - 5 * d2 + d4,
    even + odd,
    even - odd,
    near_even + near_odd,
    near_even - near_odd,
    4 * d1 - 5 * d3 + d5,
  ]


def _kernels(k: jax.Array) -> list[jax.Array]:
  """`G` applied to the rows of the kernel: six of `[1, w, I, O]`."""
  # a product of matrices, whose operand is written out once: sums of rows would turn a turned kernel round six times
  rows = jnp.matmul(_matrix(_G, k.dtype), k.reshape(3, -1), precision=lax.Precision.HIGHEST)
  return [row.reshape(1, *k.shape[1:]) for row in rows]


def _outputs(products: list[jax.Array]) -> jax.Array:
  """`A` applied to the six products `[N, H / 4, W, O]`: `[N, H, W, O]`."""
  weights = _matrix(_A, products[0].dtype).reshape(1, 1, _TILE, 1, 1, 6)
  # with zeros as weights too: one expression for all four rows, where a concatenation would ask for each number's row
  y = sum(weights[..., a] * product[:, :, None] for a, product in enumerate(products))
  return y.reshape(y.shape[0], -1, *y.shape[3:])


def _matrix(rows: Sequence[Sequence[float]], dtype: jnp.dtype) -> jax.Array:
  """A small matrix made of scalars, as a partitioned function may hold no arrays."""
  return jnp.stack([jnp.full((), entry, dtype) for row in rows for entry in row]).reshape(len(rows), -1)
