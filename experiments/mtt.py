"""Dataset Distillation by Matching Training Trajectories (arXiv 2203.11932, CVPR 2022).

  python -m jdistill.run --config=experiments/mtt.py                  scikit-learn digits
  python -m jdistill.run --config=experiments/mtt.py:cifar10_ipc10    a row of FTD's table for the same loop

DATM's builder with hard labels, no acceptance threshold, a fixed range of start epochs from 0 and plain SGD experts.
Published test accuracies (ConvNet, %): CIFAR-10 46.2/65.4/71.6 and CIFAR-100 24.3/39.7/47.7 at IPC 1/10/50,
Tiny-ImageNet 8.8/23.2/28.0.
"""

from . import common, datm

# (inner steps, expert epochs, max start epoch, image lr, batch, lr of lr, initial lr)
_OFFICIAL = {
  "cifar10": {
    1: (50, 2, 2, 100, None, 1e-7, 0.01),
    10: (30, 2, 20, 100, None, 1e-5, 0.001),
    50: (30, 2, 40, 1000, None, 1e-5, 0.01),
  },
  "cifar100": {
    1: (40, 3, 20, 1000, None, 1e-5, 0.01),
    10: (20, 2, 40, 1000, None, 1e-5, 0.01),
    50: (80, 2, 40, 1000, 1000, 1e-5, 0.01),
  },
  "tiny_imagenet": {
    1: (30, 2, 10, 10000, None, 1e-4, 0.01),
    10: (20, 2, 40, 10000, 500, 1e-4, 0.01),
  },
}
_COLUMNS = ("inner_steps", "expert_epochs", "max_start_epoch", "image_lr", "batch_size", "lr_lr", "lr_init")


# What all published rows share.
SHARED = {"steps": 5000, "teacher_train/epochs": 50, "teacher_train/rho": 0.0, "eval/batch_size": 256}


def tables() -> dict:
  """DATM's tables with MTT's values: same data, networks and protocol."""
  auto = datm.tables()
  for ipc, upper in ((1, 3), (10, 15)):
    auto["digits"][str(ipc)] = {"method/min_start_epoch": 0, "method/max_start_epoch": upper}
  auto["digits"]["*"] = {
    key: value for key, value in auto["digits"]["*"].items() if key not in ("method/threshold", "method/initial")
  }
  for dataset, table in _OFFICIAL.items():
    auto[dataset] = {"*": auto[dataset]["*"] | SHARED} | datm.rows(_COLUMNS, table)
  return auto


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "own", "tiny", *(f"{dataset}_ipc{ipc}" for dataset, table in _OFFICIAL.items() for ipc in table)]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a published row such as `cifar10_ipc10`."""
  return datm.apply_preset(datm.trajectory("mtt", tables()), preset, presets())
