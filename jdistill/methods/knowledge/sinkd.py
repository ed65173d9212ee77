"""SinKD: the batch of the student's predictions is carried to the teacher's at the least cost."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from jdistill import losses
from jdistill.base import UserError
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs, Term
from jdistill.methods.knowledge.terms import cross_entropy_term
from jdistill.ops.logits import is_excluded, probs
from jdistill.ops.precision import widen
from jdistill.schema import Count, NonNegative, Positive, Traced, validated

Divergence = Callable[..., jax.Array]  # (student logits, teacher logits, *, temperature, scale_t2) -> [B]


def soft_cross_entropy(student: jax.Array, teacher: jax.Array, *, temperature, scale_t2: bool) -> jax.Array:
  """`-sum_c t_c log s_c`: `KL(t || s)` plus the teacher's entropy, so of the same gradient."""
  return losses.soft_cross_entropy(student, jax.lax.stop_gradient(teacher), temperature=temperature, scale_t2=scale_t2)


def total_variation(student: jax.Array, teacher: jax.Array, *, temperature, scale_t2: bool) -> jax.Array:
  """`sum_c |s_c - t_c| / 2`, half of what an example's own pair costs in SinKD's plan."""
  s, t = (probs(z, temperature) for z in (student, jax.lax.stop_gradient(teacher)))
  out = jnp.sum(jnp.abs(s - t), axis=-1) / 2
  return out * temperature**2 if scale_t2 else out


DIVERGENCES: Mapping[str, Divergence] = {
  "cross_entropy": soft_cross_entropy,
  "kl": losses.kl_divergence,
  "reverse_kl": losses.reverse_kl,
  "js": losses.js_divergence,
  "total_variation": total_variation,
}


def annealed(first: float, last: float | None, epochs: float) -> Callable[[jax.Array], jax.Array | float]:
  """`T(e) = first + (last - first) e / (epochs - 1)` in whole epochs, `last` afterwards; constant for `last=None`."""
  if last is None:
    return lambda epoch: first
  return lambda epoch: first + (last - first) * jnp.clip(jnp.floor(epoch) / max(epochs - 1, 1), 0, 1)


