"""MSD: Multi-student Diffusion Distillation for Better One-step Generators (arXiv 2410.23274).

python -m jdistill.run --config=experiments/msd.py           a ring of 16 Gaussians, by mode
python -m jdistill.run --config=experiments/msd.py:digits    scikit-learn's digits, by class

Students of 16 units a layer beside a teacher of 64, so that capacity binds, all begun by the same teacher score
matching (`tsm`): K = 4 students (`msd`) against one (`dmd2`), 2 and 8, at equal updates of each student, and with
`_total` at equal updates of all students together, those of the four. `random_start` has no score matching before it,
`random_parts` another partition. `wide_1` and `wide_4` are as large as the teacher and begin as its copies: with
capacity to spare the number should not matter. The score is the mean over conditions of the sliced distance; the paper
has FID on the union of all conditions (2.60, 2.49, 2.37 and 2.32 for 1, 2, 4 and 8 students on ImageNet-64, matching
alone).
"""

from . import common_diffusion as common
from .common import check_preset, schedule, task
from .common_knowledge import arms

_ONE = {"method/name": "dmd2", "method/student_start": "random"}
_ADAM = {"optimizer": "adam", "batch_size": 128, "clip": 10.0}


def presets() -> list[str]:
  """The names after the colon."""
  return ["ring", "digits", "tiny"]


def get_config(preset: str = "ring") -> common.ConfigDict:
  """The experiment; `preset` is `ring`, `digits` or `tiny`."""
  check_preset(preset, presets())
  four, more = (5, 10) if preset == "digits" else (4, 8)
  own = {"name": "msd", "student_count": four, "student_start": "random"}
  config = common.students("msd", own, "digits" if preset == "digits" else "grid")
  if preset != "digits":
    config.dataset, config.task = "ring16", task("samples", draws=4000, judge="by_condition")
  wide, narrow, epochs = ((128,) * 3, (32,) * 3, 300) if preset == "digits" else ((64,) * 3, (16,) * 3, 96)
  for section, widths in ((config.teacher, wide), (config.student, narrow)):
    section.widths, section.features = widths, 32
  config.teacher_train = schedule(epochs=3 * epochs, lr=1e-3, ema_decay=0.999, schedule="cosine", **_ADAM)
  config.train = schedule(epochs=epochs, lr=3e-4, schedule="constant", warmup_epochs=1.0, **_ADAM)
  config.start_method = common.method("tsm")
  config.start_train = schedule(epochs=epochs, lr=1e-3, schedule="cosine", **_ADAM)
  copies = {"start_method/name": "none", "method/student_start": "teacher", "student/widths": wide}
  controls = {
    "dmd2": _ONE,
    "students_2": {"method/student_count": 2},
    f"students_{more}": {"method/student_count": more},
    "dmd2_total": _ONE | {"train/epochs": four * epochs},
    "students_2_total": {"method/student_count": 2, "train/epochs": four * epochs // 2},
    f"students_{more}_total": {"method/student_count": more, "train/epochs": four * epochs // more},
    "random_start": {"start_method/name": "none"},
    "random_parts": {"method/partition_rule": "random"},
    "wide_1": _ONE | copies,
    f"wide_{four}": copies,
    "teacher_64": common.teacher_in(64) | {"start_method/name": "none", "student/widths": wide},
  }
  arms(config, controls)
  config.reference = "dmd2"
  if preset == "tiny":
    common.tiny(config)
    config.task, config.method.student_count = task("samples", draws=60, judge="by_condition"), 4
    config.student.widths = (8,)
  return config
