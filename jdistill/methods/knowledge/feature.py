"""Recipes that compare feature maps: FitNets, attention transfer, knowledge review."""

from typing import Annotated

import jax

from jdistill import losses
from jdistill.base import UserError
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs, Term
from jdistill.methods.knowledge.terms import between, label_terms, warmup
from jdistill.models.connectors import hint_regressor, read_tap, review_fusion, review_levels, tap_pairs
from jdistill.schema import Count, NonNegative, Positive, Traced, validated


@validated("method")
def fitnets(
  *,
  tap: str = "block2",
  hint_weight: Annotated[NonNegative, Traced] = 100.0,
  hint_epochs: NonNegative = 0.0,
  clips: bool = True,
  ce_weight: Annotated[NonNegative, Traced] = 1.0,
  kd_weight: NonNegative = 0.0,
  temperature: Annotated[Positive, Traced] = 4.0,
) -> Recipe:
  """`CE + hint_weight mean((r(f_s) - f_t)^2)` with a trained regressor `r` (arXiv 1412.6550).

  Args:
    tap: which map, for both networks, or `"STUDENT:TEACHER"`; `block2` is the third one of benchmarks.
    hint_weight: 100 in benchmarks.
    hint_epochs: 0 trains everything at once, as benchmarks do. Otherwise the paper's two stages: so many epochs on the
      hint alone, then labels (and KD) without it.
    clips: the regressor ends in a ReLU.
    ce_weight: of the labels.
    kd_weight, temperature: of the KD term; none in benchmarks.
  """
  teacher_tap = tap.partition(":")[2] or tap

  def hint(step: StepOutputs) -> jax.Array:
    return losses.hint_loss(step.connectors["regressor"], read_tap(step.teacher, teacher_tap, "teacher"))

  terms = label_terms(ce_weight, kd_weight, temperature) | {"hint": Term(hint, hint_weight)}
  if hint_epochs:
    terms = {name: term._replace(weight=between(term.weight, hint_epochs)) for name, term in terms.items()}
    terms["hint"] = Term(hint, between(hint_weight, 0.0, hint_epochs))
  return Recipe(terms, connectors={"regressor": hint_regressor(tap, clips=clips)})


@validated("method")
def at(
  *,
  taps: str = "stages",
  at_weight: Annotated[NonNegative, Traced] = 1000.0,
  power: NonNegative = 2.0,
  ce_weight: Annotated[NonNegative, Traced] = 1.0,
  kd_weight: NonNegative = 0.0,
  temperature: Annotated[Positive, Traced] = 4.0,
) -> Recipe:
  """`CE + at_weight sum_stages mean((A_s - A_t)^2)` with normalised attention maps `A` (arXiv 1612.03928).

  Args:
    taps: `"stages"` (all but the first tap), `"all"`, or names; see `jdistill.models.connectors.tap_pairs`.
    at_weight: of the sum over stages; 1000 in benchmarks.
    power: of the activations.
    ce_weight: of the labels.
    kd_weight, temperature: of the KD term; none in benchmarks.
  """

  def attention(step: StepOutputs) -> jax.Array:
    pairs = tap_pairs(step.student, step.teacher, taps)
    for pair in pairs:
      if pair.student.ndim < 3 or pair.teacher.ndim < 3:
        raise UserError(f"taps={taps!r}: {pair.name} has no places to attend to: at needs maps, not vectors")
    return sum(losses.attention_loss(pair.student, pair.teacher, power=power) for pair in pairs)

  return Recipe(label_terms(ce_weight, kd_weight, temperature) | {"at": Term(attention, at_weight)})


@validated("method")
def reviewkd(
  *,
  taps: str = "stages",
  review_weight: Annotated[NonNegative, Traced] = 5.0,
  warmup_epochs: NonNegative = 20.0,
  middle: Count = 512,
  ce_weight: Annotated[NonNegative, Traced] = 1.0,
  kd_weight: NonNegative = 0.0,
  temperature: Annotated[Positive, Traced] = 4.0,
) -> Recipe:
  """`CE + review_weight min(1, epoch / warmup) sum_levels HCL` after fusion from deep to shallow (arXiv 2104.09044).

  The teacher's maps are read where its taps are: before the activation in wide residual networks and MobileNetV2,
  behind it in the others, where the released code reads all of them before it.

  Args:
    taps: the levels beside the pooled vector; see `jdistill.models.connectors.tap_pairs`.
    review_weight: 0.6 to 8 by pair in the released code.
    warmup_epochs: until the review has its full weight.
    middle: the most channels in which levels are fused.
    ce_weight: of the labels.
    kd_weight, temperature: of the KD term; none in the paper.
  """

  def review(step: StepOutputs) -> jax.Array:
    return losses.review_hcl_loss(step.connectors["fusion"], review_levels(step.student, step.teacher, taps)[1])

  terms = label_terms(ce_weight, kd_weight, temperature)
  terms["review"] = Term(review, warmup(review_weight, warmup_epochs))
  return Recipe(terms, connectors={"fusion": review_fusion(taps, middle=middle)})
