"""TGeo-KD: Less or More From Teacher, Exploiting Trilateral Geometry For Knowledge Distillation (arXiv 2312.15112).

python -m jdistill.run --config=experiments/tgeo_kd.py                    digits, wrong labels and a wrong teacher
python -m jdistill.run --config=experiments/tgeo_kd.py:cifar100_resnet56_resnet20        a pair, for accelerators
    --config.method.controller_lr=0.1 --config.method.controller_weight_decay=0.05   the released script's controller

In half of the classes 40 % of the students' labels are wrong; in the other half the teacher is. The best weight of the
teacher then differs between examples. `random_controller` is what the released script does, `oracle` knows which labels
and which predictions are wrong, and `ce_held_out` trains on the 200 right labels that the controller learns from.
"""

from . import common_knowledge as common

TGEO = {"name": "tgeo_kd"}
ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.9)

presets = common.presets


def rule(name: str, **options) -> dict:
  """An arm with another rule for `alpha`."""
  return {"method/rule": name} | {f"method/{key}": value for key, value in options.items()}


def controls() -> dict[str, dict]:
  """The arms beside TGeo-KD itself."""
  return {
    "fixed": rule("fixed", alpha=0.5),
    "ce": common.CE,
    "kd": common.KD,
    "linear_decay": rule("linear", alpha=0.9, alpha_last=0.1),
    "correct": rule("correct", alpha=0.5),
    "confidence": rule("confidence", alpha=0.5),
    "random_controller": {"method/outer": "none"},
    "oracle": rule("oracle", alpha=0.5),
    "ce_held_out": common.CE | {"task/trains_on": "held_out"},
  }


def grids() -> dict[str, dict]:
  """What is chosen on held-out examples; the controller learns from the same ones."""
  temperature = {"method/temperature": (1.5, 4.0)}
  share = {"method/alpha": (0.5, 0.9)}
  return {
    "tgeo_kd": {"method/virtual_lr": (0.1, 1.0)} | temperature,
    "fixed": {"method/alpha": ALPHAS} | temperature,
    "kd": common.KD_GRID,
    "linear_decay": share,
    "correct": share,
    "confidence": share,
  }


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a CIFAR-100 pair (on labels as they are)."""
  config = common.experiment(preset, "tgeo_kd", TGEO, controls=controls(), grids=grids())
  config.reference = "fixed"
  if preset.startswith("cifar100"):
    del config.arms["oracle"], config.arms["ce_held_out"]
    config.order = tuple(label for label in config.order if label not in ("oracle", "ce_held_out"))
    return config
  config.task = common.task("noisy_labels", student_size=500, label_noise=0.4, teacher_noise=0.8)
  config.train.batch_size = 500
  config.teacher_train.batch_size = 500
  if preset == "tiny":
    config.task.student_size = config.train.batch_size = 50
    config.tune = {"tgeo_kd": {"method/virtual_lr": (0.1,)}}
  return config
