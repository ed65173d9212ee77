"""What real training left behind, as targets: expert trajectories and how to record, store and sample them."""

from jdistill.teachers.buffer import ExpertBuffer
from jdistill.teachers.segments import check_bounds, expert_order, segment_bounds, start_epoch

__all__ = [
  "ExpertBuffer",
  "check_bounds",
  "expert_order",
  "segment_bounds",
  "start_epoch",
]
