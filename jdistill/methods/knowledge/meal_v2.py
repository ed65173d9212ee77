"""MEAL V2: a committee's average probabilities as the only target, and a discriminator on the logits."""

from collections.abc import Callable
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from jdistill import losses
from jdistill.base import Connector, Outputs, PyTree, Variables
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs, Term
from jdistill.methods.knowledge.terms import cross_entropy_term
from jdistill.models.connectors import discriminator
from jdistill.ops.logits import is_excluded
from jdistill.schema import NonNegative, Share, Traced, validated

DISCRIMINATOR = "discriminator"


def discriminator_widths(num_classes: int) -> tuple[int, int, int]:
  """The layer widths of MEAL V2's discriminator, `C/8, C/64, 2`, of which none is below 2.

  The released network has a ReLU after every layer, the last included.

  Raises:
    ValueError: if `num_classes < 1`.
  """
  if num_classes < 1:
    raise ValueError(f"discriminator_widths: num_classes must be at least 1, got {num_classes}")
  return max(num_classes // 8, 2), max(num_classes // 64, 2), 2


@validated("method")
def meal_v2(
  *,
  mode: Literal["joint", "adversarial", "off"] = "joint",
  discriminator_weight: Annotated[NonNegative, Traced] = 1.0,
  hard_weight: Share = 0.0,
  last_relu: bool = True,
) -> Recipe:
  """`-sum_c pbar_c log softmax(z_s)_c + L_D`, with `pbar = mean_m softmax(z_m)` over all teachers (arXiv 2009.08453).

  `L_D` is the binary cross entropy of a discriminator that tells `z_s` from `zbar = mean_m z_m`. One backward pass
  serves both networks, and both have one optimiser and learning rate: the release gives the discriminator 1e-4, and
  then its schedule overwrites the rates of all groups. Start from a student that is trained already
  (`config.start_method`), without weight decay.

  Args:
    mode: what the student gets from the discriminator: `"joint"`, the plain gradient, so that it helps to be told
      apart, as released; `"adversarial"`, the reversed one, as the paper says; `"off"` leaves the discriminator out.
    discriminator_weight: of `L_D`, for student and discriminator alike.
    hard_weight: of the cross entropy with labels, 0 in the paper; the soft targets have `1 - hard_weight`.
    last_relu: a ReLU after the discriminator's last layer, as released.

  Returns:
    The `Recipe`; with one teacher, the control of the committee. The metric `told_apart` is the share of rows that
    the discriminator assigns rightly, ties half (0.5 for one that knows nothing).

  Raises:
    ValueError: at trace time, teachers with different class counts.

  References:
    Shen and Savvides, "MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks"
    (arXiv 2009.08453).
  """

  def similarity(step: StepOutputs) -> jax.Array:
    probabilities, _ = losses.ensemble_soft_targets([out.logits for out in step.teachers])
    return losses.soft_cross_entropy(step.student.logits, jnp.log(probabilities))

  terms = {"similarity": Term(similarity, 1 - hard_weight)}
  if hard_weight:
    terms["ce"] = cross_entropy_term(hard_weight)
  needs = ("teacher", "labels") if hard_weight else ("teacher",)
  if mode == "off":
    return Recipe(terms, needs=needs)
  part = discriminator(discriminator_widths, last_relu=last_relu)
  scores = scorer(part)

  def told_apart(step: StepOutputs) -> jax.Array:
    return losses.discriminator_loss(
      scores, step.params[DISCRIMINATOR], step.student.logits, mean_logits(step), mode=mode, where=step.where
    )

  return Recipe(
    terms | {"discriminator": Term(told_apart, discriminator_weight)},
    connectors={DISCRIMINATOR: part},
    metrics=lambda step: {"told_apart": accuracy(scores, step)},
    needs=needs,
  )


def mean_logits(step: StepOutputs) -> jax.Array:
  """`zbar [B, C]`, the mean of all teachers' logits."""
  return losses.ensemble_soft_targets([out.logits for out in step.teachers])[1]


def scorer(part: Connector) -> Callable[[PyTree, jax.Array], jax.Array]:
  """A connector on the student's logits as a function `(params, logits [N, C]) -> [N, 2]`."""

  def scores(params: PyTree, rows: jax.Array) -> jax.Array:
    asked = Outputs(rows, rows)
    return part.apply(Variables(params), asked, (), train=True, key=jax.random.key(0))[0]

  return scores


def accuracy(scores: Callable[[PyTree, jax.Array], jax.Array], step: StepOutputs) -> jax.Array:
  """The share of student's and teachers' rows whose larger score is the right one, ties half."""
  params, where = step.params[DISCRIMINATOR], step.where.astype(jnp.float32)
  sides = step.student.logits, mean_logits(step)
  absent = is_excluded(sides[0]) | is_excluded(sides[1])  # as in the loss
  right = []
  for own, rows in enumerate(sides):
    both = scores(params, jnp.where(absent, 0, rows))
    right.append(jnp.heaviside(both[:, own] - both[:, 1 - own], 0.5))
  return jnp.sum(jnp.stack(right) * where[None]) / jnp.maximum(2 * jnp.sum(where), 1)
