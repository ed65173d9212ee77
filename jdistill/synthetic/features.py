"""How a set of images with feature targets starts: real images, whatever their classes, and a network's features."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from jdistill.base import UserError
from jdistill.schema import validated
from jdistill.synthetic.initialise import Embed, Start
from jdistill.synthetic.set import SyntheticSet


@validated("method")
def feature_start(*, initial: Literal["real", "noise"] = "real") -> Start:
  """A set of `ipc` times the number of classes images, drawn without looking at any label, with feature targets.

  Args:
    initial: from random real images, or from noise, `N(0, 1)` in network space. Targets are the features that the
      target model gives to these images.
  """

  def check(method: Mapping[str, Any], teacher_train: Mapping[str, Any] | None) -> None:
    del method, teacher_train

  def empty(ipc: int, num_classes: int, image_shape: tuple[int, ...], width: int = 0) -> SyntheticSet:
    size = ipc * num_classes
    return SyntheticSet(np.zeros((size, *image_shape), np.float32), np.zeros((size, width), np.float32), np.float32(1))

  def make(images, labels, *, ipc: int, num_classes: int, seed: int, embed: Embed | None = None, **_) -> SyntheticSet:
    del labels
    rng, size = np.random.default_rng((seed, 2)), ipc * num_classes
    if embed is None:
      raise UserError("method: needs a target model whose features are learned from; add 'teachers' to config.stages")
    if size > len(images):
      raise UserError(f"ipc={ipc}: {size} images are asked for, and there are {len(images)}; lower ipc")
    if initial == "real":
      own = images[rng.permutation(len(images))[:size]]
    else:
      own = rng.normal(size=(size, *images.shape[1:])).astype(np.float32)
    return SyntheticSet(own, embed(own), np.float32(1))

  return Start(make, empty, check)
