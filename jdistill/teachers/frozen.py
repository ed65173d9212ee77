"""Frozen networks as teachers: one, or a committee."""

import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Batch, Key, Network, Outputs, PyTree, TargetSource, UserError, Variables


def nbytes(tree: PyTree) -> int:
  """Bytes of all arrays of a tree."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def variables_hash(variables: PyTree) -> str:
  """A short name of trained parameters: SHA-256 over paths, types, shapes and values."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree.leaves_with_path(variables):
    array = np.ascontiguousarray(jax.device_get(leaf))
    digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape};".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()[:16]


def ask(source: TargetSource, x: PyTree, ids: jax.Array) -> tuple[Outputs, ...]:
  """What a target source gives outside of training: for the pixels as they are, at step 0.

  Args:
    source: the targets.
    x: `[n, ...]` the teacher's inputs.
    ids: `[n]` int32 names of the examples.
  """
  batch = Batch(x, jnp.zeros(jnp.shape(ids), jnp.int32), ids)
  return source.targets(source.arrays, jax.random.key(0), batch, None, jnp.zeros((), jnp.int32))


def committee(networks: Sequence[Network], variables: Sequence[Variables], *, train: bool = False) -> TargetSource:
  """Frozen networks that look at every batch, in evaluation mode: running statistics, no dropout.

  Args:
    networks: one or several; the first is the one that methods for a single teacher use.
    variables: their parameters and statistics, in the same order.
    train: look in train mode instead: batch norm takes the statistics of the batch, so that an image's targets depend
      on its neighbours, and dropout is on. Nothing is learned.

  Returns:
    A `TargetSource` whose targets have one entry per network.

  Raises:
    UserError: no network, or as many variables as do not fit.
  """
  if not networks or len(networks) != len(variables):
    raise UserError(
      f"teacher: {len(networks)} networks and {len(variables)} sets of parameters; give one each, or more"
    )

  def targets(arrays: PyTree, key: Key, batch: Batch, record: PyTree, step: jax.Array) -> tuple[Outputs, ...]:
    del record, step
    how = {"train": True, "rngs": {"dropout": key}} if train else {}
    found = [n.apply(v.params, batch.x, stats=v.stats, **how) for n, v in zip(networks, arrays, strict=True)]
    counts = {out.logits.shape[-1] for out in found}
    if len(counts) > 1:
      raise UserError(f"teacher: its networks have {sorted(counts)} classes; they must have the same ones")
    return tuple(found)

  arrays = tuple(Variables(*v) for v in variables)
  several = f", {len(networks)} networks" if len(networks) > 1 else ""
  mode = ", train mode" if train else ""
  return TargetSource(targets, arrays, nbytes(arrays), f"online{several}{mode}")
