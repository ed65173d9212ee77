"""What batches go through before teachers and students of a distilled set see them."""

import functools
from collections.abc import Mapping
from typing import Any

from jdistill import augment
from jdistill.base import Augmentation

OPTIONS = ("augment", "strips", "cells", "crop_scale", "flip", "mix")  # of the section `relabel`


def augmentation(c: Mapping[str, Any]) -> Augmentation:
  """What the options of the section `relabel` ask for; the same object for equal options."""
  return _augmentation(*(c[name] for name in OPTIONS))


@functools.lru_cache(maxsize=8)
def _augmentation(name: str, strips: int, cells: int, crop_scale: float | None, flip: bool, mix: str) -> Augmentation:
  parts = [] if name == "none" else [augment.named(name, key="relabel.augment")]
  parts += augment.windows(strips=strips, cells=cells, crop_scale=crop_scale, mirror=flip)
  if mix != "none":
    parts.append({"cutmix": augment.cutmix, "mixup": augment.mixup}[mix]())
  return augment.compose(*parts)
