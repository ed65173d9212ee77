"""Losses that compare where training led a student with where it led an expert."""

import jax
import jax.numpy as jnp

from jdistill.base import PyTree


def trajectory_matching(student: PyTree, target: PyTree, start: PyTree) -> jax.Array:
  """Squared distance of the student's end point to the expert's, in units of how far the expert moved.

  `|student - target|^2 / |start - target|^2`, squares summed over all parameters. The value is 1 for a student that
  did not move (an inner learning rate of zero) and 0 for one that arrived.

  Args:
    student: parameters after inner training; any pytree, or one flat vector.
    target: the expert's parameters at the end of the matched segment. No gradient.
    start: the expert's parameters at its start, where the student began too. No gradient.

  Returns:
    A scalar. Infinite or NaN where `start` equals `target`.

  Raises:
    ValueError: if the three trees differ in structure or shapes.

  References:
    Cazenavette et al., "Dataset Distillation by Matching Training Trajectories" (arXiv 2203.11932), eq. 2.
  """
  shapes = [jax.tree.map(jnp.shape, tree) for tree in (student, target, start)]
  if shapes[0] != shapes[1] or shapes[0] != shapes[2]:
    raise ValueError(f"trajectory_matching: student, target and start differ in shape: {shapes}")
  target, start = jax.lax.stop_gradient((target, start))

  def squared_distance(a, b):
    return sum(jax.tree.leaves(jax.tree.map(lambda u, v: jnp.sum(jnp.square(u - v)), a, b)))

  return squared_distance(student, target) / squared_distance(start, target)
