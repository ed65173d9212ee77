"""Recipes that compare how the examples of a batch lie to each other: RKD."""

from typing import Annotated

import jax

from jdistill import losses
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs, Term
from jdistill.methods.knowledge.terms import label_terms
from jdistill.schema import Count, NonNegative, Positive, Traced, validated


@validated("method")
def rkd(
  *,
  distance_weight: Annotated[NonNegative, Traced] = 25.0,
  angle_weight: Annotated[NonNegative, Traced] = 50.0,
  chunk: Count | None = None,
  ce_weight: Annotated[NonNegative, Traced] = 1.0,
  kd_weight: NonNegative = 0.0,
  temperature: Annotated[Positive, Traced] = 4.0,
) -> Recipe:
  """`CE + distance_weight L_distance + angle_weight L_angle` on embeddings (arXiv 1904.05068).

  Angles take `B^3` memory for a batch of `B`: 64 examples 1 MB, 512 half a gigabyte, more are refused without `chunk`.

  Args:
    distance_weight, angle_weight: 25 and 50 in benchmarks.
    chunk: anchors whose angles are computed at once; `None` for all.
    ce_weight: of the labels.
    kd_weight, temperature: of the KD term; none in benchmarks.
  """

  def distance(step: StepOutputs) -> jax.Array:
    return losses.rkd_distance_loss(step.student.embedding, step.teacher.embedding, where=step.where)

  def angle(step: StepOutputs) -> jax.Array:
    return losses.rkd_angle_loss(step.student.embedding, step.teacher.embedding, chunk=chunk, where=step.where)

  terms = label_terms(ce_weight, kd_weight, temperature)
  return Recipe(terms | {"distance": Term(distance, distance_weight), "angle": Term(angle, angle_weight)})
