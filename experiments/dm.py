"""DM: Dataset Condensation with Distribution Matching (arXiv 2110.04181, WACV 2023).

  python -m jdistill.run --config=experiments/dm.py                       scikit-learn digits, one image per class
  python -m jdistill.run --config=experiments/dm.py --config.ipc=10       ten
  python -m jdistill.run --config=experiments/dm.py:cifar10_ipc10         a row of the paper's table, for accelerators

No teachers and no inner loop: every step draws a network at random. Published test accuracies (ConvNet, %): CIFAR-10
26.0/48.9/63.0 and CIFAR-100 11.4/29.7/43.6 at IPC 1/10/50, Tiny-ImageNet 3.9/12.9/24.1; users report 57 for CIFAR-10 at
IPC 50 with the released code's defaults.
"""

from . import common

_ROWS = {"cifar10": (1, 10, 50), "cifar100": (1, 10, 50), "tiny_imagenet": (1, 10, 50)}


def tables() -> dict:
  """The tables behind `config.auto`: data set -> ipc -> values of keys left open."""
  published = {"preprocessing": "channel", "steps": 20000, "snapshot_every": 2000, "eval/batch_size": 256}
  digits = common.CONVNET_DIGITS | {"steps": 400, "method/batch_real": 64}
  shared = common.CONVNET | published
  return {"*": {"*": shared}, "digits": {"*": digits}, "tiny_imagenet": {"*": {"model/depth": 4}}}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny", *(f"{dataset}_ipc{ipc}" for dataset, row in _ROWS.items() for ipc in row)]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a row of the paper's table such as `cifar10_ipc10`."""
  common.check_preset(preset, presets())
  config = common.base("dm", {"name": "dm"}, auto=tables())
  config.model.name = "convnet"
  if preset == "tiny":
    common.tiny(config)
    config.method.update({"batch_real": 10, "lr_init": 0.05, "augment": "none"})
  elif preset != "digits":
    config.dataset, _, ipc = preset.rpartition("_ipc")
    config.ipc = int(ipc)
  return config
