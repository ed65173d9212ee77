"""Which images to distil on, which real ones stand for all of them, and which to ask a teacher about."""

from jdistill.selection.clusters import kmeans, representative
from jdistill.selection.confidence import (
  Mined,
  classwise_confidence_select,
  mine_top_k_per_class,
  near_duplicate_mask,
  selection_mixing_weight,
)
from jdistill.selection.coresets import herding, k_center, k_means
from jdistill.selection.corpus import (
  SCORERS,
  check_disjoint,
  difference_score,
  flops_matched_steps,
  select_top_fraction,
)
from jdistill.selection.mixtures import domain_discrepancy, mixture_sampler, smooth_discrepancy_update
from jdistill.selection.probabilities import dual_head_probs, entropy, least_confidence, margin_gain
from jdistill.selection.queries import Pool
from jdistill.selection.robust import Robust, capped_distribution, rad_distribution, systematic_sample
from jdistill.selection.select import RULES, SELECTORS, Choice, Evidence, Selector, budgets, check, needs, select
from jdistill.selection.selectors import CHOICES

__all__ = [
  "CHOICES",
  "RULES",
  "SCORERS",
  "SELECTORS",
  "Choice",
  "Evidence",
  "Mined",
  "Pool",
  "Robust",
  "Selector",
  "budgets",
  "capped_distribution",
  "check",
  "check_disjoint",
  "classwise_confidence_select",
  "difference_score",
  "domain_discrepancy",
  "dual_head_probs",
  "entropy",
  "flops_matched_steps",
  "herding",
  "k_center",
  "k_means",
  "kmeans",
  "least_confidence",
  "margin_gain",
  "mine_top_k_per_class",
  "mixture_sampler",
  "near_duplicate_mask",
  "needs",
  "rad_distribution",
  "representative",
  "select",
  "select_top_fraction",
  "selection_mixing_weight",
  "smooth_discrepancy_update",
  "systematic_sample",
]
