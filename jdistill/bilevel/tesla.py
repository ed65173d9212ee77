"""TESLA's approximation: the reverse recursion with every `I - lr * H` replaced by the identity."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.base import PyTree
from jdistill.bilevel import inner as inner_lib
from jdistill.bilevel.inner import Batch, Inner


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def tesla(inner: Inner, params: PyTree, shared: PyTree, batches: Batch, lr: jax.Array) -> PyTree:
  """Inner training by plain SGD whose reverse pass walks the same trajectory once more and keeps none of it."""
  return _forward(inner, params, shared, batches, lr)[0]


def _forward(inner, params, shared, batches, lr):
  def body(carry, batch):
    return inner_lib.step(inner, carry, shared, lr, batch)[0], None

  carry, _ = lax.scan(body, inner_lib.begin(params, 0.0), batches)
  return carry.params, (params, shared, batches, lr)


def _backward(inner, residuals, cotangent):
  """One fixed cotangent for every step."""
  params, shared, batches, lr = residuals

  def body(carry, batch):
    params, d_shared, d_lr = carry
    out = inner_lib.pull(
      inner, params, cotangent, shared, batch, factor=-lr, total=d_shared, curvature=False, gradient=True
    )
    return (inner_lib.axpy(-lr, out.gradient, params), out.shared, d_lr - out.slope.astype(d_lr.dtype)), None

  start = (params, inner_lib.zeros(shared), jnp.zeros_like(lr))
  (_, d_shared, d_lr), _ = lax.scan(body, start, batches)
  d_shared, d_lr = inner_lib.all_reduce(inner, (d_shared, d_lr))
  return cotangent, d_shared, inner_lib.no_gradient(batches), d_lr


tesla.defvjp(_forward, _backward)
