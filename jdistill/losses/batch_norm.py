"""Losses on the statistics that batch norm keeps of the data its network was trained on."""

from collections.abc import Sequence

import jax
import numpy as np

from jdistill.ops.pairwise import safe_norm
from jdistill.ops.precision import widen

Moments = Sequence[tuple[jax.Array, jax.Array]]  # per layer the mean and the variance, [channels] each


def bn_stat_loss(
  batch: Moments, running: Moments, *, first_layer_multiplier: float = 10.0, variance_weight: float = 1.0
) -> jax.Array:
  """How far the statistics of a batch are from those that a network's batch norms remember of real data.

      sum_l w_l (||mean_l - running_mean_l|| + v ||var_l - running_var_l||),   w_0 = 10, all other w_l = 1

  The norms are plain Euclidean ones over channels, not squared.

  Args:
    batch: per layer, in the order of the forward pass, mean and biased variance `[channels]` over batch and space of
      what enters the batch norm (`Outputs.norm_inputs` of a network in evaluation mode).
    running: the running mean and variance of the same layers. No gradient.
    first_layer_multiplier: `w_0`.
    variance_weight: `v`.

  Returns:
    A scalar. Its gradient is 0 in a term that is exactly 0.

  Raises:
    ValueError: no layer, other numbers of layers on both sides, or moments of other shapes.

  Cost: nothing beside the forward pass.

  References:
    Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion" (arXiv 1912.08795), eq. 4; the
    weight of the first layer as in the released code of Yin et al., "Squeeze, Recover and Relabel" (arXiv 2306.13092).
  """
  if not batch or len(batch) != len(running):
    raise ValueError(
      f"bn_stat_loss: batch has {len(batch)} layers and running {len(running)}; give the same ones, at least one"
    )
  total = 0.0
  for number, (found, wanted) in enumerate(zip(batch, running, strict=True)):
    if any(np.shape(a) != np.shape(b) for a, b in zip(found, wanted, strict=True)):
      shapes = [[np.shape(a) for a in moments] for moments in (found, wanted)]
      raise ValueError(f"bn_stat_loss: layer {number}: moments {shapes[0]} of the batch, {shapes[1]} running")
    mean, variance = (safe_norm(widen(a) - jax.lax.stop_gradient(widen(b))) for a, b in zip(found, wanted, strict=True))
    weight = first_layer_multiplier if number == 0 else 1.0
    total = total + weight * (mean + variance_weight * variance)
  return total
