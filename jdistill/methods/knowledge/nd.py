"""ND: a term on length and direction of the embedding, added to KD, DKD, DIST or ReviewKD (KD++, DKD++, ...)."""

from collections.abc import Mapping
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import losses, ops
from jdistill.base import Outputs, UserError, Variables
from jdistill.methods.knowledge import feature, logits
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs, Term
from jdistill.methods.knowledge.terms import cross_entropy_term, kd_term, warmup
from jdistill.models.connectors import embedding_map
from jdistill.schema import NonNegative, Positive, Traced, validated


@validated("method")
def nd(
  *,
  base: Literal["kd", "dkd", "dist", "reviewkd"] = "kd",
  nd_weight: Annotated[NonNegative, Traced] = 2.0,
  kd_weight: Annotated[NonNegative, Traced] = 1.0,
  alignment: Literal["nd", "direction", "norm", "example"] = "nd",
  temperature: Annotated[Positive, Traced] = 4.0,
  alpha: NonNegative | None = None,
  beta: NonNegative | None = None,
  gamma: NonNegative | None = None,
  taps: str = "stages",
  warmup_epochs: NonNegative = 20.0,
  ce_weight: Annotated[NonNegative, Traced] = 1.0,
  dropout: NonNegative = 0.5,
) -> Recipe:
  """`CE + kd_weight min(1, epoch / warmup) L_base + nd_weight ND` (arXiv 2305.17007).

  `ND = 1 - <s, e> / max(||s||, ||t||)` with the student's embedding `s`, the teacher's of the same image `t`, and the
  unit vector `e` towards the teacher's mean embedding of the image's class. The means come from one pass of the teacher
  over the training examples before training, in evaluation mode, without augmentation and in full precision (the
  released ones are rounded to four decimals). Where the widths differ, a map that only this term uses (batch norm,
  dropout, dense) takes `s` to the teacher's width.

  Metrics: `norm` is the mean of `||s||`, `norm_ratio` that of `||s|| / ||t||`, `cosine` that of `<s, e> / ||s||`.

  Args:
    base: `"kd"`, `"dkd"`, `"dist"` or `"reviewkd"`: KD++, DKD++, DIST++ or ReviewKD++.
    nd_weight: 0.5 to 4 by pair in the paper; 0 is the base alone, with the same metrics.
    kd_weight: of the base's term (0.5 to 8 by pair); for `"dkd"` its `alpha` and `beta` have that role.
    alignment: `"nd"`; or a part of it as a control: `"direction"` is `1 - cos(s, e)`, `"norm"` is
      `1 - ||s|| / max(||s||, ||t||)`, `"example"` is `1 - cos(s, t)`, towards each image's own embedding.
    temperature: of both softmaxes.
    alpha, beta: DKD's weights, 1 and 8 where they are open; `beta` is also DIST's, 1 where it is open.
    gamma: DIST's other weight, 1 where it is open.
    taps: which maps ReviewKD compares.
    warmup_epochs: until the base's term has its full weight.
    ce_weight: of the labels.
    dropout: of the map between different widths.

  Raises:
    UserError: when the means are computed, classes without an example or with a mean of length zero.
  """
  kept = Recipe({"ce": cross_entropy_term(ce_weight), "kd": kd_term(kd_weight, temperature)})
  if base == "dkd":
    kept = logits.dkd(temperature=temperature, alpha=_or(alpha, 1.0), beta=_or(beta, 8.0), ce_weight=ce_weight)
  elif base == "dist":
    kept = logits.dist(temperature=temperature, beta=_or(beta, 1.0), gamma=_or(gamma, 1.0), ce_weight=ce_weight)
  elif base == "reviewkd":
    kept = feature.reviewkd(taps=taps, ce_weight=ce_weight)
  # one warm-up and one weight for all bases
  terms = {
    name: term if name == "ce" else term._replace(weight=warmup(kd_weight, warmup_epochs))
    for name, term in kept.terms.items()
  }
  terms["nd"] = Term(lambda step: _aligned(step, alignment), nd_weight)
  return kept._replace(
    terms=terms,
    connectors=dict(kept.connectors) | {"embedding_map": embedding_map(dropout=dropout)},
    prepare=teacher_class_means,
    metrics=_measures,
  )


def teacher_class_means(outputs: tuple[Outputs, ...], y: jax.Array, variables: tuple[Variables, ...]) -> jax.Array:
  """The first teacher's mean embedding of each class.

  Args:
    outputs: of every teacher on the training examples.
    y: `[n]` labels.
    variables: of every teacher; not used.

  Returns:
    `[classes, D]`.

  Raises:
    UserError: a class has no example, or a mean of length zero; their numbers are listed.
  """
  del variables
  teacher = outputs[0]
  means, counts = ops.class_means(teacher.embedding, y, teacher.logits.shape[-1])
  try:
    ops.check_class_counts(counts)
  except ValueError as error:
    raise UserError(f"method: {error}") from error
  flat = np.flatnonzero(np.linalg.norm(np.asarray(means, np.float64), axis=1) == 0).tolist()
  if flat:
    raise UserError(f"method: the teacher's mean embeddings of the classes {flat} are zero and point nowhere")
  return means


def _aligned(step: StepOutputs, alignment: str) -> jax.Array:
  student, teacher = step.connectors["embedding_map"], step.teacher.embedding
  if alignment == "direction":
    return losses.direction_only_loss(student, step.constants, step.y)
  if alignment == "norm":
    return losses.norm_only_loss(student, teacher)
  if alignment == "example":
    return losses.direction_only_loss(student, teacher, jnp.arange(teacher.shape[0], dtype=jnp.int32))
  return losses.norm_direction_loss(student, teacher, step.constants, step.y)


def _measures(step: StepOutputs) -> Mapping[str, jax.Array]:
  student, teacher = (jnp.linalg.norm(x, axis=1) for x in (step.connectors["embedding_map"], step.teacher.embedding))
  cosine = 1 - losses.direction_only_loss(step.connectors["embedding_map"], step.constants, step.y)
  ratio = student / jnp.maximum(teacher, 1e-12)
  return {
    name: losses.masked_mean(values, step.where)
    for name, values in (("norm", student), ("norm_ratio", ratio), ("cosine", cosine))
  }


def _or(value: float | None, default: float) -> float:
  return default if value is None else value
