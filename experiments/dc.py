"""DC: Dataset Condensation with Gradient Matching (arXiv 2006.05929, ICLR 2021), and with an augmentation DSA (arXiv
2102.08259, ICML 2021).

  python -m jdistill.run --config=experiments/dc.py                       scikit-learn digits, one image per class
  python -m jdistill.run --config=experiments/dc.py --config.ipc=10       ten
  python -m jdistill.run --config=experiments/dc.py:cifar10_ipc10         a row of the paper's table, for accelerators
  python -m jdistill.run --config=experiments/dc.py:dsa                   digits with DSA, from real images
  python -m jdistill.run --config=experiments/dc.py:dsa --config.dataset=cifar10 --config.ipc=10      a row of DSA's

No teachers. A network is drawn for every `method.outer_loop` steps and trained on the set between them, so the 1,000
networks of the paper are 1,000 times as many steps. Published test accuracies (ConvNet, %) at IPC 1/10/50:

             MNIST              SVHN               CIFAR-10           CIFAR-100
  DC         91.7/97.4/98.8     31.2/76.1/82.3     28.3/44.9/53.9     12.8/25.2/-
  DSA        88.7/97.8/99.2     27.5/79.2/84.4     28.8/52.1/60.6     13.9/32.3/-
"""

from . import common

_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
_NETWORKS = 1000
_ROWS = {"mnist": (1, 10, 50), "svhn_cropped": (1, 10, 50), "cifar10": (1, 10, 50), "cifar100": (1, 10)}
_TURNED = "color_crop_cutout_scale_rotate"  # without mirror images, for digits


def tables(*, dsa: bool = False) -> dict:
  """The tables behind `config.auto`: data set -> ipc -> values of keys left open.

  Args:
    dsa: one augmentation for matching, inner training and evaluation, and real images to start from.
  """
  none = {"eval/augment": "none", "method/augment": "none"}
  published = {"preprocessing": "channel", "snapshot_every": 1000, "eval/batch_size": 256, "eval/epochs": 300}
  shared = common.CONVNET | published | none
  digits = common.CONVNET_DIGITS | {"method/batch_real": 64, "method/net_lr": 0.05} | none
  turned = {}
  if dsa:
    real = {"method/initial": "real"}
    shared |= real | {"eval/epochs": 1000, "eval/augment": common.DSA, "method/augment": common.DSA}
    turned = real | {"eval/augment": _TURNED, "method/augment": _TURNED}
  auto = {"*": {"*": shared} | _by_ipc(), "digits": {"*": digits | turned | {"steps": 400}} | _by_ipc(published=False)}
  auto["cifar100"] = {"*": {"method/classes_at_once": 10}} | _by_ipc()  # gradients of all 25,600 real images are large
  return auto | {name: {"*": turned} | _by_ipc() for name in ("mnist", "svhn_cropped") if dsa}


def _by_ipc(*, published: bool = True) -> dict[str, dict]:
  """The loops, and the steps that the published number of networks takes."""
  return {
    str(ipc): {"method/outer_loop": outer, "method/inner_epochs": inner}
    | ({"steps": _NETWORKS * outer} if published else {})
    for ipc, (outer, inner) in _LOOPS.items()
  }


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "dsa", "tiny", *(f"{dataset}_ipc{ipc}" for dataset, row in _ROWS.items() for ipc in row)]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `dsa` (with DSA, on any data set), `tiny` or a row of the paper's table such
  as `cifar10_ipc10`."""
  common.check_preset(preset, presets())
  config = common.base("dc", {"name": "dc"}, auto=tables(dsa=preset == "dsa"))
  config.model.name = "convnet"
  if preset == "tiny":
    common.tiny(config)
    config.method.update({"batch_real": 10, "lr_init": 0.05, "augment": "none", "outer_loop": 2, "inner_epochs": 2})
  elif preset not in ("digits", "dsa"):
    config.dataset, _, ipc = preset.rpartition("_ipc")
    config.ipc = int(ipc)
  return config
