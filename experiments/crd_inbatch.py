"""The idea of CRD (arXiv 1910.10699) with negatives from the batch instead of a memory.

python -m jdistill.run --config=experiments/crd_inbatch.py                              digits, 100 labels; minutes
python -m jdistill.run --config=experiments/crd_inbatch.py:cifar100_resnet56_resnet20   a pair, for accelerators

The published CRD figures of a pair are those of the memory bank; see `experiments/crd.py`.
"""

from . import common_knowledge as common

presets = common.presets


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a CIFAR-100 pair."""
  return common.experiment(
    preset,
    "crd_inbatch",
    {"name": "crd_inbatch"},
    controls={"ce": common.CE, "kd": common.KD},
    grids={
      "crd_inbatch": {"method/contrast_weight": (0.2, 0.8), "method/contrast_temperature": (0.07, 0.5)},
      "kd": common.KD_GRID,
    },
  )
