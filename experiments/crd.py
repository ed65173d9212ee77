"""CRD: Contrastive Representation Distillation (arXiv 1910.10699).

python -m jdistill.run --config=experiments/crd.py                              digits, 100 labels; minutes
python -m jdistill.run --config=experiments/crd.py:cifar100_resnet56_resnet20   a published pair, for accelerators

`crd_kd` is what the paper calls CRD+KD, and `crd_inbatch` its idea without the memory.
"""

from . import common_knowledge as common

presets = common.presets


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a CIFAR-100 pair."""
  return common.experiment(
    preset,
    "crd",
    {"name": "crd", "negatives": 256},
    controls={
      "ce": common.CE,
      "kd": common.KD,
      "crd_kd": {"method/kd_weight": 1.0},
      "crd_inbatch": {"method/name": "crd_inbatch"},
    },
    grids={
      "crd": {"method/crd_weight": (0.2, 0.8), "method/contrast_temperature": (0.07, 0.5)},
      "crd_inbatch": {"method/contrast_weight": (0.2, 0.8), "method/contrast_temperature": (0.07, 0.5)},
      "crd_kd": {"method/crd_weight": (0.2, 0.8), "method/contrast_temperature": (0.07, 0.5)},
      "kd": common.KD_GRID,
    },
    by_pair={"*": {"negatives": 16384}},
  )
