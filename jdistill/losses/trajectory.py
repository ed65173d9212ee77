"""Losses that compare where training led a student with where it led an expert."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import PyTree
from jdistill.ops.checks import known
from jdistill.ops.precision import widen


def trajectory_matching(student: PyTree, target: PyTree, start: PyTree) -> jax.Array:
  """Squared distance of the student's end point to the expert's, in units of how far the expert moved.

  `|student - target|^2 / |start - target|^2`, squares summed over all parameters. The value is 1 for a student that
  did not move (an inner learning rate of zero) and 0 for one that arrived.

  Args:
    student: parameters after inner training; any pytree, or one flat vector.
    target: the expert's parameters at the end of the matched segment. No gradient.
    start: the expert's parameters at its start, where the student began too. No gradient.

  Returns:
    A scalar in float32 (float64 for float64). NaN or infinite in traced code where `start` equals `target`.

  Raises:
    ValueError: if the three trees differ in structure or shapes, or `start` is seen to equal `target`: an expert that
      did not move has no unit to measure in.

  References:
    Cazenavette et al., "Dataset Distillation by Matching Training Trajectories" (arXiv 2203.11932), eq. 2.
  """
  shapes = [jax.tree.map(np.shape, tree) for tree in (student, target, start)]
  if shapes[0] != shapes[1] or shapes[0] != shapes[2]:
    raise ValueError(f"trajectory_matching: student, target and start differ in shape: {shapes}")
  target, start = jax.lax.stop_gradient((target, start))

  def squared_distance(a, b):
    return sum(jax.tree.leaves(jax.tree.map(lambda u, v: jnp.sum(jnp.square(widen(u) - widen(v))), a, b)))

  moved = squared_distance(start, target)
  if known(moved) and moved == 0:
    raise ValueError("trajectory_matching: start equals target, so the expert's movement is no unit of distance")
  return squared_distance(student, target) / moved
