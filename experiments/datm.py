"""DATM: Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching (arXiv 2310.05773, ICLR 2024).

  python -m jdistill.run --config=experiments/datm.py                      scikit-learn digits, minutes on a laptop
  python -m jdistill.run --config=experiments/datm.py --config.ipc=10
  python -m jdistill.run --config=experiments/datm.py:own --config.dataset=FILE.npz --config.time_limit=20m
                                                                           data of your own: measures what to use
  python -m jdistill.run --config=experiments/datm.py:cifar10_small        CIFAR-10, 5,000 images, two cores
  python -m jdistill.run --config=experiments/datm.py:cifar10_ipc10        a row of the paper's table, for accelerators

Published test accuracies of the official settings (ConvNet, %, mean ± std; table 1 of the paper):

  CIFAR-10       IPC 1 46.9±0.5   10 66.8±0.2   50 76.1±0.3   500 83.5±0.2   1000 85.5±0.4
  CIFAR-100      IPC 1 27.9±0.2   10 47.2±0.4   50 55.0±0.2   100 57.5±0.2
  Tiny-ImageNet  IPC 1 17.1±0.3   10 31.1±0.3   50 39.7±0.3

Tiny-ImageNet is not in TFDS under that name: give the folder or `.npz` with `--config.dataset=...`; the settings are
those of `tiny_imagenet_*` either way.
"""

from collections.abc import Mapping, Sequence

from . import common

# (inner steps, expert epochs, image lr, batch, min, current, max, schedule, lr of lr, label lr, threshold, initial)
_OFFICIAL = {
  "cifar10": {
    1: (80, 2, 100, 10, 0, None, 4, 1, 1e-7, 5, 1.1, "correct"),
    10: (80, 2, 100, 100, 0, 10, 20, 1000, 1e-5, 2, 1.0, "correct"),
    50: (80, 2, 1000, 500, 0, 20, 40, 2000, 1e-5, 2, 1.0, "correct"),
    500: (40, 2, 50, 1000, 40, None, 60, 1, 1e-5, 10, 1.0, "correct"),
    1000: (100, 2, 50, 1000, 40, None, 60, 1, 1e-5, 10, 1.0, "correct"),
  },
  "cifar100": {
    1: (40, 3, 1000, 1000, 0, 10, 20, 1000, 1e-5, 10, 1.0, "correct"),
    10: (80, 2, 1000, 1000, 0, 30, 50, 2000, 1e-5, 10, 1.0, "correct"),
    50: (80, 2, 1000, 1000, 20, None, 70, 1, 1e-5, 10, 1.0, "real"),
    100: (80, 2, 50, 1000, 30, None, 70, 1, 1e-5, 10, 1.0, "correct"),
  },
  "tiny_imagenet": {
    1: (40, 2, 10000, 1000, 0, 15, 20, 2000, 1e-4, 10, 1.0, "correct"),
    10: (40, 2, 100, 500, 10, None, 50, 1, 1e-4, 10, 1.0, "correct"),
    50: (20, 2, 100, 1000, 40, None, 70, 1, 1e-4, 10, 1.0, "correct"),
  },
}
_COLUMNS = (
  "inner_steps",
  "expert_epochs",
  "image_lr",
  "batch_size",
  "min_start_epoch",
  "current_start_epoch",
  "max_start_epoch",
  "schedule_steps",
  "lr_lr",
  "label_lr",
  "threshold",
  "initial",
)

# What all official settings share.
SHARED = common.CONVNET | {
  "preprocessing": "zca",
  "steps": 10000,
  "snapshot_every": 1000,
  "teachers/count": 100,
  "teacher_train/epochs": 100,
  "teacher_train/batch_size": 256,
  "teacher_train/lr": 0.01,
  "teacher_train/rho": 0.01,
  "teacher_train/augment": common.DSA,
  "teacher_data_policy/drop_last": False,
  "eval/batch_size": 128,
  "eval/full_batch_size": 128,
}

# Data that nobody tuned anything for: what nobody set is measured (`jdistill.calibration`), so most of
# these are only what stands in its place before.
_OWN = common.CONVNET | {
  "calibration/enabled": True,
  "keep": "best",
  "model/width": 32,
  "warm_up_steps": 100,
  "warm_up/batch_real": 64,
  "steps": 200,
  "snapshot_every": 50,
  "teachers/count": 3,
  "teacher_train/epochs": 20,
  "teacher_train/batch_size": 16,
  "teacher_train/lr": 0.05,
  "teacher_train/rho": 0.0,
  "teacher_train/augment": "none",
  "teacher_data_policy/drop_last": False,
  "eval/epochs": 200,
  "eval/augment": "none",
  "eval/choose_lr": True,
  "eval/full_epochs": 20,
  "eval/full_lr": 0.03,
  "eval/full_batch_size": 64,
  "method/augment": "none",
  "method/inner_steps": 20,
  "method/max_start_epoch": 3,
  "method/lr_init": 0.05,
  "method/image_lr": 20.0,
  "method/label_lr": 2.0,
  "method/lr_lr": 1e-5,
}

