"""All losses of knowledge distillation on one student: KD (arXiv 1503.02531) and what came after it, in one table.

python -m jdistill.run --config=experiments/compare_knowledge.py --workdir=runs/compare   digits; 1.5 hours on 2 cores
python -m jdistill.run --config=experiments/compare_knowledge.py:few --workdir=runs/few   the few-label half of it

Two regimes (100 labels per student, whose teacher has 600; all labels for both) and two pairs: a convolutional teacher
with a convolutional student of a quarter of its width, and with an MLP-Mixer, whose features are of another kind. The
schedule, data and seeds are the same for all losses, and so is a warm-up of ten epochs for those that have one;
temperature and weights of each loss are searched on held-out training examples with a grid of at most six. Losses that
need maps of both networks have no row in the mixed pair.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from . import common_features
from . import common_knowledge as common

FEW = {"task/student_size": 100, "task/teacher_size": 600}
FULL = {
  "task/student_size": None,
  "task/teacher_size": None,
  "train/epochs": 15,  # 330 steps, where the few-label students have 200
  "targets/source": "cached",  # exact, as nothing is augmented
}
ONLINE = {"targets/source": "online"}  # stored targets have no maps
MAPS = ("at", "fitnets", "reviewkd")  # compare maps of both networks place by place

# label -> (what the arm sets, what is searched on held-out examples)
ARMS: dict[str, tuple[Mapping[str, Any], Mapping[str, tuple]]] = {
  "ce": ({"method/name": "ce"}, {}),
  "smoothed": ({"method/name": "ce"}, {"method/label_smoothing": (0.1, 0.2, 0.4)}),
  "dkd": (
    {"method/name": "dkd", "method/warmup_epochs": 10.0},
    {"method/temperature": (2.0, 4.0), "method/beta": (2.0, 8.0)},
  ),
  "dist": ({"method/name": "dist"}, {"method/temperature": (1.0, 4.0), "method/beta": (1.0, 2.0)}),
  "pld": ({"method/name": "pld"}, {"method/temperature": (1.0, 2.0, 4.0, 8.0)}),
  "sinkd": ({"method/name": "sinkd"}, {"method/temperature": (2.0, 4.0), "method/sd_weight": (0.0128, 0.128)}),
  "ofa": (
    {"method/name": "ofa", "method/stages": "block0,block1,block2", "method/scale_t2": True},
    {"method/exponent": (1.0, 1.5), "method/temperature": (1.0, 4.0)},
  ),
  "kd++": (
    {"method/name": "nd", "method/warmup_epochs": 10.0},
    {"method/kd_weight": (1.0, 3.0), "method/nd_weight": (0.1, 0.5, 2.0)},
  ),
  "rkd": (
    {"method/name": "rkd"},
    {"method/distance_weight": (1.0, 5.0, 25.0), "method/angle_weight": (2.0, 10.0)},
  ),
  "crd": ({"method/name": "crd", "method/negatives": 256}, {"method/crd_weight": (0.03, 0.1, 0.3)}),
  "trg": (
    ONLINE | {"method/name": "trg", "method/local_weight": 5.0, "method/contrast_epochs": 30.0},
    {"method/inner_weight": (5.0, 50.0), "method/global_weight": (0.02, 0.1)},
  ),
  "at": (ONLINE | {"method/name": "at", "method/taps": "all"}, {"method/at_weight": (1.0, 10.0, 100.0)}),
  "fitnets": (ONLINE | {"method/name": "fitnets"}, {"method/hint_weight": (1.0, 10.0, 100.0)}),
  "reviewkd": (
    ONLINE | {"method/name": "reviewkd", "method/taps": "all", "method/warmup_epochs": 10.0},
    {"method/review_weight": (0.1, 0.5, 1.5)},
  ),
}
KD_GRID = {"method/temperature": (1.0, 2.0, 4.0), "method/kd_weight": (0.9, 3.0)}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "few", "full", "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, one of its regimes `few` and `full`, or `tiny`."""
  common.check_preset(preset, presets())
  config = common_features.experiment(
    "tiny" if preset == "tiny" else "digits",
    "compare_knowledge",
    {"name": "kd", "temperature": 4.0},
    controls={label: values for label, (values, _) in ARMS.items()},
    grids={"kd": KD_GRID} | {label: grid for label, (_, grid) in ARMS.items() if grid},
  )
  config.reference, config.seeds, config.tune_seeds = "ce", 8, 3
  regimes = {"few labels": FEW, "full labels": FULL}
  if preset in ("few", "full"):
    regimes = {name: values for name, values in regimes.items() if name.startswith(preset)}
  labels = list(config.order)
  if preset == "tiny":
    config.seeds, config.tune_seeds = 2, 1
    regimes = {"few labels": {"task/student_size": 50, "task/teacher_size": 100}}
    labels.append("ofa")  # made for two families of networks
  pairs = {"convnet to convnet": {}, "convnet to mixer": _mixed(config, labels)}
  config.sweep = {"groups": regimes, "series": pairs, "order": tuple(pairs), "seeds": (0,)}
  return config


def _mixed(config: common.ConfigDict, labels: Sequence[str]) -> dict[str, Any]:
  """What the pair of two families changes: the student, and no arm that needs maps of both."""
  student = common.network("mixer", patch=2, dim=32, depth=4, width=None)
  keep = [label for label in labels if label not in MAPS]
  arms = {label: dict(ARMS[label][0]) for label in keep if label != "kd"}
  if "ofa" in arms:
    arms["ofa"]["method/stages"] = "1,2,3,4"
  return {
    "student": student,
    "arms": arms,
    "order": tuple(keep),
    "tune": {label: config.tune[label].to_dict() for label in keep if label in config.tune},
  }
