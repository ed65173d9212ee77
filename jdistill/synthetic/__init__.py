"""What data-set distillation learns, and how it starts."""

from jdistill.synthetic.compensators import compensated, materialise
from jdistill.synthetic.features import feature_start
from jdistill.synthetic.feed import Feed, Materials
from jdistill.synthetic.initialise import Budget, Start, correctly_predicted, expert_label_logits, random_real, start
from jdistill.synthetic.set import SyntheticSet, to_arrays

__all__ = [
  "Budget", "Feed", "Materials", "Start", "SyntheticSet", "compensated", "correctly_predicted", "expert_label_logits",
  "feature_start", "materialise", "random_real", "start", "to_arrays",
]  # fmt: skip
