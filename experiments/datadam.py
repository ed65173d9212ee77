"""DataDAM: Efficient Dataset Distillation with Attention Matching (arXiv 2310.00093, ICCV 2023).

  python -m jdistill.run --config=experiments/datadam.py                       scikit-learn digits, one image per class
  python -m jdistill.run --config=experiments/datadam.py --config.ipc=10       ten
  python -m jdistill.run --config=experiments/datadam.py --config.method.attention_weight=0.0       DM's term alone
  python -m jdistill.run --config=experiments/datadam.py:cifar10_ipc10         a row of the table, for accelerators

No teachers and no inner loop, as DM. Test accuracies (ConvNet, %; unverified) at IPC 1/10/50: CIFAR-10 32.0/54.2/67.0,
CIFAR-100 14.5/34.8/49.4; Tiny-ImageNet 28.7 at IPC 50. The weights of the official rows are the release's, 100 times
those of the paper's equation, since the learning rate goes with them. In evaluation the rate is divided by ten at half
of 1,800 epochs as in the release; the paper's table halves it every 15.
"""

from . import common

_ROWS = {"cifar10": (1, 10, 50), "cifar100": (1, 10, 50), "tiny_imagenet": (1, 10, 50)}
_RELEASED = {"method/attention_weight": 100.0, "method/mean_weight": 1.0}


def tables() -> dict:
  """The tables behind `config.auto`: data set -> ipc -> values of keys left open."""
  published = {"preprocessing": "channel", "steps": 8000, "snapshot_every": 1000, "method/batch_real": 64}
  evaluation = {"eval/batch_size": 64, "eval/epochs": 1800, "eval/seeds": 10}
  shared = common.CONVNET | published | evaluation | _RELEASED
  digits = common.CONVNET_DIGITS | {"steps": 400, "eval/seeds": 5, "method/batch_real": 64} | _RELEASED
  many = {"51": {"method/image_lr": 10.0}}
  return {
    "*": {"*": shared, "1": {}} | many,
    "digits": {"*": digits},
    "tiny_imagenet": {"*": {"model/depth": 4}, "1": {}} | many,
  }


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny", *(f"{dataset}_ipc{ipc}" for dataset, row in _ROWS.items() for ipc in row)]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `tiny` or a row of the table such as `cifar10_ipc10`."""
  common.check_preset(preset, presets())
  config = common.base("datadam", {"name": "datadam"}, auto=tables())
  config.model.name = "convnet"
  if preset == "tiny":
    common.tiny(config)
    config.model = common.network("convnet", width=4, depth=2)
    config.eval.models = ("convnet",)
    config.method.update({"batch_real": 10, "lr_init": 0.05, "augment": "none"})
  elif preset != "digits":
    config.dataset, _, ipc = preset.rpartition("_ipc")
    config.ipc = int(ipc)
  return config
