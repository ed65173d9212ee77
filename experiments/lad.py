"""LAD: Make a Strong Teacher with Label Assistance, for Semantic Segmentation (arXiv 2407.13254).

python -m jdistill.run --config=experiments/lad.py                                              drawn shapes
python -m jdistill.run --config=experiments/lad.py:camvid --config.dataset=FILE.npz             11 classes, 96x96

The paper's tables are of Pascal VOC, Cityscapes and others with DeepLabV3 and PSPNet on ResNet-18, at 512x512 from
checkpoints trained on ImageNet. Those networks are not in the zoo, so there is no preset of them: here the claim is
tried at a small size. All teachers but that of `cwd_large` are as large as the student. `kd` is KD at every pixel and
`cwd` is CWD, both from a teacher that sees no labels; `one_path` leaves the teacher's consistency out, and
`teacher_fixed` trains it with fixed codes, which it can read.

Two numbers differ from the paper's, as found on held-out images: a teacher of eight filters that starts from nothing
learns to ignore the label channel at the published weight of consistency, so that it is 0.1 instead of 5, and it learns
to use the channel sooner if that is 5 times as strong as the image, instead of 1.5 times. Codes stay random while the
student learns, as these teachers make little of the fixed ones.
"""

from . import common_segmentation as common

SCALE = 5.0
TEACHER = {"name": "lad", "role": "teacher", "scale": SCALE, "consistency": 0.1}
CONTROLS = {
  "cwd": common.PLAIN | {"method/name": "cwd"},
  "ce": common.CE,
  "kd": common.PLAIN | common.KD,
  "cwd_large": common.PLAIN | common.LARGE | {"method/name": "cwd"},
  "one_path": {"teacher_method/consistency": 0.0},
  "teacher_fixed": {"teacher_method/codes": "fixed", "method/codes": "fixed"},
}
WEIGHTS = {"method/cwd_weight": (3.0, 10.0)}
GRIDS = {
  "lad": WEIGHTS,
  "cwd": WEIGHTS,
  "kd": {"method/kd_weight": (1.0, 3.0)},
  "cwd_large": WEIGHTS,
  "one_path": WEIGHTS,
  "teacher_fixed": WEIGHTS,
}

presets = common.presets


def get_config(preset: str = "shapes") -> common.ConfigDict:
  """The experiment; `preset` is `shapes`, `camvid` or `tiny`."""
  return common.experiment(
    preset,
    {"name": "lad", "scale": SCALE, "codes": "random"},
    teacher_method=TEACHER,
    controls=CONTROLS,
    grids=GRIDS,
    reference="cwd",
  )
