"""What real training left behind, as targets: recorded trajectories, frozen networks, and stored outputs."""

from jdistill.teachers.buffer import ExpertBuffer

__all__ = ["ExpertBuffer"]
