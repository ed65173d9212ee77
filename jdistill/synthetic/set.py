"""The synthetic set as a value."""

from typing import NamedTuple

import jax


class SyntheticSet(NamedTuple):
  """Synthetic images with what a student needs to learn from them.

  Attributes:
    images: `[m, height, width, channels]` in network space.
    labels: `[m, classes]` label logits, `[m]` integer labels, or `[m, width]` feature vectors of sets that pre-train.
    lr: scalar learning rate for training on them.
  """

  images: jax.Array
  labels: jax.Array
  lr: jax.Array
