"""What real training left behind, as targets: expert trajectories and how to record, store and sample them."""

from jdistill.teachers.buffer import ExpertBuffer
from jdistill.teachers.segments import SegmentPlan, expert_order, segment_bounds, segments, start_epoch

__all__ = [
  "ExpertBuffer",
  "SegmentPlan",
  "expert_order",
  "segment_bounds",
  "segments",
  "start_epoch",
]
