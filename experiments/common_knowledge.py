"""Fragments that experiments in knowledge distillation share: digits, pairs of networks, the tiny variant."""

from collections.abc import Mapping
from typing import Any

from .common import ConfigDict, base, check_preset, method, network, schedule, task
from .common import policy as policy


def students(name: str, own: Mapping[str, Any], *, about: Mapping[str, Any] | None = None) -> ConfigDict:
  """Knowledge distillation: scikit-learn digits, an MLP 64-64 teacher, an MLP 32 student with 100 labels.

  Args:
    name: of the experiment.
    own: the section `method`: a name and options.
    about: the section `task`: a name and options.
  """
  config = base(name, own)
  config.seeds, config.dataset, config.preprocessing, config.validation_size = 10, "digits", "standardize", 200
  config.task = task(**(about or {"name": "supervised", "student_size": 100, "teacher_size": 600}))
  config.teacher, config.student = network("mlp", widths=(64, 64)), network("mlp", widths=(32,))
  config.teacher_method = method("ce")
  config.teacher_train, config.train = schedule(batch_size=600), schedule(batch_size=100)
  config.start_train = schedule(batch_size=100)
  return config


def without_labels(name: str, own: Mapping[str, Any], preset: str) -> ConfigDict:
  """Features that are learned without labels, on digits: a linear probe sees 50 labels, and so does the arm `ce`.

  `untrained` is the same probe on the network at its initialisation.

  Args:
    name: of the experiment.
    own: the section `method`: a name and options.
    preset: `digits` or `tiny`.

  Raises:
    ValueError: an unknown preset.
  """
  check_preset(preset, ("digits", "tiny"))
  about = {"name": "unlabelled", "teacher_size": 200, "labelled_size": 50, "junk_size": 0}
  config = students(name, own, about=about)
  config.seeds, config.validation_size, config.reference = 5, 100, "untrained"
  labelled = {"task/pool": "none", "method/name": "ce"}
  arms(config, {"ce": labelled | {"train/epochs": 200}, "untrained": {"train/epochs": 1, "train/lr": 1e-9}})
  if preset == "tiny":
    tiny(config)
    config.task.teacher_size, config.task.labelled_size = 50, 20
  return config


