"""Depthwise convolution, closed under differentiation like `jdistill.ops.conv`.

With `x [N,H,W,C]`, `k [h,w,C]` and `g [N,H',W',C]` the convolution and its derivatives are contractions of one form,
`sum x[n,y+h,x+w,c] k[h,w,c] g[n,y,x,c]`, with one factor left out: the forward map, the same map with the kernel turned
round for the pixels, and a kernel gradient. As primitives with these rules they lower to two programs. XLA:CPU needs
this: it computes a depthwise convolution of 50 images of 28x28x16 in 30 ms and as a sum of shifted products in 0.3.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad, batching

from jdistill.ops.bilinear import Padding, pad_space, primitive, transposed_padding
from jdistill.ops.precision import widen


def depthwise(x: jax.Array, k: jax.Array, padding: Padding) -> jax.Array:
  """`y[n,a,b,c] = sum_{h,w} x[n, a + h - top, b + w - left, c] k[h,w,c]`, zeros outside `x`.

  Args:
    x: `[N,H,W,C]`.
    k: `[h,w,C]`, the dtype of `x`.
    padding: `((top, bottom), (left, right))`.

  Returns:
    `[N,H',W',C]`. Differentiable in both, any number of times and in any mode.
  """
  return forward_p.bind(x, k, padding=padding)


def _taps(x: jax.Array, size: tuple[int, int], padding: Padding) -> list[jax.Array]:
  """What meets each tap of the kernel, row by row."""
  x = pad_space(x, padding)
  height, width = (n - taps + 1 for n, taps in zip(x.shape[1:3], size, strict=True))
  return [x[:, row : row + height, at : at + width] for row in range(size[0]) for at in range(size[1])]


def _kernel_size(x: jax.Array, g: jax.Array, padding: Padding) -> tuple[int, int]:
  return tuple(n + sum(pads) - m + 1 for n, m, pads in zip(x.shape[1:3], g.shape[1:3], padding, strict=True))


def _forward(x: jax.Array, k: jax.Array, *, padding: Padding, loop: bool) -> jax.Array:
  if loop:
    parts = zip(_taps(widen(x), k.shape[:2], padding), widen(k).reshape(-1, 1, 1, 1, k.shape[-1]), strict=True)
    return functools.reduce(jnp.add, (part * weights for part, weights in parts)).astype(x.dtype)
  numbers = ("NHWC", "HWIO", "NHWC")
  groups = x.shape[-1]
  return lax.conv_general_dilated(
    x, k[:, :, None], (1, 1), padding, dimension_numbers=numbers, feature_group_count=groups
  )


def _kernel(x: jax.Array, g: jax.Array, *, padding: Padding, loop: bool) -> jax.Array:
  size, given = _kernel_size(x, g, padding), x.dtype
  if not loop:
    k = jax.ShapeDtypeStruct((*size, x.shape[-1]), x.dtype)
    (out,) = jax.linear_transpose(lambda k: _forward(x, k, padding=padding, loop=False), k)(g)
    return out

  # Without the barrier, what made `x` and `g` is computed again for every tap. One reduction of all taps reads both
  # once, and where the images lie on several devices, each reduces its own.
  x, g = lax.optimization_barrier((widen(x), widen(g)))
  products = tuple(part * g for part in _taps(x, size, padding))
  zeros = (jnp.zeros((), g.dtype),) * len(products)
  sums = lax.reduce(products, zeros, lambda a, b: tuple(map(jnp.add, a, b)), (0, 1, 2))
  return jnp.stack(sums).reshape(*size, -1).astype(given)


forward_p = primitive("jdistill_depthwise", _forward)
kernel_p = primitive("jdistill_depthwise_kernel", _kernel)


def _input_gradient(g: jax.Array, k: jax.Array, *, padding: Padding) -> jax.Array:
  return forward_p.bind(g, jnp.flip(k, (0, 1)), padding=transposed_padding(k.shape[:2], padding))


ad.defbilinear(
  forward_p,
  lambda ct, x, k, *, padding: _input_gradient(ct, k, padding=padding),
  lambda ct, x, k, *, padding: kernel_p.bind(x, ct, padding=padding),
)
ad.defbilinear(
  kernel_p,
  lambda ct, x, g, *, padding: _input_gradient(g, ct, padding=padding),
  lambda ct, x, g, *, padding: forward_p.bind(x, ct, padding=padding),
)


def _as_channels(x: jax.Array, axis: int | None, size: int) -> jax.Array:
  """The mapped axis merged into the channels, which do not mix."""
  x = (
    jnp.broadcast_to(x[..., None, :], (*x.shape[:-1], size, x.shape[-1])) if axis is None else jnp.moveaxis(x, axis, -2)
  )
  return x.reshape(*x.shape[:-2], -1)


def _batch(which):
  def rule(operands, axes, *, padding):
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    merged = (_as_channels(x, axis, size) for x, axis in zip(operands, axes, strict=True))
    y = which.bind(*merged, padding=padding)
    return y.reshape(*y.shape[:-1], size, -1), y.ndim - 1

  return rule


batching.primitive_batchers[forward_p] = _batch(forward_p)
batching.primitive_batchers[kernel_p] = _batch(kernel_p)
