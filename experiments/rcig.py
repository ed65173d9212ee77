"""RCIG: Dataset Distillation with Convexified Implicit Gradients (arXiv 2302.06755, ICML 2023).

  python -m jdistill.run --config=experiments/rcig.py                      scikit-learn digits, one image per class
  python -m jdistill.run --config=experiments/rcig.py --config.ipc=10      ten
  python -m jdistill.run --config=experiments/rcig.py:cifar10_ipc10        a row of the paper's table, for accelerators

Networks of a pool are linearised; the gradient passes through their training on the set by a solve with its Hessian.
All sets are evaluated by Adam on the squared error. Published test accuracies (ConvNet, %): CIFAR-10 53.9/69.1/73.5 and
CIFAR-100 39.3/44.1/46.7 at IPC 1/10/50, Tiny-ImageNet 25.6/29.4 at IPC 1/10. Networks of the published evaluation see
translations too, and Adam's rate does not fall.
"""

from . import common

_ROWS = {"cifar10": (1, 10, 50), "cifar100": (1, 10, 50), "tiny_imagenet": (1, 10)}


def tables() -> dict:
  """The tables behind `config.auto`: data set -> ipc -> values of keys left open. Published steps are unverified."""
  published = {
    "preprocessing": "zca",
    "steps": 10_000,
    "snapshot_every": 1000,
    "method/batch_real": 1024,
    "method/use_flip": True,
    "model/norm": "none",
  }
  digits = {
    "steps": 400,
    "snapshot_every": 100,
    "method/batch_real": 256,
    "method/lr_init": 0.001,
    "method/image_lr": 0.03,
    "method/label_lr": 0.003,
    "model/norm": "none",
  }
  return {
    "*": {"*": common.REGRESSION | published},
    "digits": {"*": common.REGRESSION_DIGITS | digits},
    "tiny_imagenet": {"*": {"model/depth": 4}},
  }


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny", *(f"{dataset}_ipc{ipc}" for dataset, row in _ROWS.items() for ipc in row)]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a row of the paper's table such as `cifar10_ipc10`."""
  common.check_preset(preset, presets())
  config = common.base("rcig", {"name": "rcig"}, auto=tables())
  config.model.name = "convnet"
  if preset == "tiny":
    common.tiny(config)
    config.method.update({"batch_real": 50, "lr_init": 0.01, "pool_size": 2, "inner_steps": 3, "solver_steps": 3})
    config.method.update({"tune_rates": False, "inner_lr": 0.01, "solver_lr": 0.1})
    config.eval.update({"loss": "mse", "optimizer": "adam"})
  elif preset != "digits":
    config.dataset, _, ipc = preset.rpartition("_ipc")
    config.ipc = int(ipc)
  return config
