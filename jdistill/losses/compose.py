"""Sums of named losses with weights that may change while a network trains."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import masked_mean
from jdistill.ops.checks import check_at_least
from jdistill.ops.precision import widen

Weight = float | jax.Array | Callable[[jax.Array], jax.Array]


def warmup_weight(step: jax.Array | float, *, warmup_steps: float) -> jax.Array:
  """A weight that grows linearly, `min(1, step / warmup_steps)`; 1 from the start for `warmup_steps = 0`.

  Args:
    step: scalar, how many steps (or epochs, in the unit of `warmup_steps`) are done.
    warmup_steps: when the weight reaches 1.

  Returns:
    A scalar in `[0, 1]`.

  Raises:
    ValueError: if `warmup_steps` is seen to be negative.

  References:
    The schedule of DKD (arXiv 2203.08679), ReviewKD (arXiv 2104.09044) and ND (arXiv 2305.17007), there 20 epochs.
  """
  check_at_least("warmup_weight", 0, warmup_steps=warmup_steps)
  step = jnp.asarray(step, jnp.float32)
  length = jnp.asarray(warmup_steps, jnp.float32)
  some = length > 0
  return jnp.where(some, jnp.minimum(1.0, step / jnp.where(some, length, 1)), 1.0)


def weighted_sum(
  losses: Mapping[str, jax.Array],
  weights: Mapping[str, Weight],
  *,
  step: jax.Array | float = 0.0,
  where: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """`sum_k w_k mean(l_k)` and its parts.

  Args:
    losses: by name; `[B]`, which are averaged, or scalars.
    weights: by name, of the same names: numbers, or schedules `step -> scalar`.
    step: what schedules are asked for, in their unit (the trainer's is the epoch, with its fraction).
    where: `[B]`, false (or 0) for padding; scalars have to mind it themselves.

  Returns:
    `(the sum, a float32 scalar; {name: the mean, unweighted})`.

  Raises:
    ValueError: the names differ, or a loss is neither `[B]` nor a scalar.
  """
  if set(losses) != set(weights):
    raise ValueError(f"weighted_sum: losses {sorted(losses)} and weights {sorted(weights)} must have the same names")
  total, logs = jnp.zeros((), jnp.float32), {}
  for name, value in losses.items():
    if np.ndim(value) > 1:
      raise ValueError(f"weighted_sum: {name} has shape {np.shape(value)}; give one value per example or one in all")
    value = widen(value)
    logs[name] = value if value.ndim == 0 else masked_mean(value, where)
    weight = weights[name]
    weight = weight(jnp.asarray(step, jnp.float32)) if callable(weight) else weight
    total = total + jnp.asarray(weight, logs[name].dtype) * logs[name]
  return total, logs
