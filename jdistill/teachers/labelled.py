"""Targets that know the classes of what is mixed into an image, for losses that ask for labels, too."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdistill.augment import mixed
from jdistill.base import Batch, Key, Outputs, PyTree, TargetSource


def partner_labels(y: jax.Array, record: PyTree) -> tuple[jax.Array, jax.Array]:
  """`(labels [B] of what is mixed into each image, share [] that it keeps)`; `(y, 1)` where nothing is mixed."""
  mix = mixed(record)
  return (y, jnp.ones((), jnp.float32)) if mix is None else (y[mix.partner], mix.share)


def mixed_taps(batch: Batch, record: PyTree) -> dict[str, jax.Array]:
  """What losses on mixed labels read: the `pasted` labels `[B]` and the `share` `[B]` that an image keeps."""
  pasted, share = partner_labels(batch.y, record)
  return {"pasted": pasted, "share": jnp.broadcast_to(share, pasted.shape)}


def labelled(source: TargetSource, nbytes: int) -> TargetSource:
  """The targets of a source, with `pasted` and `share` among their taps (`mixed_taps`).

  Args:
    source: any.
    nbytes: of the labels, which are counted beside those of the source.
  """
  return source._replace(targets=_with_labels(source.targets), nbytes=source.nbytes + nbytes)


@functools.lru_cache(maxsize=32)
def _with_labels(targets: Callable) -> Callable:
  """The same object, and so the same programs, for the same targets."""

  def found(arrays: PyTree, key: Key, batch: Batch, record: PyTree, step: jax.Array) -> tuple[Outputs, ...]:
    taps = mixed_taps(batch, record)
    return tuple(out._replace(taps=taps) for out in targets(arrays, key, batch, record, step))

  return found
