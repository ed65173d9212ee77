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


def crop(x: jax.Array, padding: Padding) -> tuple[jax.Array, Padding]:
  """The operand and padding of the same convolution, with no negative padding.

  On CPUs XLA reads what lies beside the image for some of it (jaxlib 0.10.2), and oneDNN ends the process.
  """
  if all(pad >= 0 for pads in padding for pad in pads):
    return x, padding
  return pad_space(x, padding), ((0, 0), (0, 0))


def transposed_padding(kernel_size: Sequence[int], padding: Padding) -> Padding:
  """The padding under which the kernel, turned round, gives the gradient in the pixels."""
  return tuple((size - 1 - low, size - 1 - high) for size, (low, high) in zip(kernel_size, padding, strict=True))


def primitive(
  name: str, fn: Callable[..., jax.Array], library: Callable[..., jax.Array | None] | None = None
) -> Primitive:
  """A primitive of two arrays that lowers to `fn(a, b, loop=, **params)`, with `loop=True` on CPUs.

  Its derivatives and its `vmap` are for the caller to register. Without `loop`, `fn` must have the same shapes.

  Args:
    name: what programs call it.
    fn: what it computes.
    library: computes the same as `fn` by kernels of this process, or gives `None` where they are of no use. It is asked
      on CPUs, for programs that are going to run here.
  """
  made = Primitive(name)

  def abstract(*operands, **params):
    out = jax.eval_shape(functools.partial(fn, loop=False, **params), *operands)
    return jax.core.ShapedArray(out.shape, out.dtype)

  @functools.cache
  def compiled(**params):
    return jax.jit(functools.partial(made.bind, **params))

  made.def_abstract_eval(abstract)

  def run(*operands, **params):
    with jax.disable_jit(False):  # the primitive is its own jitted form: without `jit` it would call itself
      return compiled(**params)(*operands)

  made.def_impl(run)
  plain, looped = (mlir.lower_fun(functools.partial(fn, loop=loop), multiple_results=False) for loop in (False, True))
  mlir.register_lowering(made, plain)
  mlir.register_lowering(made, looped if library is None else _here_or_elsewhere(library, fn, looped), platform="cpu")
  return made


def _here_or_elsewhere(library: Callable, fn: Callable, looped: Callable) -> Callable:
  """A lowering to `library` for programs that run here, to `fn` for exported ones."""

  def either(*operands, **params):
    y = library(*operands, **params)
    return fn(*operands, loop=True, **params) if y is None else y

  here = mlir.lower_fun(either, multiple_results=False)

  def lower(ctx, *operands, **params):
    module = ctx.module_context
    # on several devices without one mesh nothing could say how to divide what is not XLA's own
    divided = getattr(module.axis_context, "num_devices", 1) > 1
    apart = divided and getattr(module.axis_context, "abstract_mesh", None) is None
    return (looped if apart or module.lowering_parameters.for_export else here)(ctx, *operands, **params)

  return lower
