"""TAID: a target that starts near the student and moves to the teacher, faster while the loss falls."""

from typing import Annotated

import jax
import jax.numpy as jnp

from jdistill import losses
from jdistill.base import Key, PyTree, UserError
from jdistill.methods.knowledge.recipe import Memory, Recipe, StepOutputs
from jdistill.methods.language.terms import Reduction, Weight, counted, share_done, taught
from jdistill.schema import Count, Range, Share, validated


@validated("method")
def taid(
  *,
  t_start: Annotated[float, Range(0, 0.9999)] = 0.4,
  t_end: Annotated[float, Range(0.0001, 1)] = 1.0,
  rate: Share = 5e-4,
  momentum: Annotated[float, Range(0, 0.9999)] = 0.99,
  adaptive: bool = True,
  steps: Count | None = None,
  ce_weight: Weight = 0.0,
  kd_weight: Weight = 1.0,
  reduction: Reduction = "token_mean",
) -> Recipe:
  """`ce_weight CE + kd_weight H(p_t, q)` with `p_t = softmax((1 - t) stop_gradient(z_s) + t z_t)` (arXiv 2501.16937).

  The cross entropy `H` is per token, without the entropy of its target, as in the released code: its gradient in the
  student's logits is `q - p_t`, which is zero at `t = 0` and that of `KL(p || q)` at `t = 1`. With its value `L_n` in
  update `n = 0, 1, ...`, after it

      d_n = (L_{n-1} - L_n) / (L_{n-1} + 1e-15),   m_n = momentum m_{n-1} + (1 - momentum) d_n
      t_{n+1} = min(t_end, max(t_start + (t_end - t_start) n / N, t_n + rate sigmoid(m_n) (1 - t_n)))

  with `N` updates in all; the first update only stores its loss. So `t` never falls. Of several devices' batches it is
  the mean loss that counts (the release lets each have a `t` of its own).

  The rate is per update: with `sigmoid(m_n)` at 1/2 the linear floor wins in every update unless `rate N` exceeds
  `2 (t_end - t_start) / (1 - t_start)`, which is 2 for `t_end = 1`. TAID is then its own ablation, and plans and logs
  say so. The paper's runs have `rate N` near 8 (an estimate); keep that product in shorter ones.

  `method/t`, `method/momentum`, `method/adaptive` (the share of updates so far in which the second branch won) and
  `method/kl_to_target`, `KL(p_t || q)`, are reported.

  Args:
    t_start, t_end: the teacher's share of the target at the beginning and at most; 0.4 for Phi-3-mini and TinyLlama,
      0.2 for the paper's other pairs.
    rate: the paper's alpha.
    momentum: the paper's beta.
    adaptive: false leaves the linear floor alone: the ablation.
    steps: `N`; open for as many as the epochs of the training have, of which the share that is done is counted.
    ce_weight, kd_weight: of labels and teacher; the paper's distil_ratio is `kd_weight = 1 - ce_weight`.
    reduction: see `jdistill.losses.reduce_tokens`.

  Raises:
    UserError: `t_end` below `t_start`.
    ValueError: at trace time, `steps` is open and nobody said how many epochs there are.
  """
  if t_end < t_start:
    raise UserError(f"method.t_end={t_end}: must be at least t_start={t_start}")

  def values(step: StepOutputs, where: jax.Array) -> jax.Array:
    both = step.student.logits, step.teacher.logits
    return losses.taid_loss(*both, interpolation=step.memory["t"], where=where)

  def loss(step: StepOutputs) -> jax.Array:
    where = counted(step)
    return losses.reduce_tokens(values(step, where), where, reduction=reduction)

  def update(step: StepOutputs) -> PyTree:
    floor = t_start + (t_end - t_start) * share_done("taid", step.memory["n"], steps, step.epoch, step.epochs)
    return _next(step.memory, loss(step), floor, t_end, rate, momentum, adaptive)

  def metrics(step: StepOutputs) -> dict[str, jax.Array]:
    memory, where = step.memory, counted(step)
    target = losses.interpolated_target(step.student.logits, step.teacher.logits, memory["t"])
    apart = losses.kl_divergence(step.student.logits, target, where=where)
    return {
      "t": memory["t"],
      "momentum": memory["momentum"],
      "adaptive": memory["won"] / jnp.maximum(memory["n"], 1).astype(jnp.float32),
      "kl_to_target": losses.reduce_tokens(apart, where, reduction=reduction),
    }

  recipe = taught("taid", values, ce_weight=ce_weight, kd_weight=kd_weight, reduction=reduction)
  least = 2 * (t_end - t_start) / (1 - t_start)

  def advice(updates: int) -> str:
    total = steps or updates
    if not adaptive or rate * total > least:
      return ""
    more = f"set rate={8 / total:.2g} for the paper's product of about 8" if total >= 8 else "train longer"
    return (
      f"method.rate={rate:g} x {total} updates = {rate * total:.3g}: at most {least:.3g} leaves TAID the linear "
      f"schedule; {more}, or adaptive=False"
    )

  return recipe._replace(
    memory=Memory(lambda key, count, batch: _begin(key, t_start), update), metrics=metrics, advice=advice
  )


def _begin(key: Key, t_start: float) -> PyTree:
  del key
  zero, never = jnp.zeros((), jnp.float32), jnp.full((), jnp.inf, jnp.float32)
  return {"t": zero + t_start, "before": never, "momentum": zero, "n": jnp.zeros((), jnp.int32), "won": zero}


def _next(memory: PyTree, loss: jax.Array, floor, t_end: float, rate: float, momentum: float, adaptive: bool) -> PyTree:
  """The memory after an update with this loss; `floor` is the linear schedule there."""
  first = jnp.isinf(memory["before"])
  before = jnp.where(first, loss, memory["before"])  # no change in the first update
  gain = (before - loss) / (before + 1e-15)
  moved = jnp.where(first, memory["momentum"], momentum * memory["momentum"] + (1 - momentum) * gain)
  ahead = memory["t"] + rate * jax.nn.sigmoid(moved) * (1 - memory["t"]) if adaptive else jnp.zeros_like(memory["t"])
  t = jnp.where(first, memory["t"], jnp.minimum(t_end, jnp.maximum(floor, ahead)))
  won = jnp.where(first, 0.0, (ahead > floor).astype(jnp.float32))
  return {"t": t, "before": loss, "momentum": moved, "n": memory["n"] + 1, "won": memory["won"] + won}
