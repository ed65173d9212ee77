"""FedLGD: Federated Learning on Virtual Heterogeneous Data with Local-Global Distillation (arXiv 2303.02278).

  python -m jdistill.run --config=experiments/fedlgd.py                                     three clients with digits
  python -m jdistill.run --config=experiments/fedlgd.py --config.transport.name=flower      the same, client processes
  python -m jdistill.run --config=experiments/fedlgd.py --config.task.alpha=0.5             and different classes
  python -m jdistill.run --config=experiments/fedlgd.py:digits5 --config.dataset=mnist --config.data_dir=DIR \\
      --config.task.more=svhn_cropped,usps.npz,syndigits.npz,mnistm.npz                     the paper's five clients
  python -m jdistill.run --config=experiments/fedlgd.py:retina --config.dataset=drishti \\
      --config.task.more=kaggle,rim,refuge                                                  four folders of images

Clients distil virtual images of their own data, go on distilling them in the global network, and are aligned by a set
that the server distils from their updates. The other arms are federated averaging and FedProx on virtual and on real
data, and FedLGD without anchors and without further local distillation. The paper reports that FedLGD is above all of
them on heterogeneous clients; its figures were not available when this was written.

`digits5` has MNIST, SVHN, USPS, SynDigits and MNIST-M at 32 x 32 pixels, `retina` four folders at 96 x 96 with two
classes; `cifar10c` divides CIFAR-10 among clients of unequal classes, plain, turned and noisy in turn, in the place of
the paper's corruptions.
"""

from typing import Any

from . import common, common_federated
from .common_federated import LOCAL, VIRTUAL, options

_ANCHORS = {"anchor_ipc": 2, "anchor_steps": 50, "refresh_steps": 50}
_PAPER = {"lr": 0.01, "local_epochs": 1, "local_batch": 32}
_PAPER_VIRTUAL = {"virtual_ipc": 50, "warmup_steps": 10000, "batch_real": 256, "augment": common.DSA}
_NO_FLIP = common.DSA.replace("flip_", "")  # a mirrored digit is another sign


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "digits5", "cifar10c", "retina", "tiny"]


def _controls(own: dict[str, Any], local: dict[str, Any], virtual: dict[str, Any]) -> dict[str, dict[str, Any]]:
  """All arms but the method's own; `own` are its options."""
  shared = local | virtual | {"train_on": "virtual", "average": "uniform"}
  return {
    "fedavg, virtual": options("fedavg", **shared),
    "fedprox, virtual": options("fedprox", **shared),
    "no anchors": options("fedlgd", **own | {"anchor_ipc": 0}),
    "no refreshing": options("fedlgd", **own | {"refresh_steps": 0}),
    "fedavg, real": options("fedavg", **local),
    "fedprox, real": options("fedprox", **local),
  }


def _with(local: dict[str, Any], virtual: dict[str, Any], own: dict[str, Any]) -> common.ConfigDict:
  own = local | virtual | own
  config = common_federated.federation("fedlgd", {"name": "fedlgd"} | own)
  return common_federated.arms(config, _controls(own, local, virtual))


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `digits5`, `cifar10c`, `retina` or `tiny`."""
  common.check_preset(preset, presets())
  if preset in ("digits", "tiny"):
    config = _with(LOCAL, VIRTUAL, _ANCHORS)
    return common_federated.tiny(config) if preset == "tiny" else config
  virtual = _PAPER_VIRTUAL | ({"augment": _NO_FLIP} if preset == "digits5" else {})
  config = _with(_PAPER, virtual, {"align_weight": 10.0 if preset == "digits5" else 1.0})
  config.model = common.network("convnet", width=128, depth=3, norm="instance")
  config.rounds, config.preprocessing, config.validation_size = 100, "channel", 500
  config.task.styles = ()
  if preset == "digits5":
    config.dataset, config.task.side = "mnist", 32
    config.task.more = ("svhn_cropped", "usps.npz", "syndigits.npz", "mnistm.npz")
  elif preset == "cifar10c":
    config.dataset, config.task.alpha = "cifar10", 2.0
    config.task.styles = ("plain", "rotated", "noisy") * 19
  else:
    config.dataset, config.task.side, config.validation_size = "drishti", 96, 0
    config.task.more = ("kaggle", "rim", "refuge")
    config.model.depth = 4
  return config
