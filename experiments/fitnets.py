"""FitNets: Hints for Thin Deep Nets (arXiv 1412.6550).

python -m jdistill.run --config=experiments/fitnets.py                              digits, 100 labels; minutes
python -m jdistill.run --config=experiments/fitnets.py:cifar100_resnet56_resnet20   a published pair, for accelerators

The hint and the labels train together, as in the field's tables; the arm `two_stages` has the paper's own order, the
hint alone for a third of the epochs and then labels and KD. On digits the hint is given at the 4x4 map.
"""

from . import common_features, common_knowledge

presets = common_knowledge.presets


def get_config(preset: str = "digits") -> common_knowledge.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a CIFAR-100 pair."""
  config = common_features.experiment(
    preset,
    "fitnets",
    {"name": "fitnets", "tap": "block1", "hint_weight": 10.0},
    controls={
      "ce": common_knowledge.CE,
      "kd": common_knowledge.KD,
      "two_stages": {"method/hint_epochs": 33.0, "method/kd_weight": 1.0},
    },
    grids={
      "fitnets": {"method/hint_weight": (1.0, 10.0, 100.0)},
      "kd": common_features.KD_GRID,
      "two_stages": {"method/hint_weight": (1.0, 10.0, 100.0)},
    },
    by_pair={"*": {"tap": "block2", "hint_weight": 100.0}},
  )
  if preset not in ("digits", "tiny"):
    config.arms.two_stages["method/hint_epochs"] = 80.0
  return config
