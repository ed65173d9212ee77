"""Terms that many recipes share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdistill import losses, ops
from jdistill.methods.knowledge.recipe import StepOutputs, Term
from jdistill.ops.checks import flat_rows
from jdistill.ops.logits import is_excluded


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


def over_positions(step: StepOutputs, values: jax.Array) -> jax.Array:
  """The mean per example `[B]` over any number of positions; those that `mask` among the examples' extra excludes are
  left out, and an example without any has 0."""
  values = flat_rows(values)
  if "mask" not in step.batch.extra:
    return jnp.mean(values, axis=1)
  mask = step.batch.extra["mask"].reshape(values.shape)
  return jnp.sum(jnp.where(mask, values, 0), axis=1) / jnp.maximum(jnp.sum(mask, axis=1), 1).astype(values.dtype)


def cross_entropy_term(weight=1.0, *, label_smoothing: float = 0.0) -> Term:
  """Cross entropy with the labels, over any number of positions per example, `[B]`.

  Labels are integers, or `[B, classes]` label logits (floating), whose softmax is the target. Of label maps `[B, H, W]`
  it is the mean over the labelled pixels of the whole batch, a scalar; -1 is no label.
  """

  def value(step: StepOutputs) -> jax.Array:
    logits = step.student.logits
    if step.y.ndim == 3:
      if label_smoothing:
        raise ValueError(f"label_smoothing={label_smoothing}: is for one label per example; set it to 0 for label maps")
      return losses.segmentation_cross_entropy(logits, step.y, where=step.where)
    soft = jnp.issubdtype(step.y.dtype, jnp.floating)
    out = (losses.soft_cross_entropy if soft else losses.cross_entropy)(logits, step.y)
    if label_smoothing:
      even = jnp.where(is_excluded(logits), -jnp.inf, 0)  # over the classes that there are
      uniform = losses.soft_cross_entropy(logits, even)
      out = (1 - label_smoothing) * out + label_smoothing * uniform
    return over_positions(step, out)

  return Term(value, weight)


def kd_term(weight, temperature: float) -> Term:
  """`T^2 KL(teacher || student)`, the mean over any number of positions per example, `[B]`."""

  def value(step: StepOutputs) -> jax.Array:
    out = losses.kl_divergence(step.student.logits, step.teacher.logits, temperature=temperature)
    return over_positions(step, out)

  return Term(value, weight)


def label_terms(ce_weight: float, kd_weight: float, temperature: float) -> dict[str, Term]:
  """`ce_weight CE`, and `kd_weight KD` unless that weight is 0: what losses on features are added to."""
  terms = {"ce": cross_entropy_term(ce_weight)}
  return terms | ({"kd": kd_term(kd_weight, temperature)} if kd_weight else {})


def one_size(*maps: jax.Array) -> list[jax.Array]:
  """Maps `[B, H, W, channels]`, averaged to the smallest height and width among them."""
  size = tuple(min(x.shape[axis] for x in maps) for axis in (1, 2))
  return [x if x.shape[1:3] == size else ops.adaptive_average_pool(x, size) for x in maps]
