"""FRePo: Dataset Distillation using Neural Feature Regression (arXiv 2206.00719, NeurIPS 2022).

  python -m jdistill.run --config=experiments/frepo.py                     scikit-learn digits, one image per class
  python -m jdistill.run --config=experiments/frepo.py --config.ipc=10     ten
  python -m jdistill.run --config=experiments/frepo.py:cifar10_ipc10       a row of the paper's table, for accelerators

Ridge regression on the features of a pool of networks predicts real labels from the set, and the networks are trained
on the set at the same time. All sets are evaluated by Adam on the squared error. Published test accuracies (ConvNet,
%): CIFAR-10 46.8/65.5/71.7 and CIFAR-100 28.7/42.5/44.3 at IPC 1/10/50, Tiny-ImageNet 15.4/25.4 at IPC 1/10.

The published networks double their width in every block. In the published evaluation they see translations too, Adam's
rate does not fall, and the average of their parameters counts; here the last ones do. They have batch norm in the pool,
or none as here.
"""

from . import common

# images per class -> updates of a network of the evaluation, and whether the set has its mirrors
_ROWS = {
  "cifar10": {1: (1000, True), 10: (1000, True), 50: (1000, True)},
  "cifar100": {1: (1000, True), 10: (2000, False), 50: (5000, False)},
  "tiny_imagenet": {1: (1000, True), 10: (5000, False)},
}
_CLASSES = {"cifar10": 10, "cifar100": 100, "tiny_imagenet": 200}


def tables() -> dict:
  """The tables behind `config.auto`: data set -> ipc -> values of keys left open."""
  published = {"preprocessing": "zca", "snapshot_every": 50_000, "method/batch_real": 1024, "model/norm": "none"}
  digits = {
    "method/iterations": 2000,
    "method/image_lr": 0.003,
    "method/label_lr": 0.003,
    "method/lr_init": 0.001,
    "method/pool_lr": 0.001,
    "method/ridge": 1e-3,  # of 128 features; with 1e-6 a set of 100 images follows their last digits
    "snapshot_every": 500,
    "method/batch_real": 256,
    "model/norm": "none",
  }
  out = {"*": {"*": common.REGRESSION | published}, "digits": {"*": common.REGRESSION_DIGITS | digits}}
  for dataset, rows in _ROWS.items():
    out[dataset] = {
      ipc: {"eval/epochs": -(-updates // -(-ipc * _CLASSES[dataset] // 500)), "method/use_flip": flip}
      | ({"model/depth": 4} if dataset == "tiny_imagenet" else {})
      for ipc, (updates, flip) in rows.items()
    }
  return out


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny", *(f"{dataset}_ipc{ipc}" for dataset, row in _ROWS.items() for ipc in row)]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a row of the paper's table such as `cifar10_ipc10`."""
  common.check_preset(preset, presets())
  config = common.base("frepo", {"name": "frepo"}, auto=tables())
  config.model.name = "convnet"
  if preset == "tiny":
    common.tiny(config)
    config.method.update({"batch_real": 50, "lr_init": 0.01, "pool_size": 2})
    config.eval.update({"loss": "mse", "optimizer": "adam"})
  elif preset != "digits":
    config.dataset, _, ipc = preset.rpartition("_ipc")
    config.ipc = int(ipc)
  return config
