"""Data-set distillation."""

from jdistill.base import Segment
from jdistill.methods.dataset.trajectory import TrajectoryState, trajectory_method

__all__ = ["Segment", "TrajectoryState", "trajectory_method"]
