"""Strided convolutions by ordinary ones: over blocks of pixels, and their gradient in the pixels phase by phase."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.ops.bilinear import Padding, pad_space


def as_dense(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> tuple[jax.Array, jax.Array]:
  """Rewrites a strided convolution as a stride-1 one over blocks of `stride x stride` pixels.

  The kernel is zero-padded to a multiple of the stride; pixels of a block become channels. Exact, and unlike a strided
  convolution its derivatives are ordinary ones.
  """
  kh, kw, channels_in, channels_out = kernel.shape
  (top, bottom), (left, right) = padding
  height, width = x.shape[1] + top + bottom, x.shape[2] + left + right
  out_height, out_width = (height - kh) // stride + 1, (width - kw) // stride + 1
  blocks_h, blocks_w = -(-kh // stride), -(-kw // stride)
  need_h, need_w = (out_height + blocks_h - 1) * stride, (out_width + blocks_w - 1) * stride
  x = pad_space(x, ((top, need_h - height + bottom), (left, need_w - width + right)))
  x = x.reshape(x.shape[0], need_h // stride, stride, need_w // stride, stride, channels_in)
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], need_h // stride, need_w // stride, -1)
  kernel = jnp.pad(kernel, ((0, blocks_h * stride - kh), (0, blocks_w * stride - kw), (0, 0), (0, 0)))
  kernel = kernel.reshape(blocks_h, stride, blocks_w, stride, channels_in, channels_out)
  kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(blocks_h, blocks_w, -1, channels_out)
  return x, kernel


# Where so many small convolutions take longer than one with zeros in its kernel: below these products each.
_FEWEST_PRODUCTS = 2_000_000


class _Phase(NamedTuple):
  """The pixels `phase`, `phase + stride`, ... of one axis, and the taps that they meet.

  Attributes:
    taps: `first, first + stride, ...` of the kernel.
    padding: of what arrives from above.
  """

  taps: slice
  padding: tuple[int, int]


def _phases(stride: int, low: int, taps: int, pixels: int, outputs: int) -> list[_Phase]:
  """One axis. Output `a` has pixel `a stride + h - low` under its tap `h`."""
  found = []
  for phase in range(stride):
    first, last_output = (phase + low) % stride, (phase + low) // stride
    count = -(-(taps - first) // stride)
    # all phases are as long as the first one; what that is too long for the others is cut off at the end
    rows = -(-pixels // stride)
    found.append(_Phase(slice(first, None, stride), (count - 1 - last_output, rows + last_output - outputs)))
  return found


def suits(g: jax.Array, k: jax.Array, stride: int) -> bool:
  """Whether `input_gradient` is faster than the derivative of `as_dense`, as far as shapes tell."""
  products = g.size // g.shape[-1] * (k.size // k.shape[0]) // stride**2
  return min(k.shape[1:3]) >= stride and products >= _FEWEST_PRODUCTS


def input_gradient(
  g: jax.Array, k: jax.Array, size: tuple[int, int], padding: Padding, stride: int, conv: Callable
) -> jax.Array:
  """The gradient in the pixels of a strided convolution, where each pixel meets `1 / stride^2` of the taps.

  Pixels that lie a multiple of the stride apart meet the same taps, and theirs is an ordinary convolution: a 3x3 kernel
  of stride 2 becomes kernels of 1, 2, 2 and 4 taps, where blocks of pixels have 16.

  Args:
    g: `[G, N, H', W', O]`, the gradient in the outputs.
    k: `[G, h, w, I, O]`, at least `stride` in both directions.
    size: `(H, W)` of the inputs.
    padding: of the convolution.
    stride: of the convolution.
    conv: `(x, k, padding) -> y`, an ordinary convolution of stacked operands.

  Returns:
    `[G, N, H, W, I]`.
  """
  turned = jnp.swapaxes(k, 3, 4)
  vertical, horizontal = (
    _phases(stride, padding[axis][0], k.shape[1 + axis], size[axis], g.shape[2 + axis]) for axis in (0, 1)
  )
  rows = []
  for v in vertical:
    parts = []
    for h in horizontal:
      taps = lax.rev(turned[:, v.taps, h.taps], (1, 2))
      parts.append(conv(g, taps, (v.padding, h.padding)))
    row = jnp.stack(parts, 4)  # [G, N, H / stride, W / stride, stride, I]
    rows.append(row.reshape(*row.shape[:3], -1, row.shape[-1]))
  x = jnp.stack(rows, 3)
  return x.reshape(*x.shape[:2], -1, *x.shape[4:])[:, :, : size[0], : size[1]]
