"""The synthetic set as a value."""

from typing import NamedTuple

import jax
import numpy as np


class SyntheticSet(NamedTuple):
  """Synthetic images with what a student needs to learn from them.

  Attributes:
    images: `[m, height, width, channels]` in network space.
    labels: `[m, classes]` label logits, `[m]` integer labels, or `[m, width]` feature vectors of sets that pre-train.
    lr: scalar learning rate for training on them.
    compensators: `[slices, per slice, height, width, channels]` images that are added to the others, which are then
      `m = classes * slices`, class by class (`jdistill.synthetic.compensated`); `()` for none.
  """

  images: jax.Array
  labels: jax.Array
  lr: jax.Array
  compensators: jax.Array | tuple[()] = ()


def to_arrays(synthetic: SyntheticSet) -> dict[str, np.ndarray]:
  """The arrays of a set by name, without what it does not have; `SyntheticSet(**arrays)` is the set again."""
  return {name: np.asarray(value) for name, value in synthetic._asdict().items() if not isinstance(value, tuple)}
