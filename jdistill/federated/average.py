"""What the server does with parameters of clients, and what holds clients near them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jdistill.base import PyTree


def fedavg(stacked: PyTree, weights: jax.Array) -> PyTree:
  """The weighted mean over clients, `sum_k w_k x_k / sum_k w_k`, leaf by leaf.

  Args:
    stacked: leaves `[clients, ...]`; those of clients of weight 0 may be anything.
    weights: `[clients]`, at least 0 and not all 0: the numbers of examples, or ones for the plain mean. A client that
      did not answer has 0.

  Returns:
    The leaves `[...]`, in their types.

  References:
    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data" (arXiv 1602.05629),
    alg. 1.
  """
  share = weights / jnp.sum(weights)

  def mean(leaf: jax.Array) -> jax.Array:
    own = share.reshape(-1, *(1,) * (leaf.ndim - 1))
    return jnp.sum(jnp.where(own > 0, own.astype(leaf.dtype) * leaf, 0), axis=0).astype(leaf.dtype)

  return jax.tree.map(mean, stacked)


def proximal(params: PyTree, centre: PyTree) -> jax.Array:
  """FedProx: `|theta - theta_global|^2 / 2` over all parameters, a scalar; `centre` has no gradient.

  References:
    Li et al., "Federated Optimization in Heterogeneous Networks" (arXiv 1812.06127), eq. 2.
  """
  gaps = jax.tree.map(lambda p, c: jnp.sum(jnp.square(p - jax.lax.stop_gradient(c))), params, centre)
  return sum(jax.tree.leaves(gaps)) / 2


def is_norm(path: Sequence) -> bool:
  """Whether a leaf of a network's variables belongs to a normalisation layer: its path has a name with `norm` or `bn`.

  Args:
    path: as `jax.tree_util.tree_map_with_path` gives it.
  """
  names = [str(getattr(part, "key", getattr(part, "name", ""))).lower() for part in path]
  return any("norm" in name or "bn" in name for name in names)


def norm_leaves(variables: PyTree) -> int:
  """How many leaves of a network's variables belong to normalisation layers."""
  return sum(is_norm(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables))


def with_norms(variables: PyTree, own: PyTree) -> PyTree:
  """FedBN: the variables, with the leaves of normalisation layers taken from `own`.

  References:
    Li et al., "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization" (arXiv 2102.07623), alg. 1.
  """
  return jax.tree_util.tree_map_with_path(lambda path, a, b: b if is_norm(path) else a, variables, own)
