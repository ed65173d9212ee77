"""KD: Distilling the Knowledge in a Neural Network (arXiv 1503.02531).

python -m jdistill.run --config=experiments/kd.py                                   digits, 100 labels; a minute
python -m jdistill.run --config=experiments/kd.py:cifar100_resnet56_resnet20        a published pair, for accelerators
"""

from . import common_knowledge as common

presets = common.presets


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a CIFAR-100 pair."""
  return common.experiment(
    preset,
    "kd",
    {"name": "kd", "temperature": 4.0},
    controls={"ce": common.CE},
    grids={"kd": common.KD_GRID},
  )
