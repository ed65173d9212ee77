"""What the bilinear primitives of convolution share: how they are registered, and their paddings."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

Padding = tuple[tuple[int, int], tuple[int, int]]


def pad_space(x: jax.Array, padding: Padding) -> jax.Array:
  """Zeros around the pixels of `[N,H,W,C]`; negative padding crops."""
  (top, bottom), (left, right) = padding
  config = [(0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)]  # lax.pad takes negative padding: it crops
  return lax.pad(x, jnp.zeros((), x.dtype), config)


def transposed_padding(kernel_size: Sequence[int], padding: Padding) -> Padding:
  """The padding under which the kernel, turned round, gives the gradient in the pixels."""
  return tuple((size - 1 - low, size - 1 - high) for size, (low, high) in zip(kernel_size, padding, strict=True))


def primitive(name: str, fn: Callable[..., jax.Array]) -> Primitive:
  """A primitive of two arrays that lowers to `fn(a, b, padding=, loop=)`, with `loop=True` on CPUs.

  Its derivatives and its `vmap` are for the caller to register. Without `loop`, `fn` must have the same shapes.
  """
  made = Primitive(name)

  def abstract(*operands, padding):
    out = jax.eval_shape(functools.partial(fn, padding=padding, loop=False), *operands)
    return jax.core.ShapedArray(out.shape, out.dtype)

  @functools.cache
  def compiled(padding):
    return jax.jit(functools.partial(made.bind, padding=padding))

  made.def_abstract_eval(abstract)

  def run(*operands, padding):
    with jax.disable_jit(False):  # the primitive is its own jitted form: without `jit` it would call itself
      return compiled(padding)(*operands)

  made.def_impl(run)
  for platform, loop in ((None, False), ("cpu", True)):
    lowering = mlir.lower_fun(functools.partial(fn, loop=loop), multiple_results=False)
    mlir.register_lowering(made, lowering, platform=platform)
  return made
