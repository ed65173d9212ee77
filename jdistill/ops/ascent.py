"""Steps of a given length through all parameters of a network: up a loss, or in a random direction."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdistill.base import Key, PyTree


def global_norm(tree: PyTree) -> jax.Array:
  """The Euclidean norm over all arrays of a tree, a scalar."""
  return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def ascend(gradient: Callable[[PyTree], PyTree], params: PyTree, *, rho: float, steps: int) -> PyTree:
  """Ascends a loss by steps of equal length.

  From `theta_0 = params`, with the norm over all parameters,

      theta_s = theta_(s-1) + (rho / steps) g / ||g||,   g = gradient(theta_(s-1))

  Args:
    gradient: `params -> gradient` of the loss.
    params: pytree of arrays.
    rho: length of the whole way, at least 0; how far the end is from the start, if the direction does not turn.
    steps: how many, at least 1.

  Returns:
    `theta_steps`, of the same tree. Where the gradient is exactly 0 a step goes nowhere.

  Cost: `steps` gradients, one after the other.

  References:
    Du et al., "Diversity-Driven Synthesis: Enhancing Dataset Distillation through Directed Weight Adjustment" (arXiv
    2409.17612), alg. 1.
  """

  def step(theta: PyTree, _: None) -> tuple[PyTree, None]:
    direction = _unit(gradient(theta))
    return jax.tree.map(lambda p, d: p + (rho / steps) * d, theta, direction), None

  return jax.lax.scan(step, params, None, length=steps)[0]


def random_step(key: Key, params: PyTree, *, rho: float) -> PyTree:
  """Moves parameters by `rho` in a direction that is uniform over the sphere: the control of `ascend`.

  Args:
    key: decides the direction.
    params: pytree of arrays.
    rho: the norm of the displacement over all parameters.

  Returns:
    A tree like `params`.
  """
  leaves, structure = jax.tree.flatten(params)
  keys = jax.random.split(key, len(leaves))
  drawn = [jax.random.normal(one, leaf.shape, leaf.dtype) for one, leaf in zip(keys, leaves, strict=True)]
  return jax.tree.map(lambda p, d: p + rho * d, params, _unit(jax.tree.unflatten(structure, drawn)))


def _unit(tree: PyTree) -> PyTree:
  """The tree over its norm; zeros stay zeros."""
  largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))
  some = largest > 0
  # squares of the gradients of a teacher that is sure of everything would be lost in float32
  scaled = jax.tree.map(lambda leaf: leaf / jnp.where(some, largest, 1), tree)
  norm = jnp.where(some, global_norm(scaled), 1)
  return jax.tree.map(lambda leaf: leaf / norm, scaled)
