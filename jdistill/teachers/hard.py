"""Hard labels as targets: the classes of the images, mixed as the images are."""

import functools

import jax
import jax.numpy as jnp

from jdistill.base import Batch, Key, Outputs, PyTree, TargetSource
from jdistill.teachers.labelled import mixed_taps

_BYTES = 4  # of a class, an int32


def one_hot(num_classes: int, *, count: int) -> TargetSource:
  """The classes of a batch's images and of what is mixed into them; no network is asked.

  Args:
    num_classes: C.
    count: images of the set, whose classes are all that must be kept: 4 bytes each.

  Returns:
    A `TargetSource` whose one entry has as logits `[B, C]` the probabilities `share onehot(y) + (1 - share)
    onehot(y_pasted)`, and in `taps` the `pasted` classes `[B]` and the `share` `[B]` that an image keeps; without
    mixing that is `(y, 1)`.
  """

  return TargetSource(_targets(num_classes), (), _BYTES * count, "hard labels")


@functools.lru_cache(maxsize=16)
def _targets(num_classes: int):
  """The same object for the same classes, so that programs are shared."""

  def targets(arrays: PyTree, key: Key, batch: Batch, record: PyTree, step: jax.Array) -> tuple[Outputs, ...]:
    del arrays, key, step
    taps = mixed_taps(batch, record)
    own, other = (jax.nn.one_hot(y, num_classes, dtype=jnp.float32) for y in (batch.y, taps["pasted"]))
    share = taps["share"][:, None]
    probs = share * own + (1 - share) * other
    return (Outputs(probs, jnp.zeros((probs.shape[0], 0), jnp.float32), taps=taps),)

  return targets
