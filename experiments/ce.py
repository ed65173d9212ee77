"""Plain training, and with smoothed labels (arXiv 1512.00567): what distillation has to beat.

python -m jdistill.run --config=experiments/ce.py                                   digits, 100 labels; a minute
python -m jdistill.run --config=experiments/ce.py:cifar100_resnet56_resnet20        a published pair, for accelerators
"""

from . import common_knowledge as common

presets = common.presets


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a CIFAR-100 pair."""
  return common.experiment(
    preset,
    "ce",
    {"name": "ce"},
    controls={"smoothed": {"method/name": "ce", "method/label_smoothing": 0.1}, "kd": common.KD},
    grids={"smoothed": {"method/label_smoothing": (0.05, 0.1, 0.2)}},
  )
