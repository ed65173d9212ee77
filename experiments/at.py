"""AT: Paying More Attention to Attention (arXiv 1612.03928).

python -m jdistill.run --config=experiments/at.py                              digits, 100 labels; minutes
python -m jdistill.run --config=experiments/at.py:cifar100_resnet56_resnet20   a published pair, for accelerators

Attention is compared at every stage behind the stem, as both benchmarks have it. Across families of networks it is
known to hurt (`cifar100_vgg13_mobilenetv2`: 59.40 where the student alone has 64.60), a useful negative control.
"""

from . import common_features, common_knowledge

presets = common_knowledge.presets


def get_config(preset: str = "digits") -> common_knowledge.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a CIFAR-100 pair."""
  return common_features.experiment(
    preset,
    "at",
    {"name": "at", "taps": "all"},
    controls={"ce": common_knowledge.CE, "kd": common_knowledge.KD},
    grids={"at": {"method/at_weight": (10.0, 100.0, 1000.0)}, "kd": common_features.KD_GRID},
  )
