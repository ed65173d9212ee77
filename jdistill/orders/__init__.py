"""What the order of its batches does to a training, told from one reference training."""

from jdistill.orders.estimator import OrderEstimator, estimator
from jdistill.orders.projection import project, projection, recover
from jdistill.orders.reference import (
  Recording,
  Reference,
  check_order,
  check_replay,
  recording,
  reference_nbytes,
  store_gradients,
  train_order,
)
from jdistill.orders.search import Search, moved_orders, random_orders, search_curriculum
from jdistill.orders.taylor import Estimate, derivatives, estimate_order, require_finite

__all__ = [
  "Estimate",
  "OrderEstimator",
  "Recording",
  "Reference",
  "Search",
  "check_order",
  "check_replay",
  "derivatives",
  "estimate_order",
  "estimator",
  "moved_orders",
  "project",
  "projection",
  "random_orders",
  "recording",
  "recover",
  "reference_nbytes",
  "require_finite",
  "search_curriculum",
  "store_gradients",
  "train_order",
]
