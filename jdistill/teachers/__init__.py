"""What real training left behind, as targets: expert trajectories and how to record, store and sample them."""

from jdistill.teachers.buffer import ExpertBuffer
from jdistill.teachers.experts import ExpertRecipe, expert_epoch, record_expert, record_experts
from jdistill.teachers.segments import SegmentPlan, expert_order, segment_bounds, segments, start_epoch

__all__ = [
  "ExpertBuffer",
  "ExpertRecipe",
  "SegmentPlan",
  "expert_epoch",
  "expert_order",
  "record_expert",
  "record_experts",
  "segment_bounds",
  "segments",
  "start_epoch",
]
