"""Convolutions by oneDNN, whose kernels jaxlib carries for x86 but XLA:CPU does not choose.

jaxlib's builds for x86 contain oneDNN and the instruction that calls its convolution, `__onednn$convolution`; the pass
that would insert it is not compiled in. This module inserts the instruction itself. Its kernels reach 104 to 125
GFLOP/s on a core where XLA's own reach 53 to 106 (`python -m benchmarks.convolutions`).

XLA does not promise to keep the instruction. So it is used in the releases that `jdistill._compat.onednn_call` names,
where a small convolution has been computed correctly in this very process, and where the program is not going to be
stored: jaxlib cannot write such a program to its compilation cache or into an export. Where `usable` is `False`,
`jdistill.ops.conv` computes the same by XLA's own convolutions.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from jdistill._compat import compilation_cache, lowering, onednn_call
from jdistill.ops import winograd
from jdistill.ops.bilinear import Padding, crop

# Where XLA's own convolutions are no slower: inputs or outputs below these, or products below these, per kernel.
_FEWEST_CHANNELS = {"forward": (3, 8), "kernel": (8, 3)}
_FEWEST_PRODUCTS = 2_000_000
# How many images a kernel gradient takes at once: so few stay in a core's cache, and are put in order the fastest.
_CHUNK = 8

_before_cache = False
_knows_devices = False


def come_before_cache() -> None:
  """Lets these kernels go before JAX's compilation cache, in this process.

  A program holds either the kernels or can be stored, and as it is, a cache that is switched on has its way. After this
  call the kernels have it: from the first program with one of them on, nothing more is stored.
  """
  global _before_cache
  _before_cache = True


def suits(x: jax.Array, k: jax.Array, stride: int) -> bool:
  """Whether `forward` is the faster one for these, as far as their shapes tell."""
  return _suits("forward", x.shape[3], k.shape[3], x.size // stride**2 * k.shape[0] * k.shape[1] * k.shape[3])


def suits_kernel_gradient(x: jax.Array, g: jax.Array, size: tuple[int, int]) -> bool:
  """Whether `kernel_gradient` is the faster one for these, as far as their shapes tell."""
  return _suits("kernel", x.shape[3], g.shape[3], g.size * math.prod(size) * x.shape[3])


def _suits(which: str, inputs: int, outputs: int, products: int) -> bool:
  fewest_inputs, fewest_outputs = _FEWEST_CHANNELS[which]
  return inputs >= fewest_inputs and outputs >= fewest_outputs and products >= _FEWEST_PRODUCTS


def usable(dtype: jnp.dtype) -> bool:
  """Whether a program that is lowered now, for the CPU of this process, may call the kernels."""
  if dtype != jnp.float32 or not (onednn_call.is_known() and _knows_devices):
    return False
  if not compilation_cache.is_open():
    return _works()
  if not _before_cache:
    return False
  option = "jax_persistent_cache_min_compile_time_secs"
  before = getattr(jax.config, option)
  jax.config.update(option, math.inf)  # and only then the trial, which is such a program itself
  if not _works():
    jax.config.update(option, before)
  return _works()


def spread(*primitives: Primitive) -> None:
  """Has JAX tell, when it lowers one of these, which devices the program is for; `forward` must know on several."""
  global _knows_devices
  _knows_devices = onednn_call.is_known() and lowering.request_devices(*primitives)


@functools.cache
def _works() -> bool:
  """Compiles both convolutions once and compares with sums in NumPy."""
  rng = np.random.default_rng(0)
  x, k, g = (rng.integers(-4, 5, shape).astype(np.float32) for shape in ((2, 5, 4, 3), (3, 3, 3, 2), (2, 4, 4, 2)))
  padding = ((0, 1), (1, 1))
  padded = np.pad(x, ((0, 0), *padding, (0, 0)))
  taps = [[padded[:, a : a + 4, b : b + 4] for b in range(3)] for a in range(3)]
  forward = sum(taps[a][b] @ k[a, b] for a in range(3) for b in range(3))
  kernel = np.array([[np.einsum("nhwi,nhwo->io", tap, g) for tap in row] for row in taps])
  sharding = SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
  try:
    # compiled ahead and not by a plain call, which inside the tracing of another program would become part of that
    return all(
      np.array_equal(jax.jit(fn).lower(*_shapes(sharding, *a)).compile()(*a), right)
      for fn, a, right in (
        (functools.partial(_forward, padding=padding, stride=1), (x, k), forward),
        (functools.partial(_kernel_gradient, padding=padding, stride=1, size=(3, 3)), (x, g), kernel),
      )
    )
  except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError):  # a build without the kernels
    return False


def _shapes(sharding, *arrays: np.ndarray) -> list[jax.ShapeDtypeStruct]:
  return [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding) for a in arrays]


def _call(
  x: jax.Array,
  k: jax.Array,
  axes: Sequence[int],
  padding: Padding,
  strides: tuple[int, int],
  dilation: tuple[int, int],
) -> jax.Array:
  """The instruction: `x [N,H,W,I]` with a kernel whose height, width, inputs and outputs are its `axes`."""
  size = [k.shape[axis] for axis in axes]
  spatial = (
    (pixels + sum(pad) - apart * (taps - 1) - 1) // step + 1
    for pixels, pad, taps, apart, step in zip(x.shape[1:3], padding, size[:2], dilation, strides, strict=True)
  )
  pixels = {"dims": 4, "data": {"batch_dim": 0, "feature_dim": 3, "spatial_dims": [1, 2]}}
  filters = {"spatial_dims": axes[:2], "input_feature_dim": axes[2], "output_feature_dim": axes[3]}
  options = {
    "dims": 4,
    "input": pixels,
    "kernel": {"dims": 4, "filter": filters},
    "output": pixels,
    "window": {
      "size": size[:2],
      "pad_left": [low for low, _ in padding],
      "pad_right": [high for _, high in padding],
      "strides": strides,
      "window_dilations": dilation,
    },
    "feature_groups": 1,
  }
  return onednn_call.convolution(x, k, jax.ShapeDtypeStruct((x.shape[0], *spatial, size[3]), x.dtype), options)


def _forward(x: jax.Array, k: jax.Array, padding: Padding, stride: int) -> jax.Array:
  x, padding = crop(x, padding)
  call = functools.partial(_call, axes=(0, 1, 2, 3), strides=(stride, stride), dilation=(1, 1))
  if stride == 1 and winograd.suits(x, k, padding):
    return winograd.forward(x, k, padding, lambda x, k, padding: call(x, k, padding=padding))
  return call(x, k, padding=padding)


def _kernel_gradient(x: jax.Array, g: jax.Array, padding: Padding, stride: int, size: tuple[int, int]) -> jax.Array:
  """The gradient of one chunk of images after the other, summed."""
  images = len(x)
  chunk = next(chunk for chunk in range(min(_CHUNK, images), 0, -1) if images % chunk == 0)
  gradient = functools.partial(_kernel_gradient_at_once, padding=padding, stride=stride, size=size)
  if chunk == images or chunk < _CHUNK // 2:
    return gradient(x, g)
  chunks = tuple(a.reshape(-1, chunk, *a.shape[1:]) for a in (x, g))
  zeros = jnp.zeros((*size, x.shape[3], g.shape[3]), x.dtype)
  total, _ = lax.scan(lambda total, chunk: (total + gradient(*chunk), None), zeros, chunks)
  return total


def _kernel_gradient_at_once(
  x: jax.Array, g: jax.Array, padding: Padding, stride: int, size: tuple[int, int]
) -> jax.Array:
  """The convolution whose kernel is `g`, in which an image's row is that of all pixels and channels.

  With the images innermost, `x` is one picture of `H` rows and `W I` columns, and `g` a kernel of `H' W'` taps that
  lie `stride` rows and `stride I` columns apart: entry `(a, b I + i)` of the result is `k[a, b, i]`. A short row
  of many outputs suits the kernels better than `I` pictures of `h w` pixels.
  """
  images, height, width, channels = x.shape
  # what a stride leaves over at the end meets no tap
  padding = tuple(
    (low, taps + stride * (steps - 1) - pixels - low)
    for (low, _), taps, steps, pixels in zip(padding, size, g.shape[1:3], (height, width), strict=True)
  )
  x, (rows, columns) = crop(x, padding)
  height, width = x.shape[1:3]
  x = x.reshape(images, -1).T.reshape(1, height, width * channels, images)
  wide = tuple(channels * pad for pad in columns)
  k = _call(x, g, (1, 2, 0, 3), (rows, wide), (1, 1), (stride, stride * channels))
  return k.reshape(*size, channels, g.shape[3])


# On several devices of one program the compiler divides what it knows, and an instruction from outside must say how it
# can be divided: by images.
@functools.partial(custom_partitioning, static_argnums=(2, 3))
def forward(x: jax.Array, k: jax.Array, padding: Padding, stride: int) -> jax.Array:
  """`F(x, k)` of `jdistill.ops.conv` for one kernel; call it where `usable`."""
  return _forward(x, k, padding, stride)


@functools.partial(custom_partitioning, static_argnums=(2, 3, 4))
def kernel_gradient(x: jax.Array, g: jax.Array, padding: Padding, stride: int, size: tuple[int, int]) -> jax.Array:
  """`K(x, g)` of `jdistill.ops.conv` for one kernel of `size`; call it where `usable`."""
  return _kernel_gradient(x, g, padding, stride, size)


def _images(mesh: Mesh, shape: jax.ShapeDtypeStruct) -> tuple:
  """The mesh axes over which the images of an operand are spread: `(axes, rows, whole)`.

  Where they cannot be spread evenly, every device has all: what fills up a part would be summed.
  """
  axes = shape.sharding.spec[0]
  names = (axes,) if isinstance(axes, str) else axes or ()
  if shape.shape[0] % math.prod(mesh.shape[name] for name in names):
    axes = None
  return axes, NamedSharding(mesh, PartitionSpec(axes)), NamedSharding(mesh, PartitionSpec())


def _divide_forward(padding: Padding, stride: int, mesh: Mesh, operands, result):
  del result
  _, rows, whole = _images(mesh, operands[0])
  return mesh, functools.partial(_forward, padding=padding, stride=stride), rows, (rows, whole)


def _divide_kernel_gradient(padding: Padding, stride: int, size: tuple[int, int], mesh: Mesh, operands, result):
  del result
  axes, rows, whole = _images(mesh, operands[0])

  def own(x, g):
    k = _kernel_gradient(x, g, padding, stride, size)
    return k if axes is None else lax.psum(k, axes)

  return mesh, own, whole, (rows, rows)


forward.def_partition(
  _divide_forward,
  sharding_rule="n h w i, a b i o -> n y x o",
  need_replication_factors=("h", "w", "i", "a", "b", "o", "y", "x"),
)
kernel_gradient.def_partition(
  _divide_kernel_gradient,
  sharding_rule="n h w i, n y x o -> a b i o",
  reduction_factors=("n",),
  need_replication_factors=("h", "w", "i", "y", "x", "o", "a", "b"),
)
