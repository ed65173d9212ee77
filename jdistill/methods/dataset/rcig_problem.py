"""The inner and the outer problem of RCIG: a linearised network whose last layer is solved for."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.base import Batch, Network, PyTree, Variables
from jdistill.bilevel import linearise
from jdistill.losses import cross_entropy
from jdistill.methods.dataset.regression import label_margin, share_correct, with_mirrors
from jdistill.ops import krr_solve
from jdistill.ops.pairwise import gram

Learned = dict[str, jax.Array]


class Problem(NamedTuple):
  """The two losses of a step, functions of `tau`, a change of the network's parameters, and of what is learned.

  Attributes:
    inner: `(tau, learned) -> scalar`, quadratic in `tau`.
    outer: `(tau, learned) -> (scalar, accuracy)`.
    start: `tau` of zero.
  """

  inner: Callable[[PyTree, Learned], jax.Array]
  outer: Callable[[PyTree, Learned], tuple[jax.Array, jax.Array]]
  start: PyTree


def convex_problem(
  network: Network,
  variables: Variables,
  batch: Batch,
  labels: jax.Array | None = None,
  *,
  l2: float,
  margin_weight: float = 1.0,
  keep_output: bool = True,
  use_flip: bool = False,
) -> Problem:
  """The losses of RCIG around one network.

  With `f(x) = f_0(x) + <grad f_0(x), tau>` and the features `K = <phi_0, phi_0>` of the network as it is, ridge
  regression adds the best change of the last layer to any `tau`:

      inner = (|y_s - p_s|^2 + l2 (tr a' K_ss a + |tau|^2)) / (2 m C),   a = (K_ss + l2 I)^-1 (y_s - f(x_s)),
      p_s = f(x_s) + K_ss a,   p_r = f(x_r) + K_rs a
      outer = mean_i CE(exp(log_temperature) p_r, class_i) - margin_weight mean_j min(gap_j, 1/(2 C))

  Args:
    network: with second derivatives.
    variables: where it is linearised.
    batch: real images and their classes.
    labels: `[m, classes]` where they are not learned.
    l2: of the ridge regression and of `tau`.
    margin_weight, keep_output, use_flip: as for `rcig`.
  """

  def parts(tau: PyTree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Features `[n, F]` and outputs `[n, classes]`."""

    def forward(params: PyTree) -> tuple[jax.Array, jax.Array]:
      out = network.apply(params, x, stats=variables.stats)
      return out.logits, out.embedding

    (start, features), (change, _) = linearise(forward, variables.params, _without_head(tau))
    return features, start + change if keep_output else change

  def fit(tau: PyTree, learned: Learned):
    """The set's features, what its outputs lack, and the last layer's change in dual form."""
    x, y = learned["images"], learned.get("labels", labels)
    x, y = with_mirrors(x, y) if use_flip else (x, y)
    features, outputs = parts(tau, x)
    return features, y - outputs, krr_solve(gram(features, features), y - outputs, l2)

  def inner(tau: PyTree, learned: Learned) -> jax.Array:
    _, lacking, dual = fit(tau, learned)
    # |y - p|^2 + l2 a'Ka = l2 a'(y - f) as y - p = l2 a
    return 0.5 * l2 * (jnp.sum(lacking * dual) + square(tau)) / lacking.size

  def outer(tau: PyTree, learned: Learned) -> tuple[jax.Array, jax.Array]:
    features, _, dual = fit(tau, learned)
    real, outputs = parts(tau, batch.x)
    predictions = outputs + jnp.matmul(gram(real, features), dual, precision=lax.Precision.HIGHEST)
    loss = jnp.mean(cross_entropy(jnp.exp(learned["log_temperature"]) * predictions, batch.y))
    own = learned.get("labels", labels)
    loss = loss - margin_weight * label_margin(own, 1 / (2 * own.shape[1]))
    return loss, share_correct(predictions, batch.y)

  return Problem(inner, outer, jax.tree.map(jnp.zeros_like, variables.params))


def square(tree: PyTree) -> jax.Array:
  """The sum of the squares of all numbers."""
  return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))


def _without_head(tau: PyTree) -> PyTree:
  """`tau` without the matrix of the layer `head`, which ridge regression finds; all of it where none is called so."""

  def one(path: tuple, leaf: jax.Array) -> jax.Array:
    names = [getattr(part, "key", None) for part in path]
    return jnp.zeros_like(leaf) if "head" in names and leaf.ndim > 1 else leaf

  return jax.tree_util.tree_map_with_path(one, tau)
