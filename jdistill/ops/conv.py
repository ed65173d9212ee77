"""A convolution closed under differentiation, so that every derivative of a bilevel loop stays on fast kernels.

A stride-1 convolution is bilinear, and its derivatives are two more bilinear maps. With `x [G,N,H,W,I]`,
`k [G,h,w,I,O]` and `g [G,N,H',W',O]`, all three are contractions of one form,
`sum x[n,y+h,x+w,i] k[h,w,i,o] g[n,y,x,o]`, with one factor left out:

    forward        F(x, k) -> g
    input gradient X(g, k) -> x      = F(g, k flipped in space, I and O exchanged)
    kernel gradient K(x, g) -> k

and each one's tangents and transposes are again F, X or K. Both are JAX primitives with exactly these rules, so forward
mode, reverse mode and any mixture of them lower to the same two kernels. XLA:CPU needs this: it rewrites a convolution
into the form its fast kernels take only in a program's entry computation, and a kernel gradient as `jax.grad` states
it runs as a naive loop inside `lax.scan` (jax-ml/jax issue 12868). The leading axis `G` counts independent kernels:
`jax.vmap` over stacked networks grows it instead of making grouped convolutions, which XLA:CPU runs slowly as well.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad, batching

from jdistill.ops import onednn, strided
from jdistill.ops.bilinear import Padding, crop, pad_space, primitive, transposed_padding
from jdistill.ops.depthwise import depthwise
from jdistill.ops.rows import largest_divisor

# XLA:CPU's kernel takes three channels one by one and four at once, which pays while the outputs are not many either.
_THIN_CHANNELS, _THIN_WIDTH, _FEW_OUTPUTS = 3, 4, 64
# Its kernels are far from their best with so few outputs; see `_in_pairs`.
_NARROW = 16
# Outputs so few that it multiplies rows of taps, and bytes of these at once; see `_few_at_a_time`.
_THIN_OUTPUTS, _TAP_BYTES = 8, 2**26
_NO_PADDING = ((0, 0), (0, 0))


def _lax_conv(x: jax.Array, k: jax.Array, padding: Padding, stride: int = 1) -> jax.Array:
  return lax.conv_general_dilated(x, k, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _lax_conv_cpu(x: jax.Array, k: jax.Array, padding: Padding) -> jax.Array:
  """F(x, k) for one kernel; colour images get a fourth channel of zeros, narrow layers compute pixels in pairs."""
  x, padding = crop(x, padding)
  if x.shape[-1] == _THIN_CHANNELS and k.shape[-1] <= _FEW_OUTPUTS:
    more = _THIN_WIDTH - _THIN_CHANNELS
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more)))
    k = jnp.pad(k, ((0, 0), (0, 0), (0, more), (0, 0)))
  width = x.shape[2] + sum(padding[1]) - k.shape[1] + 1
  if max(k.shape[2:]) <= _NARROW and k.shape[1] % 2 and k.shape[1] > 1 and width % 2 == 0:
    return _in_pairs(x, k, padding)
  if k.shape[3] < _THIN_OUTPUTS:
    return _few_at_a_time(x, k, padding)
  return _lax_conv(x, k, padding)


def _few_at_a_time(x: jax.Array, k: jax.Array, padding: Padding) -> jax.Array:
  """F(x, k) for few outputs, such as a gradient in colour images.

  XLA:CPU makes a row of all taps for every pixel and multiplies these. Of many images they are hundreds of megabytes,
  whose fresh memory takes longer than everything else: 36 ms for 100 images of 32x32x128, where ten times 10 take 7.
  """
  images, *sides = x.shape[:3]
  reach = (size + sum(pad) - taps + 1 for size, pad, taps in zip(sides, padding, k.shape[:2], strict=True))
  rows = largest_divisor(images, max(1, _TAP_BYTES // (math.prod(reach) * math.prod(k.shape[:3]) * x.dtype.itemsize)))
  if rows == images:
    return _lax_conv(x, k, padding)
  y = lax.map(lambda part: _lax_conv(part, k, padding), x.reshape(-1, rows, *x.shape[1:]))
  return y.reshape(images, *y.shape[2:])


def _in_pairs(x: jax.Array, k: jax.Array, padding: Padding) -> jax.Array:
  """F(x, k) with two neighbouring pixels of a row as one pixel of twice the channels.

  A pair of outputs needs `w + 1` columns, which are `(w + 1) / 2` pairs of inputs. The kernel of pairs holds `k` twice,
  one column apart: `(w + 1) / w` times the products, but of matrices twice as wide.
  """
  h, w, inputs, outputs = k.shape
  x = pad_space(x, ((0, 0), padding[1]))
  x = x.reshape(*x.shape[:2], -1, 2 * inputs)
  k = jnp.stack([jnp.pad(k, ((0, 0), (at, 1 - at), (0, 0), (0, 0))) for at in (0, 1)], 3)  # [h, w + 1, I, 2, O]
  y = _lax_conv(x, k.reshape(h, (w + 1) // 2, 2 * inputs, 2 * outputs), (padding[0], (0, 0)))
  return y.reshape(*y.shape[:2], -1, outputs)


def _kernel_gradient(x: jax.Array, g: jax.Array, padding: Padding) -> jax.Array:
  """K(x, g) for one kernel as the convolution that exchanges batch and channels."""
  return lax.conv_general_dilated(x, g, (1, 1), padding, dimension_numbers=("CHWN", "IHWO", "HWNC"))


def _kernel_gradient_cpu(x: jax.Array, g: jax.Array, padding: Padding) -> jax.Array:
  """The same on exchanged copies, so that it is an ordinary convolution also inside a loop."""
  x, padding = crop(x, padding)
  k = _lax_conv(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), padding)  # [I, h, w, O]
  return k.transpose(1, 2, 0, 3)


def _over_kernels(fn: Callable[..., jax.Array], a: jax.Array, b: jax.Array, loop: bool) -> jax.Array:
  """Applies `fn` to each of the `G` independent pairs: in a loop, or as one batched operation."""
  if a.shape[0] == 1:
    return fn(a[0], b[0])[None]
  if loop:
    return lax.map(lambda pair: fn(*pair), (a, b))
  return jax.vmap(fn)(a, b)


def _forward(x: jax.Array, k: jax.Array, *, padding: Padding, stride: int, loop: bool) -> jax.Array:
  if stride > 1 and loop:
    return _forward(*_in_blocks(x, k, padding, stride), padding=_NO_PADDING, stride=1, loop=loop)
  one = _lax_conv_cpu if loop else functools.partial(_lax_conv, stride=stride)
  return _over_kernels(functools.partial(one, padding=padding), x, k, loop)


def _kernel(
  x: jax.Array, g: jax.Array, *, padding: Padding, stride: int, size: tuple[int, int], loop: bool
) -> jax.Array:
  if stride > 1:
    k = jax.ShapeDtypeStruct((x.shape[0], *size, x.shape[-1], g.shape[-1]), x.dtype)
    (out,) = jax.linear_transpose(lambda k: _dense(x, k, padding, stride), k)(g)
    return out
  one = _kernel_gradient_cpu if loop else _kernel_gradient
  return _over_kernels(functools.partial(one, padding=padding), x, g, loop)


def _forward_by_onednn(x: jax.Array, k: jax.Array, *, padding: Padding, stride: int) -> jax.Array | None:
  if onednn.suits(x[0], k[0], stride) and onednn.usable(x.dtype):
    return _over_kernels(functools.partial(onednn.forward, padding=padding, stride=stride), x, k, loop=True)
  return None


def _kernel_by_onednn(
  x: jax.Array, g: jax.Array, *, padding: Padding, stride: int, size: tuple[int, int]
) -> jax.Array | None:
  if onednn.suits_kernel_gradient(x[0], g[0], size) and onednn.usable(x.dtype):
    one = functools.partial(onednn.kernel_gradient, padding=padding, stride=stride, size=size)
    return _over_kernels(one, x, g, loop=True)
  return None


forward_p = primitive("jdistill_conv", _forward, _forward_by_onednn)
kernel_p = primitive("jdistill_conv_kernel", _kernel, _kernel_by_onednn)
onednn.spread(forward_p, kernel_p)


def _input_gradient(g: jax.Array, k: jax.Array, x: jax.ShapeDtypeStruct, padding: Padding, stride: int) -> jax.Array:
  """X(g, k) for stacked operands: a forward convolution with the kernel turned round, or one for each phase."""
  if stride > 1 and strided.suits(g, k, stride):
    ordinary = lambda g, k, padding: forward_p.bind(g, k, padding=padding, stride=1)  # noqa: E731
    return strided.input_gradient(g, k, x.shape[2:4], padding, stride, ordinary)
  if stride > 1:
    (out,) = jax.linear_transpose(lambda x: _dense(x, k, padding, stride), x)(g)
    return out
  turned = jnp.swapaxes(jnp.flip(k, (1, 2)), 3, 4)
  return forward_p.bind(g, turned, padding=transposed_padding(k.shape[1:3], padding), stride=1)


def _dense(x: jax.Array, k: jax.Array, padding: Padding, stride: int) -> jax.Array:
  """A strided convolution of stacked operands by the stride-1 primitives, whose derivatives are ordinary ones."""
  return forward_p.bind(*_in_blocks(x, k, padding, stride), padding=_NO_PADDING, stride=1)


def _in_blocks(x: jax.Array, k: jax.Array, padding: Padding, stride: int) -> tuple[jax.Array, jax.Array]:
  return jax.vmap(functools.partial(strided.as_dense, stride=stride, padding=padding))(x, k)


def _forward_transpose_x(ct, x, k, *, padding, stride):
  return _input_gradient(ct, k, x.aval, padding, stride)


def _forward_transpose_k(ct, x, k, *, padding, stride):
  return kernel_p.bind(x, ct, padding=padding, stride=stride, size=k.aval.shape[1:3])


def _kernel_transpose_x(ct, x, g, *, padding, stride, size):
  del size
  return _input_gradient(g, ct, x.aval, padding, stride)


def _kernel_transpose_g(ct, x, g, *, padding, stride, size):
  del g, size
  return forward_p.bind(x, ct, padding=padding, stride=stride)


ad.defbilinear(forward_p, _forward_transpose_x, _forward_transpose_k)
ad.defbilinear(kernel_p, _kernel_transpose_x, _kernel_transpose_g)


def _merge_leading(x: jax.Array, axis: int) -> jax.Array:
  x = jnp.moveaxis(x, axis, 0)
  return x.reshape(-1, *x.shape[2:])


def _forward_batch(operands, axes, **params):
  """`vmap`: into the images where only they are stacked, into the output channels where only kernels are."""
  (x, k), (x_axis, k_axis) = operands, axes
  size = x.shape[x_axis] if x_axis is not None else k.shape[k_axis]
  if k_axis is None:
    x = jnp.moveaxis(x, x_axis, 1)  # [G, B, N, H, W, I]
    y = forward_p.bind(x.reshape(x.shape[0], -1, *x.shape[3:]), k, **params)
    return y.reshape(*x.shape[:3], *y.shape[2:]), 1
  if x_axis is None:
    k = jnp.moveaxis(k, k_axis, 4)  # [G, h, w, I, B, O]
    y = forward_p.bind(x, k.reshape(*k.shape[:4], -1), **params)
    return y.reshape(*y.shape[:4], size, -1), 4
  y = forward_p.bind(_merge_leading(x, x_axis), _merge_leading(k, k_axis), **params)
  return y.reshape(size, -1, *y.shape[1:]), 0


def _kernel_batch(operands, axes, **params):
  """`vmap`: into the channels of the operand that is stacked, into `G` where both are."""
  (x, g), (x_axis, g_axis) = operands, axes
  size = x.shape[x_axis] if x_axis is not None else g.shape[g_axis]
  if g_axis is None:
    x = jnp.moveaxis(x, x_axis, 4)  # [G, N, H, W, B, I]
    y = kernel_p.bind(x.reshape(*x.shape[:4], -1), g, **params)
    return y.reshape(*y.shape[:3], size, -1, y.shape[-1]), 3
  if x_axis is None:
    g = jnp.moveaxis(g, g_axis, 4)  # [G, N, H', W', B, O]
    y = kernel_p.bind(x, g.reshape(*g.shape[:4], -1), **params)
    return y.reshape(*y.shape[:4], size, -1), 4
  y = kernel_p.bind(_merge_leading(x, x_axis), _merge_leading(g, g_axis), **params)
  return y.reshape(size, -1, *y.shape[1:]), 0


batching.primitive_batchers[forward_p] = _forward_batch
batching.primitive_batchers[kernel_p] = _kernel_batch


def _explicit_padding(padding, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> Padding:
  if isinstance(padding, str):
    return tuple(lax.padtype_to_pads(size, kernel, strides, padding))
  return tuple((int(low), int(high)) for low, high in padding)


def _by_group(x: jax.Array, kernel: jax.Array, groups: int) -> jax.Array:
  """A 1x1 convolution in groups as one product of matrices per group; `kernel` is `[I / groups, O]`."""
  x = x.reshape(*x.shape[:-1], groups, -1)
  y = jnp.einsum("nhwgi,igo->nhwgo", x, kernel.reshape(kernel.shape[0], groups, -1))
  return y.reshape(*y.shape[:3], -1)


def conv2d(
  x: jax.Array,
  kernel: jax.Array,
  *,
  strides: int = 1,
  padding: str | Sequence[tuple[int, int]] = "SAME",
  dilation: int = 1,
  groups: int = 1,
) -> jax.Array:
  """Two-dimensional cross-correlation, fast in every derivative and under `vmap`, `scan` and `jit`.

  `y[n,a,b,o] = sum_{h,w,i} x[n, a*strides + h - top, b*strides + w - left, i] * kernel[h,w,i,o]`, zeros outside `x`.

  Depthwise kernels with as many outputs as inputs have primitives of their own (`jdistill.ops.depthwise`), and grouped
  ones of one pixel are products of matrices. Dilated and other grouped ones fall back to
  `jax.lax.conv_general_dilated`: the same numbers, but a kernel gradient that runs as a naive loop inside `lax.scan` on
  CPU.

  Args:
    x: `[batch, height, width, channels_in]`.
    kernel: `[kernel_height, kernel_width, channels_in / groups, channels_out]`, the dtype of `x`.
    strides: one step for both directions. Gradients in `x`, and on CPUs all that oneDNN does not compute, take values
      above 1 as stride-1 convolutions (`jdistill.ops.strided`).
    padding: `"SAME"`, `"VALID"`, or `((top, bottom), (left, right))`.
    dilation: distance of the kernel's taps, in both directions.
    groups: independent blocks of channels; `channels_in` of them are depthwise.

  Returns:
    `[batch, out_height, out_width, channels_out]`.

  Raises:
    ValueError: for operands of other ranks, unequal channels, unequal dtypes, or an empty result.
  """
  if x.ndim != 4 or kernel.ndim != 4 or x.shape[-1] != groups * kernel.shape[2] or kernel.shape[3] % groups:
    inner = "I" if groups == 1 else f"I/{groups}"
    raise ValueError(f"conv2d: x {x.shape} must be [N,H,W,I] and kernel {kernel.shape} [h,w,{inner},O] with the same I")
  if x.dtype != kernel.dtype:
    raise ValueError(f"conv2d: x is {x.dtype} and kernel {kernel.dtype}; cast one of them")
  reach = tuple(dilation * (size - 1) + 1 for size in kernel.shape[:2])
  pads = _explicit_padding(padding, x.shape[1:3], reach, (strides, strides))
  if any(size + sum(pad) < k for size, pad, k in zip(x.shape[1:3], pads, reach, strict=True)):
    raise ValueError(f"conv2d: kernel {kernel.shape} does not fit into x {x.shape} with padding {pads}")
  if dilation == 1 and 1 < groups == kernel.shape[3] == x.shape[-1]:
    # XLA:CPU computes the pixels that are kept and no others
    return depthwise(x, kernel[:, :, 0], pads)[:, ::strides, ::strides]
  if kernel.shape[:2] == (1, 1) and groups > 1:
    return _by_group(pad_space(x, pads)[:, ::strides, ::strides], kernel[0, 0], groups)
  if dilation > 1 or groups > 1:
    return lax.conv_general_dilated(
      x,
      kernel,
      (strides, strides),
      pads,
      rhs_dilation=(dilation, dilation),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=groups,
    )
  if strides > 1 and kernel.shape[:2] == (1, 1):  # most of a block would meet zeros only
    x, pads, strides = pad_space(x, pads)[:, ::strides, ::strides], _NO_PADDING, 1
  return forward_p.bind(x[None], kernel[None], padding=pads, stride=strides)[0]
