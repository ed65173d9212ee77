"""RKD: Relational Knowledge Distillation (arXiv 1904.05068).

python -m jdistill.run --config=experiments/rkd.py                              digits, 100 labels; minutes
python -m jdistill.run --config=experiments/rkd.py:cifar100_resnet56_resnet20   a published pair, for accelerators
"""

from . import common_knowledge as common

presets = common.presets


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a CIFAR-100 pair."""
  config = common.experiment(
    preset,
    "rkd",
    {"name": "rkd"},
    controls={
      "ce": common.CE,
      "kd": common.KD,
      "distance_alone": {"method/angle_weight": 0.0},
      "angle_alone": {"method/distance_weight": 0.0},
    },
    grids={
      "rkd": {"method/distance_weight": (2.5, 25.0), "method/angle_weight": (5.0, 50.0)},
      "kd": common.KD_GRID,
      "distance_alone": {"method/distance_weight": (2.5, 25.0)},
      "angle_alone": {"method/angle_weight": (5.0, 50.0)},
    },
  )
  if preset == "digits":  # angles take the cube of the batch
    config.train.batch_size, config.train.epochs = 50, 150
  elif preset == "tiny":
    config.train.batch_size = 20
  return config
