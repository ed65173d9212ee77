"""KD in data pruning: Distilling the Knowledge in Data Pruning (arXiv 2403.07854, ICML 2025).

python -m jdistill.run --config=experiments/kd_pruning.py --workdir=runs/kd_pruning        digits; minutes on two cores
python -m jdistill.run --config=experiments/kd_pruning.py:digits_epochs ...          the same at equal epochs
python -m jdistill.run --config=experiments/kd_pruning.py:cifar100 ...               the paper's data, an accelerator

Students see the part of the data that a pruning rule left, with and without wrong labels in it; the teacher was trained
on all of it, with right labels. Arms are pruning rule x weight `alpha` of the teacher; the arm `kd_pruning` chooses its
`alpha` on held-out examples. Published: a teacher improves every rule at every part, random pruning with a teacher is
not below pruning by scores, and the best `alpha` grows as less is kept. On digits (card, random pruning, ten seeds, 600
steps) `alpha` 1 against 0 gains 7 points at 5 % of the data, 3 at 20 % and 0.5 at 100 %; with 30 % wrong labels 33, 24
and 7. Whether a smaller teacher helps at small parts is too small an effect to look for here.
"""

from typing import Any

from . import common_knowledge as common

TRAIN, STEPS, BATCH = 1097, 600, 64  # digits without the 500 test and the 200 held-out images
PARTS = (0.05, 0.2, 1.0)
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
LABELS, HALF, TEACHER = ({"method/alpha": alpha} for alpha in (0.0, 0.5, 1.0))
EL2N, FORGETTING = ({"select/name": name} for name in ("el2n", "forgetting"))
ARMS = {
  "labels": LABELS,
  "half": HALF,
  "teacher": TEACHER,
  "el2n_labels": EL2N | LABELS,
  "el2n_teacher": EL2N | TEACHER,
  "forgetting_labels": FORGETTING | LABELS,
  "forgetting_teacher": FORGETTING | TEACHER,
  "smoothed": {"method/name": "ce", "method/label_smoothing": 0.1},
}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "digits_epochs", "tiny", "cifar100"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits` (equal steps), `digits_epochs`, `cifar100` or `tiny`."""
  common.check_preset(preset, presets())
  config = common.students("kd_pruning", {"name": "kd_pruning"}, about={"name": "noisy_labels"})
  config.task.update({"student_size": None, "label_noise": 0.0, "teacher_noise": 0.0, "noisy_classes": "all"})
  config.reference, config.seeds, config.tune_seeds = "labels", 10, 3
  config.teacher, config.student = common.network("mlp", widths=(256,)), common.network("mlp", widths=(64,))
  adamw = {"batch_size": BATCH, "optimizer": "adamw", "lr": 0.003, "weight_decay": 0.01}
  config.teacher_train, config.train = (common.schedule(epochs=40, **adamw) for _ in range(2))
  config.proxy_train = common.schedule(epochs=20, **adamw)
  config.data_policy = common.policy("selected")
  config.select.name, config.select.fraction = "random", 0.05
  common.tune(common.arms(config, ARMS), {"kd_pruning": {"method/alpha": ALPHAS}})
  noises = {"right labels": 0.0, "30 % wrong": 0.3}
  config.sweep = {
    "groups": {
      f"{100 * part:g} %, {name}": {"select/fraction": part, "task/label_noise": noise} | _epochs(part, preset)
      for name, noise in noises.items()
      for part in PARTS
    },
    "series": {"equal epochs" if preset == "digits_epochs" else "equal steps": {}},
    "seeds": (0,),
  }
  if preset == "cifar100":
    _cifar100(config)
  if preset == "tiny":
    common.tiny(config)
    config.proxy_train.epochs = 2
    config.sweep.groups = {"50 %": {"select/fraction": 0.5}}
  return config


def _epochs(part: float, preset: str) -> dict[str, int]:
  """As many epochs as make about `STEPS` steps, or for all parts as many as all data take for that."""
  kept = TRAIN if preset == "digits_epochs" else round(part * TRAIN)
  return {"train/epochs": max(1, round(STEPS / -(-kept // BATCH)))}


def _cifar100(config: common.ConfigDict) -> None:
  """ResNet-32, its own teacher, SGD for 200 epochs whatever is kept; temperature and schedule are not verified."""
  sgd: dict[str, Any] = {
    "epochs": 200, "batch_size": 128, "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4,
    "augment": "crop_flip",
  }  # fmt: skip
  config.dataset, config.preprocessing, config.validation_size, config.seeds = "cifar100", "channel", 1000, 5
  config.teacher, config.student = (common.network("resnet32", init="he") for _ in range(2))
  config.teacher_train, config.train, config.proxy_train = (common.schedule(**sgd) for _ in range(3))
  config.tune_seeds = 1
  noises = {"right labels": 0.0, "20 % wrong": 0.2}
  config.sweep.groups = {
    f"{100 * part:g} %, {name}": {"select/fraction": part, "task/label_noise": noise}
    for name, noise in noises.items()
    for part in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
  }
  config.sweep.series = {"equal epochs": {}}
