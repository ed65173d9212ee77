"""RAD: Robust Active Distillation (arXiv 2210.01213).

python -m jdistill.run --config=experiments/rad.py                                              digits, 30 labels
python -m jdistill.run --config=experiments/rad.py --config.task.teacher_noise=0.0              a better teacher
python -m jdistill.run --config=experiments/rad.py:cifar10                                      5,000 labels

A student has few labels and asks a teacher about others, whose soft labels it takes as they are. The teacher learned
from 100 images, a fifth of them with wrong labels. RAD asks about examples of small margin, but not only: by the rates
of a game against the teacher's mistakes, as many as it makes on held-out images. With no mistakes (`rad, no mistakes`)
the rates are those of `margin`. `oracle` is a control that knows where the teacher is right.

The paper reports that RAD is above uniform, margin, coreset and other queries on CIFAR-10, CIFAR-100, SVHN and
ImageNet. Its tables and schedules were not available when this was written: the sizes and networks of `cifar10` are
not the paper's.
"""

from . import common, common_active
from .common_active import asks

_HOW = {"rounds": 3, "queries": 50, "answers": "teacher", "steps": 1}
_TASK = {"name": "active", "start": 30, "teacher_size": 100, "teacher_noise": 0.2}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "cifar10", "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `cifar10` or `tiny`."""
  common.check_preset(preset, presets())
  config = common_active.rounds("rad", {"name": "rad"}, _TASK, _HOW)
  config.selector, config.reference, config.seeds = common_active.selector("rad"), "margin", 20
  controls = {
    "margin": asks("margin"),
    "random": asks("random"),
    "entropy": asks("entropy"),
    "k_center": asks("k_center"),
    "badge": asks("badge"),
    "rad, no mistakes": asks("rad", mistakes=0),
    "oracle": asks("oracle"),
  }
  common_active.arms(config, controls)
  if preset == "cifar10":
    config.dataset, config.preprocessing, config.validation_size, config.seeds = "cifar10", "channel", 1000, 5
    config.task = common.task("active", start=5000, teacher_size=20000)
    config.teacher, config.student = common.network("resnet56", init="he"), common.network("resnet20", init="he")
    sgd = {"epochs": 100, "batch_size": 128, "optimizer": "sgd", "lr": 0.05, "weight_decay": 5e-4}
    config.teacher_train, config.train = (common.schedule(augment="crop_flip", **sgd) for _ in range(2))
    config.active.queries, config.active.steps = 2500, None
  return common_active.tiny(config) if preset == "tiny" else config
