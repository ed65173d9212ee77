"""What data-set distillation learns, and how it starts."""

from jdistill.synthetic.features import feature_start
from jdistill.synthetic.feed import Feed, Materials
from jdistill.synthetic.initialise import Start, correctly_predicted, expert_label_logits, random_real, start
from jdistill.synthetic.set import SyntheticSet

__all__ = [
  "Feed", "Materials", "Start", "SyntheticSet", "correctly_predicted", "expert_label_logits", "feature_start",
  "random_real", "start",
]  # fmt: skip
