"""What recipes of language models share: losses of tokens, one number for a batch, and their options."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from jdistill import losses
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs, Term
from jdistill.ops.heads import head_arrays
from jdistill.schema import NonNegative, Positive, Traced

Reduction = Literal["token_mean", "sequence_mean", "sequence_sum"]  # see `jdistill.losses.reduce_tokens`
Weight = Annotated[NonNegative, Traced]
Temperature = Annotated[Positive, Traced]
Values = Callable[[StepOutputs, jax.Array], jax.Array]  # (what a term sees, the tokens that count) -> [B, T]


def counted(step: StepOutputs) -> jax.Array:
  """`[B, T]` bool: the tokens that are to be learned, none of them in an example that is padding.

  Raises:
    ValueError: at trace time, a task without a label per token.
  """
  if step.y.ndim != 2 or jnp.issubdtype(step.y.dtype, jnp.floating) or step.student.logits.ndim != 3:
    raise ValueError(
      f"labels {step.y.shape} and logits {step.student.logits.shape}: this method learns the next token of every "
      "position; use a task of token rows, such as 'language'"
    )
  mask = step.batch.extra.get("mask")
  here = jnp.broadcast_to(step.where[:, None], step.y.shape)
  return here if mask is None else here & mask


def token_term(values: Values, weight: float, reduction: str) -> Term:
  """A loss of tokens as a scalar of the batch."""

  def value(step: StepOutputs) -> jax.Array:
    where = counted(step)
    return losses.reduce_tokens(values(step, where), where, reduction=reduction)

  return Term(value, weight)


def next_token_term(weight: float, reduction: str) -> Term:
  """Cross entropy with the next token."""
  return token_term(
    lambda step, where: losses.cross_entropy(step.student.logits, step.y, where=where), weight, reduction
  )


def data_term(weight: float, reduction: str, forward_kl: float = 0.0) -> Term:
  """`(1 - f) CE + f KL(p || q)` of the rows of the data that `with_data` put behind others, `f` the share given."""

  def value(step: StepOutputs) -> jax.Array:
    where = step.batch.extra["data_mask"] & step.where[:, None]
    values = losses.cross_entropy(step.student.logits, step.y, where=where)
    if forward_kl:
      apart = losses.kl_divergence(step.student.logits, step.teacher.logits, where=where)
      values = (1 - forward_kl) * values + forward_kl * apart
    return losses.reduce_tokens(values, where, reduction=reduction)

  return Term(value, weight)


def share_done(name: str, n: jax.Array, steps: int | None, epoch: jax.Array, epochs: float | None) -> jax.Array:
  """The share of all updates before update `n`: of `steps`, or of the epochs of the training where that is open.

  Raises:
    ValueError: at trace time, both are open.
  """
  if steps is not None:
    return n.astype(jnp.float32) / steps
  if epochs is None:
    raise ValueError(f"{name}: how many updates there are in all is not known; set method.steps")
  return epoch / epochs


def taught(
  name: str,
  values: Values,
  *,
  ce_weight: float,
  kd_weight: float,
  reduction: str,
  chunks: Mapping[str, Any] | None = None,
) -> Recipe:
  """`ce_weight CE + kd_weight` times a loss of tokens between student and teacher, under this name.

  Args:
    name: of the second term.
    values: of it.
    ce_weight, kd_weight, reduction: of both.
    chunks: options of `jdistill.losses.chunked_divergence` that give the same values. Where a teacher gives its hidden
      states and its head, no logits are then computed, of either side.
  """

  def shared(step: StepOutputs) -> tuple[jax.Array, jax.Array]:
    where = counted(step)
    if chunks is not None and step.teacher.head is not None:
      return _chunked(step, where, chunks)
    return losses.cross_entropy(step.student.logits, step.y, where=where), values(step, where)

  def term(number: int, weight: float) -> Term:
    found = lambda step, where: (shared(step) if step.shared is None else step.shared)[number]  # noqa: E731
    return token_term(found, weight, reduction)

  return Recipe({"ce": term(0, ce_weight), name: term(1, kd_weight)}, shared=shared)


def _chunked(step: StepOutputs, where: jax.Array, options: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
  """Cross entropy and divergence of hidden states and heads."""
  own, other = head_arrays(step.params["student"]), step.teacher.head
  (head,), (teacher_head,) = own.values(), other.values()
  return losses.chunked_token_losses(
    step.student.embedding,
    head,
    step.teacher.embedding,
    teacher_head,
    step.y,
    student_tied="table" in own,
    teacher_tied="table" in other,
    where=where,
    **options,
  )
