"""Which images to distil on, and which real ones stand for all of them."""

from jdistill.selection.clusters import kmeans, representative
from jdistill.selection.confidence import (
  Mined,
  classwise_confidence_select,
  mine_top_k_per_class,
  near_duplicate_mask,
  selection_mixing_weight,
)
from jdistill.selection.coresets import CHOICES, herding, k_center, k_means, per_class
from jdistill.selection.select import SELECTORS, Choice, Evidence, Selector, budgets, needs, select

__all__ = [
  "CHOICES",
  "SELECTORS",
  "Choice",
  "Evidence",
  "Mined",
  "Selector",
  "budgets",
  "classwise_confidence_select",
  "herding",
  "k_center",
  "k_means",
  "kmeans",
  "mine_top_k_per_class",
  "near_duplicate_mask",
  "needs",
  "per_class",
  "representative",
  "select",
  "selection_mixing_weight",
]
