"""The distilled set as a value, and the hash that names it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jdistill.files import sha256_arrays


class DistilledSet(NamedTuple):
  """Everything that makes a distilled set usable; images alone are not.

  Attributes:
    images: `[m, height, width, channels]` float32, in the preprocessed space.
    labels: `[m, classes]` float32 label logits, `[m]` int32 classes, or `[m, width]` float32 feature targets of a set
      that pre-trains networks, whose protocol has the loss `"features"`.
    learned_lr: the learning rate to train with; of most methods learned together with the images.
    preprocessing: what maps pixels to the space of the images and back, as `jdistill.data.preprocess.to_arrays` gives
      it: `kind` (a string), `mean`, `scale`, `inverse` and `vectors`.
    class_names: in the order of the labels; may be empty, and is for feature targets.
    protocol: JSON-able; how a network is trained on the set and scored.
    provenance: JSON-able; method, config, data set and versions that made it.
  """

  images: np.ndarray
  labels: np.ndarray
  learned_lr: float
  preprocessing: Mapping[str, np.ndarray]
  class_names: tuple[str, ...]
  protocol: Mapping[str, Any]
  provenance: Mapping[str, Any]


def artefact_sha256(images: np.ndarray, labels: np.ndarray, learned_lr: float) -> str:
  """Returns the SHA-256 that names a distilled set: dtype, shape and bytes of images, labels and the float32 rate."""
  return sha256_arrays({"images": images, "labels": labels, "learned_lr": np.float32(learned_lr)})