@validated("method")
def sinkd(
  *,
  ce_weight: NonNegative = 0.1,
  kd_weight: NonNegative = 0.9,
  sd_weight: NonNegative = 0.0128,
  mse_weight: NonNegative = 0.0,
  divergence: Literal["cross_entropy", "kl", "reverse_kl", "js", "total_variation"] = "cross_entropy",
  temperature: Annotated[Positive, Traced] = 2.0,
  final_temperature: Positive | None = None,
  anneal_epochs: NonNegative = 0.0,
  scale_t2: bool = False,
  variant: Literal["batch", "sample"] = "batch",
  sd_temperature: Annotated[Positive, Traced] = 2.0,
  entropy_weight: Annotated[Positive, Traced] = 0.1,
  num_iters: Count = 20,
  implicit: bool = False,
  teacher_scale: Annotated[NonNegative, Traced] = 1.0,
  gradient_norms: bool = False,
) -> Recipe:
  """`(1 - a) CE + a D(teacher, student) + b' SD` (arXiv 2402.17110), with `SD` of `losses.sinkd_batch_loss`.

  `D` is the cross entropy with the teacher and has no factor `T^2`, as in the released code. `b' = 0.016 b` for its
  `0.001 b` at 16 examples per batch, because `SD` is divided by the number of examples here. The other divergences are
  the paper's baselines; with `kd_weight=0` the transport stands alone, with `sd_weight=0` a divergence does.

  Args:
    ce_weight: `1 - a` of the labels; 0.1 to 0.2 in the paper.
    kd_weight: `a` of `D`.
    sd_weight: `b'` of the transport; `b = 0.8` in the paper.
    mse_weight: of the mean squared difference of logits, for the baseline of divergence and logits.
    divergence: `D`: `"cross_entropy"`, `"kl"`, `"reverse_kl"`, `"js"` or `"total_variation"`.
    temperature: of `D`; 1 to 3.5 by task in the paper.
    final_temperature: where `D`'s temperature ends, linearly over `anneal_epochs`; `None` keeps it.
    anneal_epochs: how many epochs `D`'s temperature needs for it.
    scale_t2: multiply `D` by `T^2`.
    variant: `"batch"`, the method, or `"sample"`, the ablation with a plan between the classes of each example (its
      definition follows the paper's description; the released code has none).
    sd_temperature: of both softmaxes of the transport.
    entropy_weight: strength of the plan's entropy in units of the cost.
    num_iters: Sinkhorn iterations.
    implicit: no gradient reaches the plan.
    teacher_scale: multiplies the teacher's logits in all terms; above 1 the two sides overlap less.
    gradient_norms: report how steep every divergence is in the student's logits, whichever is trained with:
      `method/gradient_kl` and so on are means over examples of the norm of the example's gradient, without weights
      and without `T^2`; `method/overlap` is the mean of `sum_c min(s_c, t_c)` at `temperature`.

  Raises:
    UserError: no term with a weight.
  """
  heat = annealed(temperature, final_temperature, anneal_epochs)

  def teacher_logits(step: StepOutputs) -> jax.Array:
    logits = widen(step.teacher.logits)
    return jnp.where(is_excluded(logits), logits, logits * teacher_scale)

  def transport(student: jax.Array, teacher: jax.Array, where: jax.Array) -> jax.Array:
    loss = losses.sinkd_sample_loss if variant == "sample" else losses.sinkd_batch_loss
    solver = {"entropy_weight": entropy_weight, "num_iters": num_iters, "implicit": implicit}
    return loss(student, teacher, temperature=sd_temperature, scale_t2=False, where=where, **solver)

  def kd(step: StepOutputs) -> jax.Array:
    loss = DIVERGENCES[divergence]
    return loss(step.student.logits, teacher_logits(step), temperature=heat(step.epoch), scale_t2=scale_t2)

  def mse(step: StepOutputs) -> jax.Array:
    student, teacher = step.student.logits, teacher_logits(step)
    return losses.hint_loss(student, teacher, where=~(is_excluded(student) | is_excluded(teacher)))

  terms = {
    "ce": cross_entropy_term(ce_weight),
    "kd": Term(kd, kd_weight),
    "sinkhorn": Term(lambda step: transport(step.student.logits, teacher_logits(step), step.where), sd_weight),
    "logit_mse": Term(mse, mse_weight),
  }

  def metrics(step: StepOutputs) -> dict[str, jax.Array]:
    return _steepness(step, teacher_logits(step), heat(step.epoch), transport)

  weights = {"ce": ce_weight, "kd": kd_weight, "sinkhorn": sd_weight, "logit_mse": mse_weight}
  used = {name: term for name, term in terms.items() if weights[name]}
  if not used:
    raise UserError("method.sd_weight=0: all other weights are 0, too; give at least one term a weight")
  return Recipe(used, metrics=metrics if gradient_norms else None)


def _steepness(step: StepOutputs, teacher: jax.Array, temperature, transport) -> dict[str, jax.Array]:
  """Mean over examples of `||d l_i / d z_i||` for every divergence, and how much the two sides overlap."""
  student, where = widen(step.student.logits), step.where

  def norm(loss: Callable[[jax.Array], jax.Array]) -> jax.Array:
    slope = jax.grad(lambda z: jnp.sum(loss(z)))(student)
    return losses.masked_mean(jnp.linalg.norm(slope, axis=-1), where)

  def plan(z: jax.Array) -> jax.Array:
    cost = transport(z, teacher, where)
    return cost * jnp.sum(where).astype(cost.dtype) if cost.ndim == 0 else cost

  found = {"gradient_sinkhorn": norm(plan)}
  for name, loss in DIVERGENCES.items():
    if name != "cross_entropy":  # its gradient is that of "kl"
      found[f"gradient_{name}"] = norm(lambda z, loss=loss: loss(z, teacher, temperature=temperature, scale_t2=False))
  s, t = (probs(z, temperature) for z in (student, teacher))
  return found | {"overlap": losses.masked_mean(jnp.sum(jnp.minimum(s, t), axis=-1), where)}
