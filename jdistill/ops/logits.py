"""Softmaxes of class scores, some of which may be minus infinity: classes that are masked out."""

import jax
import jax.numpy as jnp

from jdistill.ops.precision import widen

EXCLUDED = -1e30  # as a logit: exactly zero probability, and no NaN where everything is excluded


def finite_logits(logits: jax.Array) -> jax.Array:
  """`logits` in float32 (or float64), at least `EXCLUDED`; NaN stays NaN.

  Minus infinity would turn `0 * inf` and `inf - inf` into NaN in whatever is computed from it. The derivative is that
  of the identity: the limit of what a softmax has there, and nothing to compute.
  """
  return _bounded(widen(logits))


@jax.custom_jvp
def _bounded(x: jax.Array) -> jax.Array:
  return jnp.maximum(x, EXCLUDED)


@_bounded.defjvp
def _bounded_jvp(primals, tangents):
  return _bounded(*primals), tangents[0]


def is_excluded(logits: jax.Array) -> jax.Array:
  """Where `logits` are minus infinity, or so low that they are meant as such: the lowest numbers of a type."""
  return widen(logits) < EXCLUDED


def log_probs(logits: jax.Array, temperature: float | jax.Array = 1.0, axis: int = -1) -> jax.Array:
  """`log_softmax(logits / temperature)` in float32 (or float64), finite for finite and for excluded logits.

  An excluded class has `EXCLUDED / temperature`, about: times its probability 0 that is 0. Where all classes are
  excluded the distribution is uniform.
  """
  x = _from_highest(logits, axis) / temperature
  return x - jnp.log(jnp.sum(jnp.exp(x), axis=axis, keepdims=True))


def probs(logits: jax.Array, temperature: float | jax.Array = 1.0, axis: int = -1) -> jax.Array:
  """`softmax(logits / temperature)` in float32 (or float64); excluded classes have exactly 0."""
  if isinstance(temperature, int | float) and temperature == 1:
    return jax.nn.softmax(finite_logits(logits), axis=axis)
  return jax.nn.softmax(_from_highest(logits, axis) / temperature, axis=axis)


def _from_highest(logits, axis):
  """Logits minus the highest, which changes no softmax; dividing first would round what large logits differ by."""
  x = finite_logits(logits)
  return x - jax.lax.stop_gradient(jnp.max(x, axis=axis, keepdims=True))
