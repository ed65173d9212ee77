"""DIST: Knowledge Distillation from A Stronger Teacher (arXiv 2205.10536).

python -m jdistill.run --config=experiments/dist.py                                   digits, 100 labels; a minute
python -m jdistill.run --config=experiments/dist.py:cifar100_resnet56_resnet20        a published pair, for accelerators
"""

from . import common_knowledge as common

presets = common.presets


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a CIFAR-100 pair."""
  return common.experiment(
    preset,
    "dist",
    {"name": "dist"},
    controls={"ce": common.CE, "kd": common.KD},
    grids={"dist": {"method/temperature": (1.0, 4.0), "method/beta": (1.0, 2.0)}, "kd": common.KD_GRID},
  )
