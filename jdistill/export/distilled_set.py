"""The distilled set as a value, and the hash that names it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jdistill.data import preprocess
from jdistill.files import sha256_arrays
from jdistill.synthetic import SyntheticSet, compensated


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
    compensators: `[slices, per slice, height, width, channels]` float32, images that are added to the others before
      networks are trained on them (`whole`); `()` for none.
  """

  images: np.ndarray
  labels: np.ndarray
  learned_lr: float
  preprocessing: Mapping[str, np.ndarray]
  class_names: tuple[str, ...]
  protocol: Mapping[str, Any]
  provenance: Mapping[str, Any]
  compensators: np.ndarray | tuple[()] = ()


def whole(distilled: DistilledSet) -> DistilledSet:
  """The set with all images that it stands for, and without compensators; sums are clipped to the range of pixels."""
  if isinstance(distilled.compensators, tuple):
    return distilled
  ends = preprocess.pixel_range(preprocess.from_arrays(distilled.preprocessing), distilled.images.shape[1:])
  own = SyntheticSet(distilled.images, distilled.labels, distilled.learned_lr, distilled.compensators)
  made = compensated(own, ends)
  return distilled._replace(images=made.images, labels=made.labels, compensators=())


def artefact_sha256(
  images: np.ndarray, labels: np.ndarray, learned_lr: float, compensators: np.ndarray | tuple[()] = ()
) -> str:
  """The SHA-256 that names a distilled set: dtype, shape and bytes of what it stores, and the float32 rate."""
  more = {} if isinstance(compensators, tuple) else {"compensators": compensators}
  return sha256_arrays({"images": images, "labels": labels, "learned_lr": np.float32(learned_lr)} | more)
