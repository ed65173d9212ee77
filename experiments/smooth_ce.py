"""Smooth experts of AST (arXiv 2310.10541) as a way to train a network: plain training that is held back.

python -m jdistill.run --config=experiments/smooth_ce.py                                 digits, 100 labels; a minute
python -m jdistill.run --config=experiments/smooth_ce.py:cifar100_resnet56_resnet20        a pair, for accelerators

It is made for the teachers of trajectory matching, as their `teacher_method`; here it stands beside
plain training and distillation as a student's loss, which the paper does not claim anything about.
"""

from . import common_knowledge as common

presets = common.presets


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a CIFAR-100 pair."""
  return common.experiment(
    preset,
    "smooth_ce",
    {"name": "smooth_ce"},
    controls={"ce": common.CE, "kd": common.KD},
    grids={"smooth_ce": {"method/penalty_weight": (0.02, 0.2, 2.0)}, "kd": common.KD_GRID},
  )