_DIGITS = common.CONVNET_DIGITS | {
  "steps": 600,
  "teachers/count": 8,
  "teacher_train/epochs": 40,
  "teacher_train/batch_size": 64,
  "teacher_train/lr": 0.05,
  "teacher_train/rho": 0.0,
  "teacher_train/augment": "none",
  "eval/augment": "none",
  "method/inner_steps": 20,
  "method/expert_epochs": 2,
  "method/image_lr": 5.0,
  "method/label_lr": 2.0,
  "method/lr_lr": 1e-5,  # at 1e-4 one exploding gradient can turn the rate negative
  "method/initial": "correct",
  "method/threshold": 1.0,
}
_DIGITS_RANGES = {
  1: {"method/min_start_epoch": 0, "method/max_start_epoch": 3},
  10: {"method/min_start_epoch": 5, "method/max_start_epoch": 15},
}


def tables() -> dict:
  """The tables behind `config.auto`: data set -> ipc -> values of keys left open."""
  auto = {"*": {"*": SHARED, "1": _OWN}}  # the row is of unknown data alone, whatever their images per class
  auto["digits"] = {"*": _DIGITS} | {str(ipc): values for ipc, values in _DIGITS_RANGES.items()}
  for dataset, table in _OFFICIAL.items():
    depth = 4 if dataset == "tiny_imagenet" else 3
    auto[dataset] = {"*": SHARED | {"model/depth": depth}} | rows(_COLUMNS, table)
  return auto


def share(auto: dict, values: Mapping) -> dict:
  """Gives values to all published rows and to unknown data; the digits have their own."""
  for dataset, table in auto.items():
    if dataset != "digits":
      key = "1" if dataset == "*" else "*"
      table[key] = table[key] | values
  return auto


def rows(columns: Sequence[str], table: Mapping[int, Sequence]) -> dict[str, dict]:
  """A published table, ipc -> options of the method by column; what is `None` stays open."""
  return {
    str(ipc): {f"method/{key}": value for key, value in zip(columns, row, strict=True) if value is not None}
    for ipc, row in table.items()
  }


def presets() -> list[str]:
  """The names after the colon."""
  official = [f"{dataset}_ipc{ipc}" for dataset, table in _OFFICIAL.items() for ipc in table]
  return ["digits", "own", "tiny", "cifar10_small", *official]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny`, `cifar10_small` or a row of the paper's table such as
  `cifar10_ipc10`."""
  return apply_preset(trajectory("datm", tables()), preset, presets())


def trajectory(name: str, auto: dict) -> common.ConfigDict:
  """An experiment with a method that matches trajectories of teachers, which are trained by plain SGD.

  Args:
    name: of the method and of the experiment.
    auto: the tables behind `config.auto`.
  """
  config = common.base(name, {"name": name}, eval={"models": ("convnet",)})
  config.model.name = "convnet"
  config.teacher_train.update({"optimizer": "sgd", "momentum": 0.0, "schedule": "constant"})
  config.auto = auto
  return config


def apply_preset(config: common.ConfigDict, preset: str, known: Sequence[str]) -> common.ConfigDict:
  """Sets what the name of one of the known presets stands for."""
  common.check_preset(preset, known)
  if preset == "tiny":
    return _tiny(config)
  if preset == "cifar10_small":
    return _cifar10_small(config)
  if preset == "own":
    config.auto = {"*": {"*": _OWN}}
    return config
  if preset != "digits":
    config.dataset, _, ipc = preset.rpartition("_ipc")
    config.ipc = int(ipc)
    own = config.auto[config.dataset].to_dict()  # for `--config.dataset=FILE`, too: the preset says what is in it
    config.auto["*"] = own | {"*": config.auto["*"]["*"].to_dict() | own["*"]}
  return config


def _tiny(config: common.ConfigDict) -> common.ConfigDict:
  """Seconds, for tests; the figures mean nothing."""
  common.tiny(config)
  config.teachers.count = 2
  config.teacher_train.update({"epochs": 4, "batch_size": 50, "lr": 0.05, "rho": 0.0, "augment": "none"})
  config.method.update(
    {
      "inner_steps": 3,
      "image_lr": 1.0,
      "lr_init": 0.05,
      "min_start_epoch": 0,
      "max_start_epoch": 2,
      "expert_epochs": 2,
      "initial": "real",
      "augment": "none",
    }
  )
  return config


def _cifar10_small(config: common.ConfigDict) -> common.ConfigDict:
  """CIFAR-10 for two cores: 5,000 training and 1,000 test images, width 32, few and short experts."""
  config.dataset, config.ipc = "cifar10", 10
  config.train_size, config.test_size = 5000, 1000
  config.steps, config.snapshot_every = 300, 50
  config.model.width = 32
  config.teachers.count = 4
  config.teacher_train.update({"epochs": 20, "lr": 0.03, "rho": 0.0})
  config.eval.update({"epochs": 200, "full_epochs": 40, "full_lr": 0.03})
  config.method.update(
    {
      "inner_steps": 15,
      "lr_init": 0.03,
      "lr_lr": 1e-4,
      "min_start_epoch": 0,
      "current_start_epoch": 4,
      "max_start_epoch": 10,
      "schedule_steps": 150,
    }
  )
  return config
