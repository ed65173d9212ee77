"""Terms that many recipes share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdistill import losses
from jdistill.methods.knowledge.recipe import Term, View


def warmup(weight: float, epochs: float) -> Callable[[jax.Array], jax.Array] | float:
  """`weight min(1, epoch / epochs)`; the plain number for `epochs = 0`."""
  if not epochs:
    return weight
  return lambda epoch: weight * losses.warmup_weight(epoch, warmup_steps=epochs)


def between(weight: float, first: float, last: float | None = None) -> Callable[[jax.Array], jax.Array]:
  """`weight` in epochs `first <= epoch < last` and 0 elsewhere: a stage of a plan."""

  def schedule(epoch: jax.Array) -> jax.Array:
    inside = epoch >= first if last is None else jnp.logical_and(epoch >= first, epoch < last)
    return jnp.where(inside, weight, 0.0)

  return schedule


def cross_entropy_term(weight=1.0, *, label_smoothing: float = 0.0) -> Term:
  """Cross entropy with the labels, over any number of positions per example, `[B]`."""

  def value(view: View) -> jax.Array:
    logits = view.student.logits
    out = losses.cross_entropy(logits, view.y)
    if label_smoothing:
      uniform = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
      out = (1 - label_smoothing) * out + label_smoothing * uniform
    return jnp.mean(out.reshape(out.shape[0], -1), axis=1)

  return Term(value, weight)


def kd_term(weight, temperature: float) -> Term:
  """`T^2 KL(teacher || student)`, `[B]`."""

  def value(view: View) -> jax.Array:
    return losses.kl_divergence(view.student.logits, view.teacher.logits, temperature=temperature)

  return Term(value, weight)
