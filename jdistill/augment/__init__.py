"""Random transformations as a record of the draw plus its application: replayable, and differentiable in the pixels."""

from jdistill.augment.basic import FlipCropRecord, compose, flip_crop, identity
from jdistill.augment.mix import mix_distribution
from jdistill.augment.siamese import DsaParams, DsaRecord, dsa

__all__ = ["DsaParams", "DsaRecord", "FlipCropRecord", "compose", "dsa", "flip_crop", "identity", "mix_distribution"]
