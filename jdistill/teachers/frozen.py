"""Frozen networks as teachers: one, or a committee."""

import functools
import hashlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Batch, Key, LanguageModel, Network, Outputs, PyTree, TargetSource, UserError, Variables
from jdistill.ops.voting import check_weights


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


def committee(
  networks: Sequence[Network], variables: Sequence[Variables], *, train: bool = False, parts: int = 1
) -> TargetSource:
  """Frozen networks that look at every batch, in evaluation mode: running statistics, no dropout.

  Args:
    networks: one or several; the first is the one that methods for a single teacher use.
    variables: their parameters and statistics, in the same order.
    train: look in train mode instead: batch norm takes the statistics of the batch, so that an image's targets depend
      on its neighbours, and dropout is on. Nothing is learned: running statistics stay as they are.
    parts: in train mode, into how many equal parts a batch is divided, each of which batch norm normalises by itself;
      2 in CV-DD (arXiv 2501.07575).

  Returns:
    A `TargetSource` whose targets have one entry per network.

  Raises:
    UserError: no network, or as many variables as do not fit; from `targets` at trace time, networks of other numbers
      of classes, or a batch that `parts` does not divide or makes single images of.
  """
  if not networks or len(networks) != len(variables):
    raise UserError(
      f"teacher: {len(networks)} networks and {len(variables)} sets of parameters; give one each, or more"
    )

  arrays = tuple(Variables(*v) for v in variables)
  several = f", {len(networks)} networks" if len(networks) > 1 else ""
  mode = ", train mode" if train else ""
  writers = [one if isinstance(one, LanguageModel) else one.language for one in networks]
  return TargetSource(
    _asking(tuple(networks), train, parts), arrays, nbytes(arrays), f"online{several}{mode}",
    language=() if None in writers else tuple(writers),
  )  # fmt: skip


@functools.lru_cache(maxsize=32)
def _asking(networks: tuple[Network, ...], train: bool, parts: int) -> Callable:
  """`TargetSource.targets` of some networks; the same object, and so the same programs, for the same ones."""

  def targets(arrays: PyTree, key: Key, batch: Batch, record: PyTree, step: jax.Array) -> tuple[Outputs, ...]:
    del record, step
    pairs = zip(networks, arrays, strict=True)
    if train:
      found = [_in_parts(n, v, batch.x, key, parts) for n, v in pairs]
    else:
      found = [n.apply(v.params, batch.x, stats=v.stats) for n, v in pairs]
    counts = {out.logits.shape[-1] for out in found}
    if len(counts) > 1:
      raise UserError(f"teacher: its networks have {sorted(counts)} classes; they must have the same ones")
    return tuple(found)

  return targets


def _in_parts(network: Network, variables: Variables, x: PyTree, key: Key, parts: int) -> Outputs:
  """Train-mode logits and embedding of each part of a batch by itself, put together again."""
  size = jax.tree.leaves(x)[0].shape[0]
  check_parts(size, parts)
  found = []
  for number in range(parts):
    rows = slice(number * (size // parts), (number + 1) * (size // parts))
    rngs = {"dropout": key if parts == 1 else jax.random.fold_in(key, number)}
    seen = jax.tree.map(lambda leaf, rows=rows: leaf[rows], x)
    out = network.apply(variables.params, seen, stats=variables.stats, train=True, rngs=rngs)
    found.append(Outputs(out.logits, out.embedding))
  return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found)


def check_parts(batch_size: int, parts: int, *, key: str = "batch_size", least: int = 2) -> None:
  """Raises `UserError` unless `parts` divides a batch into parts of at least `least` examples."""
  if batch_size % parts:
    raise UserError(f"{key}={batch_size}: cannot be divided into {parts} equal parts; use a multiple of {parts}")
  if batch_size // parts < least:
    raise UserError(
      f"{key}={batch_size}: a network in train mode normalises by what it sees together, and {parts} parts leave it "
      f"one image, which has no statistics; use at least {least * parts}"
    )


def averaged(source: TargetSource, weights: Sequence[float] | None = None) -> TargetSource:
  """One teacher in the place of a committee: `sum_m w_m z_m`, the weighted mean of its logits.

  Args:
    source: of M teachers with the same classes in the same order.
    weights: `[M]`, which sum to 1; `None` for equal ones.

  Returns:
    A `TargetSource` of one teacher without features. It takes the bytes of the committee and of the weights.

  Raises:
    ValueError: weights that are negative or do not sum to 1; from `targets` at trace time, another number of weights.

  References:
    Cui et al. (arXiv 2501.07575): weights are taken over logits, not over probabilities.
  """
  own = None if weights is None else check_weights(weights)
  arrays = {"teachers": source.arrays} | ({} if own is None else {"weights": jnp.asarray(own)})
  size = source.nbytes + (0 if own is None else own.nbytes)
  replay = source.replay and _replay_of(source)
  return TargetSource(_averaging(source.targets), arrays, size, f"{source.name}, mean logits", replay)


@functools.lru_cache(maxsize=32)
def _averaging(several: Callable) -> Callable:
  """The same object for the same teachers; see `_asking`."""

  def targets(arrays: PyTree, key: Key, batch: Batch, record: PyTree, step: jax.Array) -> tuple[Outputs, ...]:
    logits = jnp.stack([out.logits for out in several(arrays["teachers"], key, batch, record, step)])
    shares = arrays.get("weights", jnp.full(len(logits), 1 / len(logits), logits.dtype))
    if shares.shape != logits.shape[:1]:
      raise ValueError(f"averaged: {shares.shape[0]} weights for {len(logits)} teachers; give one for each")
    mean = jnp.tensordot(shares.astype(logits.dtype), logits, 1, precision=jax.lax.Precision.HIGHEST)
    return (Outputs(mean, jnp.zeros((logits.shape[1], 0), logits.dtype)),)

  return targets


def drawn(source: TargetSource) -> TargetSource:
  """One teacher in the place of a committee: the logits of one of its members, drawn anew for every batch.

  Args:
    source: of teachers with the same classes in the same order; all of them are asked.

  Returns:
    A `TargetSource` of one teacher without features.
  """

  return source._replace(targets=_drawing(source.targets), name=f"{source.name}, one drawn")


@functools.lru_cache(maxsize=32)
def _drawing(several: Callable) -> Callable:
  """The same object for the same teachers; see `_asking`."""

  def targets(arrays: PyTree, key: Key, batch: Batch, record: PyTree, step: jax.Array) -> tuple[Outputs, ...]:
    logits = jnp.stack([out.logits for out in several(arrays, key, batch, record, step)])
    own = logits[jax.random.randint(jax.random.fold_in(key, 1), (), 0, len(logits))]
    return (Outputs(own, jnp.zeros((own.shape[0], 0), own.dtype)),)

  return targets


def _replay_of(source: TargetSource):
  return lambda arrays, step: source.replay(arrays["teachers"], step)