def arms(config: ConfigDict, controls: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
  """Adds controls, in this order after the method's own arm; keys are paths such as `"method/temperature"`."""
  config.arms = {label: dict(values) for label, values in controls.items()}
  config.order = (config.subject or config.method.name, *controls)
  return config


def tune(config: ConfigDict, grids: Mapping[str, Mapping[str, tuple]]) -> ConfigDict:
  """Adds grids that are searched on held-out examples, by arm."""
  config.tune = {label: {key: tuple(values) for key, values in grid.items()} for label, grid in grids.items()}
  return config


def tiny(config: ConfigDict) -> ConfigDict:
  """Cuts knowledge distillation down to seconds. The figures mean nothing.

  Few examples, epochs and seeds; of the arms the method's own and the first control; no search.
  """
  config.train_size, config.test_size, config.validation_size = 200, 100, 40
  config.seeds, config.tune_seeds, config.log_every = 2, 2, 1
  for section in (config.train, config.teacher_train, config.start_train):
    section.epochs, section.batch_size = 3, 50
    section.warmup_epochs, section.milestones, section.schedule = 0.0, (), "cosine"
  own, first = config.subject or config.method.name, list(config.arms)[:1]
  if config.order:
    first = [label for label in config.order if label != own][:1]
  config.arms = {label: config.arms[label].to_dict() for label in first}
  config.order = (own, *first)
  if config.reference not in config.order:
    config.reference = None
  config.tune = {}
  return config


# CIFAR-100 pairs of the field's tables: teacher, student, learning rate, and published last-epoch or best-epoch top-1
# accuracies in % as their papers print them (RepDistiller's and mdistiller's tables; ND's own for the names with ++).
PAIRS = {
  "resnet56_resnet20": ("resnet56", "resnet20", 0.05),
  "resnet110_resnet32": ("resnet110", "resnet32", 0.05),
  "resnet32x4_resnet8x4": ("resnet32x4", "resnet8x4", 0.05),
  "wrn_40_2_wrn_16_2": ("wrn_40_2", "wrn_16_2", 0.05),
  "wrn_40_2_wrn_40_1": ("wrn_40_2", "wrn_40_1", 0.05),
  "vgg13_vgg8": ("vgg13_bn", "vgg8_bn", 0.05),
  "resnet32x4_shufflenetv1": ("resnet32x4", "shufflenetv1", 0.01),
  "resnet32x4_shufflenetv2": ("resnet32x4", "shufflenetv2", 0.01),
  "vgg13_mobilenetv2": ("vgg13_bn", "mobilenetv2", 0.01),
}
PUBLISHED = {
  "resnet56_resnet20": {
    "teacher": 72.34, "student": 69.06, "kd": 70.66, "fitnets": 69.21, "at": 70.55, "rkd": 69.61, "crd": 71.16,
    "dkd": 71.97, "dist": 71.78, "reviewkd": 71.89,
  },
  "resnet110_resnet32": {
    "teacher": 74.31, "student": 71.14, "kd": 73.08, "fitnets": 71.06, "at": 72.31, "rkd": 71.82, "crd": 73.48,
    "dkd": 74.11,
  },
  "resnet32x4_resnet8x4": {
    "teacher": 79.42, "student": 72.50, "kd": 73.33, "fitnets": 73.50, "at": 73.44, "rkd": 71.90, "crd": 75.51,
    "dkd": 76.32, "dist": 75.79, "reviewkd": 75.63,
  },
  "wrn_40_2_wrn_16_2": {
    "teacher": 75.61, "student": 73.26, "kd": 74.92, "fitnets": 73.58, "at": 74.08, "rkd": 73.35, "crd": 75.48,
    "dkd": 76.23,
  },
  "wrn_40_2_wrn_40_1": {
    "teacher": 75.61, "student": 71.98, "kd": 73.54, "fitnets": 72.24, "at": 72.77, "rkd": 72.22, "crd": 74.14,
    "dkd": 74.81, "dist": 74.42, "reviewkd": 75.09,
  },
  "vgg13_vgg8": {
    "teacher": 74.64, "student": 70.36, "kd": 72.98, "fitnets": 71.02, "at": 71.43, "rkd": 71.48, "crd": 73.94,
    "dkd": 74.68,
  },
  "resnet32x4_shufflenetv1": {
    "teacher": 79.42, "student": 70.50, "kd": 74.07, "at": 71.73, "crd": 75.11, "dkd": 76.45, "reviewkd": 77.45,
  },
  "resnet32x4_shufflenetv2": {
    "teacher": 79.42, "student": 71.82, "kd": 74.45, "at": 72.73, "crd": 75.65, "dkd": 77.07, "reviewkd": 77.78,
  },
  "vgg13_mobilenetv2": {
    "teacher": 74.64, "student": 64.60, "kd": 67.37, "at": 59.40, "crd": 69.73, "dkd": 69.71,
  },
}  # fmt: skip


def cifar100_pair(config: ConfigDict, preset: str) -> ConfigDict:
  """The field's CIFAR-100 protocol: 240 epochs of SGD, a tenth of the rate at 150, 180 and 210, crops and flips.

  Accuracies are of the last epoch. The validation examples come out of the training images, which the published figures
  use whole: 1,000 of 50,000.
  """
  pair = preset.removeprefix("cifar100_")
  teacher, student, lr = PAIRS[pair]
  config.dataset, config.preprocessing = "cifar100", "channel"
  config.train_size = config.test_size = None
  config.validation_size, config.seeds = 1000, 5
  config.task = task("supervised")
  config.teacher, config.student = (network(name, init="he") for name in (teacher, student))
  sgd = {
    "epochs": 240,
    "batch_size": 64,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "milestones": (150, 180, 210),
    "augment": "crop_flip",
  }
  config.teacher_train, config.train = schedule(lr=0.05, **sgd), schedule(lr=lr, **sgd)
  config.start_train = schedule(lr=lr, **sgd)
  config.published = dict(PUBLISHED[pair])
  config.tune = {}
  return config


def experiment(
  preset: str,
  name: str,
  own_method: Mapping[str, Any],
  *,
  controls: Mapping[str, Mapping[str, Any]],
  grids: Mapping[str, Mapping[str, tuple]],
  by_pair: Mapping[str, Mapping[str, Any]] | None = None,
) -> ConfigDict:
  """An experiment on labelled images with the presets `digits`, `tiny` and the CIFAR-100 pairs.

  Args:
    preset: after the colon.
    name: of the experiment.
    own_method: the section `method` of the digits default.
    controls: the other arms.
    grids: what is searched on held-out examples, on digits.
    by_pair: options of the method for a CIFAR-100 pair, where the paper gives them by pair; `"*"` for the others.

  Raises:
    ValueError: an unknown preset.
  """
  check_preset(preset, presets())
  config = tune(arms(students(name, own_method), controls), grids)
  config.reference = "ce" if "ce" in controls else None
  if preset == "tiny":
    tiny(config)
    config.task.student_size, config.task.teacher_size = 50, 100
  elif preset != "digits":
    cifar100_pair(config, preset)
    own = by_pair or {}
    config.method = method(own_method["name"], **own.get(preset.removeprefix("cifar100_"), own.get("*", {})))
  return config


def presets() -> list[str]:
  """The names after the colon: of pairs, such as `cifar100_resnet56_resnet20`, and two more."""
  return ["digits", "tiny", *(f"cifar100_{pair}" for pair in PAIRS)]


CE = {"method/name": "ce"}
KD = {"method/name": "kd", "method/temperature": 4.0}
KD_GRID = {"method/temperature": (1.0, 2.0, 4.0, 8.0), "method/kd_weight": (0.9, 3.0)}
