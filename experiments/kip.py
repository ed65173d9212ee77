"""KIP: Dataset Meta-Learning from Kernel Ridge-Regression (arXiv 2011.00050, ICLR 2021; 2107.13034, NeurIPS 2021).

  python -m jdistill.run --config=experiments/kip.py                       scikit-learn digits, one image per class
  python -m jdistill.run --config=experiments/kip.py --config.ipc=10       ten
  python -m jdistill.run --config=experiments/kip.py:cifar10_ipc10         for accelerators

No network is trained: every step moves the set so that ridge regression with the tangent kernel of an infinitely wide
fully connected network predicts real labels from it. Fresh finite networks of that kind then regress to its labels, as
do all controls to theirs; the report's `kernel accuracy` is that of the kernel itself on training images. Published
test accuracies (%) are those of convolutional kernels (arXiv 2107.13034), which are not here: ConvNets trained on the
sets 49.9/62.7/68.6 on CIFAR-10 at IPC 1/10/50.
"""

from . import common

_ROWS = {"mnist": (1, 10, 50), "cifar10": (1, 10, 50)}


def tables() -> dict:
  """The tables behind `config.auto`: data set -> ipc -> values of keys left open. Those of MNIST are unverified."""
  published = {"preprocessing": "zca", "steps": 5000, "snapshot_every": 500, "method/batch_real": 5000}
  shared = common.REGRESSION | published
  digits = common.REGRESSION_DIGITS | {"steps": 500, "method/batch_real": 500}
  for table in (shared, digits):
    for key in ("model/width", "model/depth", "model/norm"):
      del table[key]
  return {"*": {"*": shared}, "digits": {"*": digits}, "mnist": {"*": {"preprocessing": "standardize"}}}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny", *(f"{dataset}_ipc{ipc}" for dataset, row in _ROWS.items() for ipc in row)]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a data set with its images per class, such as `cifar10_ipc10`."""
  common.check_preset(preset, presets())
  config = common.base("kip", {"name": "kip"}, auto=tables())
  config.model, config.eval.models = common.network("mlp", widths=(256, 256)), ("mlp",)
  if preset == "tiny":
    common.tiny(config)
    config.method.update({"batch_real": 50, "lr_init": 0.01})
    config.eval.update({"loss": "mse", "optimizer": "adam"})
  elif preset != "digits":
    config.dataset, _, ipc = preset.rpartition("_ipc")
    config.ipc = int(ipc)
  return config
