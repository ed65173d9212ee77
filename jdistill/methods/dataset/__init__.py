"""Data-set distillation."""

from jdistill.methods.dataset.trajectory import Segment, TrajectoryState, trajectory_method

__all__ = ["Segment", "TrajectoryState", "trajectory_method"]
