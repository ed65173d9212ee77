"""PLD: A Choice-Theoretic List-Wise Knowledge Distillation (arXiv 2506.12542).

python -m jdistill.run --config=experiments/pld.py                                   digits, 100 labels, 12 seeds
python -m jdistill.run --config=experiments/pld.py:cifar100_resnet56_resnet20        a published pair, for accelerators
"""

from . import common_knowledge as common

presets = common.presets


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a CIFAR-100 pair."""
  config = common.experiment(
    preset,
    "pld",
    {"name": "pld", "temperature": 4.0},
    controls={
      "ce": common.CE,
      "kd": common.KD,
      "dkd": {"method/name": "dkd", "method/beta": 2.0, "method/warmup_epochs": 0.0},
      "dist": {"method/name": "dist"},
    },
    grids={
      "pld": {"method/temperature": (1.0, 2.0, 4.0, 8.0)},
      "kd": common.KD_GRID,
      "dkd": {"method/temperature": (2.0, 4.0), "method/beta": (2.0, 8.0)},
      "dist": {"method/temperature": (1.0, 4.0), "method/beta": (1.0, 2.0)},
    },
    by_pair={"*": {"temperature": 4.0}},
  )
  if preset == "digits":
    config.seeds = 12
  return config
