"""What data-set distillation learns, and how it starts."""

from jdistill.synthetic.feed import Feed, Materials
from jdistill.synthetic.initialise import correctly_predicted, expert_label_logits, random_real
from jdistill.synthetic.set import SyntheticSet

__all__ = ["Feed", "Materials", "SyntheticSet", "correctly_predicted", "expert_label_logits", "random_real"]
