"""Swing distillation: what a teacher says at private positions of a sequence is softened and blurred."""

from typing import Annotated, Literal

import jax

from jdistill import losses
from jdistill.base import UserError
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs, Term
from jdistill.methods.knowledge.terms import over_positions
from jdistill.schema import NonNegative, Positive, Traced, validated

NO_NOISE = "none"


@validated("method")
def swing(
  *,
  tau_lo: Positive = 1.0,
  tau_hi: Positive = 10.0,
  epsilon: Positive = 1000.0,
  mechanism: Literal["laplace", "gaussian", "none"] = "laplace",
  noise_on: Literal["probabilities", "logits"] = "probabilities",
  mask_labels: bool = True,
  mask_private: bool = False,
  reverse: bool = False,
  ce_weight: Annotated[NonNegative, Traced] = 0.1,
  kd_weight: Annotated[NonNegative, Traced] = 0.9,
) -> Recipe:
  """`ce_weight (1 - rho) CE + kd_weight KL(u || softmax(z_s / tau))`, means over positions (arXiv 2212.08349).

  `rho` is how likely the predicted token is private, the examples' `private` `[B, L]`. The temperature swings with it,
  `tau = tau_lo + (tau_hi - tau_lo) rho`, and `u` is the teacher's `softmax(z_t / tau)` with fresh noise in every step.
  There is no factor `tau^2`, which would give private positions the largest gradients.

  The abstract of the paper fixes that the temperature depends on `rho` and that the targets are noisy; the formulas are
  this library's reading (unverified). Noise on targets alone gives **no** formal differential privacy.

  Args:
    tau_lo: temperature of ordinary positions; 1 to 2.
    tau_hi: temperature of private positions; 10 and more.
    epsilon: the budget; the noise has scale `1 / epsilon` in every class.
    mechanism: `"laplace"`, `"gaussian"`, or `"none"` for no noise.
    noise_on: `"probabilities"` (then cut at 0 and normalised again) or `"logits"`.
    mask_labels: leave private positions out of the cross entropy; else the student learns them from the data itself.
    mask_private: leave them out of the divergence, too, so that nothing at all is learned there.
    reverse: `1 - rho` for the temperature: the control that should fail.
    ce_weight, kd_weight: of labels and teacher.

  Raises:
    UserError: `tau_lo > tau_hi`.
    ValueError: at trace time, examples without `private` or with one of another shape. `rho` outside [0, 1] makes the
      loss NaN, which stops a run.
  """
  if tau_lo > tau_hi:
    raise UserError(f"method.tau_lo={tau_lo}: must be at most tau_hi={tau_hi}")
  noise = {"epsilon": float("inf"), "mechanism": "laplace"} if mechanism == NO_NOISE else {
    "epsilon": epsilon, "mechanism": mechanism,
  }  # fmt: skip

  def labels(step: StepOutputs) -> jax.Array:
    values = losses.cross_entropy(step.student.logits, step.y)
    return over_positions(step, values * (1 - _rho(step)) if mask_labels else values)

  def teacher(step: StepOutputs) -> jax.Array:
    rho = _rho(step)
    values = losses.swing_kd_loss(
      step.key,
      step.student.logits,
      step.teacher.logits,
      1 - rho if reverse else rho,
      tau_lo=tau_lo,
      tau_hi=tau_hi,
      noise_on=noise_on,
      scale_t2=False,
      where=step.batch.extra.get("mask"),
      **noise,
    )
    return over_positions(step, values * (1 - rho) if mask_private else values)

  return Recipe({"ce": Term(labels, ce_weight), "swing": Term(teacher, kd_weight)})


def _rho(step: StepOutputs) -> jax.Array:
  rho = step.batch.extra.get("private")
  if rho is None or rho.shape != step.student.logits.shape[:-1]:
    found = "are missing" if rho is None else f"have shape {rho.shape}"
    raise ValueError(
      f"private: probabilities of private positions {found}, and logits {step.student.logits.shape} need "
      f"{step.student.logits.shape[:-1]}; use a task of token sequences that has them, such as 'canaries'"
    )
  return rho
