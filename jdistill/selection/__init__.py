"""Which unlabelled images to distil on."""

from jdistill.selection.confidence import (
  Mined,
  classwise_confidence_select,
  mine_top_k_per_class,
  near_duplicate_mask,
  selection_mixing_weight,
)

__all__ = [
  "Mined",
  "classwise_confidence_select",
  "mine_top_k_per_class",
  "near_duplicate_mask",
  "selection_mixing_weight",
]
