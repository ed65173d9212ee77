"""Random transformations as a record of the draw plus its application: replayable, and differentiable in the pixels."""

from jdistill.augment.basic import FlipCropRecord, compose, flip_crop, identity
from jdistill.augment.crop import CellRecord, CropRecord, cell_crop, cell_sides, flip, resized_crop, roll_jitter
from jdistill.augment.mix import MixRecord, cutmix, mix_distribution, mix_targets, mixed, mixup
from jdistill.augment.named import named, of_protocol, windows
from jdistill.augment.siamese import DsaParams, DsaRecord, dsa
from jdistill.augment.strips import StripRecord, shuffle_strips
from jdistill.augment.views import caution, repeat, show, view

__all__ = [
  "CellRecord",
  "CropRecord",
  "DsaParams",
  "DsaRecord",
  "FlipCropRecord",
  "MixRecord",
  "StripRecord",
  "caution",
  "cell_crop",
  "cell_sides",
  "compose",
  "cutmix",
  "dsa",
  "flip",
  "flip_crop",
  "identity",
  "mix_distribution",
  "mix_targets",
  "mixed",
  "mixup",
  "named",
  "of_protocol",
  "repeat",
  "resized_crop",
  "roll_jitter",
  "show",
  "shuffle_strips",
  "view",
  "windows",
]
