"""CWD: Channel-wise Knowledge Distillation for Dense Prediction (arXiv 2011.13256).

python -m jdistill.run --config=experiments/cwd.py                                              drawn shapes
python -m jdistill.run --config=experiments/cwd.py:camvid --config.dataset=FILE.npz             11 classes, 96x96

The paper's networks (PSPNet and DeepLabV3 on Cityscapes and others) are not in the zoo, so there is no preset of them.
The teacher is twice as wide as the student; `same_size` has one of the student's size, and `kd` compares classes
at every pixel instead of places in every channel.
"""

from . import common_segmentation as common

CONTROLS = {
  "same_size": {"teacher/width": 8},
  "kd": common.KD,
  "ce": common.CE,
}
GRIDS = {
  "cwd": {"method/cwd_weight": (3.0, 10.0)},
  "same_size": {"method/cwd_weight": (3.0, 10.0)},
  "kd": {"method/kd_weight": (1.0, 3.0)},
}

presets = common.presets


def get_config(preset: str = "shapes") -> common.ConfigDict:
  """The experiment; `preset` is `shapes`, `camvid` or `tiny`."""
  config = common.experiment(
    preset,
    {"name": "cwd"},
    teacher_method={"name": "ce"},
    controls=CONTROLS,
    grids=GRIDS,
    reference="ce",
  )
  if preset != "tiny":
    config.teacher.width = common.LARGE["teacher/width"]
  return config
