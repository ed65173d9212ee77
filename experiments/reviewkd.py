"""ReviewKD: Distilling Knowledge via Knowledge Review (arXiv 2104.09044), beside the other losses on features.

python -m jdistill.run --config=experiments/reviewkd.py                              digits, 100 labels; minutes
python -m jdistill.run --config=experiments/reviewkd.py:cifar100_resnet56_resnet20   a published pair, for accelerators

Weights by pair are those of the released script, which has none for VGG teachers: there the default is kept. Taps
behind a ReLU stand in for the release's maps before it (not in wide residual networks, whose taps are sums). On digits
FitNets, AT, RKD and CRD run on the same networks and schedule.
"""

from . import common_features, common_knowledge

OTHERS = {
  "fitnets": {"method/name": "fitnets", "method/tap": "block1"},
  "at": {"method/name": "at", "method/taps": "all"},
  "rkd": {"method/name": "rkd"},
  "crd": {"method/name": "crd", "method/negatives": 256},
  "crd_inbatch": {"method/name": "crd_inbatch"},
}
WEIGHTS = {
  "resnet56_resnet20": 0.6,
  "resnet110_resnet32": 1.0,
  "resnet32x4_resnet8x4": 5.0,
  "wrn_40_2_wrn_16_2": 5.0,
  "wrn_40_2_wrn_40_1": 5.0,
  "resnet32x4_shufflenetv1": 5.0,
  "resnet32x4_shufflenetv2": 8.0,
}

presets = common_knowledge.presets


def get_config(preset: str = "digits") -> common_knowledge.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a CIFAR-100 pair."""
  others = OTHERS if preset == "digits" else {}
  grids = {
    "reviewkd": {"method/review_weight": (0.6, 2.0, 5.0)},
    "kd": common_features.KD_GRID,
    "fitnets": {"method/hint_weight": (1.0, 10.0, 100.0)},
    "at": {"method/at_weight": (10.0, 100.0, 1000.0)},
    "rkd": {"method/distance_weight": (2.5, 25.0)},
    "crd": {"method/contrast_temperature": (0.07, 0.2, 0.5)},
    "crd_inbatch": {"method/contrast_temperature": (0.07, 0.2, 0.5)},
  }
  return common_features.experiment(
    preset,
    "reviewkd",
    {"name": "reviewkd", "taps": "all", "warmup_epochs": 5.0},
    controls={"ce": common_knowledge.CE, "kd": common_knowledge.KD} | others,
    grids=grids if others else {"reviewkd": grids["reviewkd"]},
    by_pair={pair: {"review_weight": weight} for pair, weight in WEIGHTS.items()},
  )
