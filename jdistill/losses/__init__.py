"""Pure loss functions, named by what they compare."""

from jdistill.losses.logit import cross_entropy, soft_cross_entropy
from jdistill.losses.trajectory import trajectory_matching

__all__ = ["cross_entropy", "soft_cross_entropy", "trajectory_matching"]
