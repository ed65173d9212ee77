"""Recipes in which an example's student embedding must recognise its teacher embedding: CRD, and without its memory."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from jdistill import losses
from jdistill.base import Batch, Key
from jdistill.methods.knowledge.recipe import Memory, Recipe, StepOutputs, Term
from jdistill.methods.knowledge.terms import label_terms
from jdistill.models.connectors import embedding_heads
from jdistill.schema import Count, NonNegative, Positive, Share, Traced, validated

_UNSEEN = -1


class Remembered(NamedTuple):
  """What CRD keeps between steps.

  Attributes:
    banks: embeddings of every example on both sides, and the constants of the first batch.
    labels: `[N]` int32, the label of every example that was in a batch, -1 of the others. Negatives come from those
      that were seen, so that a student with few examples meets no others.
  """

  banks: losses.CRDState
  labels: jax.Array


@validated("method")
def crd(
  *,
  crd_weight: Annotated[NonNegative, Traced] = 0.8,
  features: Count = 128,
  negatives: Count = 16384,
  contrast_temperature: Annotated[Positive, Traced] = 0.07,
  bank_momentum: Share = 0.5,
  ce_weight: Annotated[NonNegative, Traced] = 1.0,
  kd_weight: NonNegative = 0.0,
  temperature: Annotated[Positive, Traced] = 4.0,
) -> Recipe:
  """`CE + crd_weight L_crd`: linear heads on both embeddings, a memory bank on both sides (arXiv 1910.10699).

  The teacher's head is trained, too. The normalising constants are those of the first batch and stay. Negatives are
  drawn with repetition from examples of other classes that were in a batch before or are in this one (so in the first
  epoch from fewer than later); the released code draws from all of its training set from the start.

  Args:
    crd_weight: 0.8 in the paper.
    features: width of the heads.
    negatives: per example.
    contrast_temperature: of the scores against the banks.
    bank_momentum: how much of a bank's entry stays when its example comes by.
    ce_weight: of the labels.
    kd_weight, temperature: of the KD term; 1 and 4 for what is published as CRD+KD.
  """

  def contrast(step: StepOutputs) -> tuple[jax.Array, losses.CRDState]:
    known = _with_batch(step)
    drawn = losses.crd_negatives(step.key, step.y, known, negatives, where=known != _UNSEEN)
    return losses.crd_loss(
      step.memory.banks,
      step.connectors["student_head"],
      step.connectors["teacher_head"],
      step.rows,
      drawn,
      temperature=contrast_temperature,
      momentum=bank_momentum,
      where=step.where,
    )

  def init(key: Key, size: int, batch: Batch) -> Remembered:
    del batch
    return Remembered(losses.crd_init(key, size, features=features), jnp.full(size, _UNSEEN, jnp.int32))

  terms = label_terms(ce_weight, kd_weight, temperature) | {"crd": Term(lambda step: contrast(step)[0], crd_weight)}
  memory = Memory(init, lambda step: Remembered(contrast(step)[1], _with_batch(step)))
  return Recipe(terms, connectors=embedding_heads(features), memory=memory)


@validated("method")
def crd_inbatch(
  *,
  contrast_weight: Annotated[NonNegative, Traced] = 0.8,
  features: Count = 128,
  contrast_temperature: Annotated[Positive, Traced] = 0.07,
  ce_weight: Annotated[NonNegative, Traced] = 1.0,
  kd_weight: NonNegative = 0.0,
  temperature: Annotated[Positive, Traced] = 4.0,
) -> Recipe:
  """CRD's idea without its memory: student and teacher as two views among those of the batch. Not CRD.

  Args:
    contrast_weight: of the contrastive term.
    features: width of the heads.
    contrast_temperature: on cosine similarities.
    ce_weight: of the labels.
    kd_weight, temperature: of the KD term.
  """

  def contrast(step: StepOutputs) -> jax.Array:
    heads = step.connectors["student_head"], step.connectors["teacher_head"]
    return losses.crd_inbatch(*heads, temperature=contrast_temperature, where=step.where)

  terms = label_terms(ce_weight, kd_weight, temperature) | {"contrast": Term(contrast, contrast_weight)}
  return Recipe(terms, connectors=embedding_heads(features))


def _with_batch(step: StepOutputs) -> jax.Array:
  """The labels that are known, with those of this batch."""
  labels = step.memory.labels
  known = step.where & (step.rows >= 0)  # a negative position would count from the end
  rows = jnp.where(known, step.rows, labels.shape[0])  # beyond the end: dropped
  return labels.at[rows].set(step.y.astype(labels.dtype), mode="drop")
