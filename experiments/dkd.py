"""DKD: Decoupled Knowledge Distillation (arXiv 2203.08679).

python -m jdistill.run --config=experiments/dkd.py                                   digits, 100 labels; a minute
python -m jdistill.run --config=experiments/dkd.py:cifar100_resnet56_resnet20        a published pair, for accelerators
"""

from . import common_knowledge as common

presets = common.presets


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a CIFAR-100 pair."""
  return common.experiment(
    preset,
    "dkd",
    {"name": "dkd", "beta": 2.0, "warmup_epochs": 0.0},
    controls={"ce": common.CE, "kd": common.KD},
    grids={"dkd": {"method/temperature": (2.0, 4.0), "method/beta": (2.0, 8.0)}, "kd": common.KD_GRID},
    by_pair={
      "resnet56_resnet20": {"beta": 2.0},
      "resnet110_resnet32": {"beta": 2.0},
      "resnet32x4_resnet8x4": {"beta": 8.0},
      "wrn_40_2_wrn_16_2": {"beta": 6.0},
      "wrn_40_2_wrn_40_1": {"beta": 6.0},
      "vgg13_vgg8": {"beta": 6.0},
      "*": {"beta": 8.0},
    },
  )
