"""How a student is run: in which precision, in how many passes, and as it predicts."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jdistill.base import Key, Network, Outputs, PyTree, Variables
from jdistill.methods.knowledge.recipe import Recipe

STUDENT = "student"
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
Forward = Callable[[PyTree, PyTree, PyTree, Key, bool], Outputs]  # (params, stats, x, key, train) -> Outputs


def make_forward(network: Network, precision: str) -> Forward:
  """A network's forward pass, computed in the given precision.

  Raises:
    ValueError: an unknown precision.
  """
  if precision not in PRECISIONS:
    raise ValueError(f"precision={precision!r}: unknown; choose one of {', '.join(PRECISIONS)}")
  dtype = PRECISIONS[precision]

  def forward(params: PyTree, stats: PyTree, x: PyTree, key: Key, train: bool) -> Outputs:
    return network.apply(cast(params, dtype), cast(x, dtype), train=train, rngs={"dropout": key}, stats=stats)

  return forward


def in_passes(forward: Forward, passes: int, params: PyTree, stats: PyTree, x: jax.Array, key: Key) -> Outputs:
  """The student in training mode on equal parts of `x` in turn; running statistics go from one to the next."""
  if passes == 1:
    return forward(params, stats, x, key, True)
  seen = []
  for part, own in zip(jnp.split(x, passes), jax.random.split(key, passes), strict=True):
    out = forward(params, stats, part, own, True)
    seen.append(out._replace(norm_inputs={}, stats={}))  # moments of parts are not those of the whole
    stats = out.stats
  whole = jax.tree.map(lambda *parts: jnp.concatenate(parts), *seen)
  return whole._replace(stats=stats)


def deployed(
  forward: Forward, recipe: Recipe, variables: Mapping[str, Variables], constants: PyTree
) -> Callable[[PyTree], jax.Array]:
  """The student as it predicts, `(x) -> logits` in evaluation mode."""

  def logits(x: PyTree) -> jax.Array:
    own = variables[STUDENT]
    return recipe.predict(forward(own.params, own.stats, x, jax.random.key(0), False), variables, constants)

  return logits


def cast(tree: PyTree, dtype) -> PyTree:
  """Floating leaves in another type; the others as they are."""
  return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)
