"""DQ: Dataset Quantization (arXiv 2308.10524, ICCV 2023).

python -m jdistill.run --config=experiments/dq.py --workdir=runs/dq             digits; half an hour on two cores
python -m jdistill.run --config=experiments/dq.py:cifar10 --workdir=runs/dq_cifar10               an accelerator
python -m jdistill.run --config=experiments/dq.py:imagenet --config.dataset=FOLDER

Every class is cut into ten bins, each a graph cut of what the ones before left, and the same part of every bin is kept
(`dq`). Beside it, at equal counts and steps: one graph cut of that size (`graph_cut`), the paper's printed gain by
distances (`dq_distance`), the first or the last bin alone, and a random subset. A fifth of the data fills two bins of
ten: there the first and the last of five stand for them. Features are what enters the last layer of an MLP; students
are that MLP, and a ConvNet, which the choice never saw.

Arms `dq_..._...` are DQ's choice with a quarter of the patches left out (the paper's default is a fifth): those of the
lowest Grad-CAM++ of the class that a ConvNet predicts, or any, and in their place what a masked autoencoder gives, the
mean of the patches that are kept, or zeros. Other experiments that train students take both steps by
`--config.data_policy.name=selected --config.select.name=bins` and `--config.patches.theta=0.2` with a decoder in
`config.committee`.

Published: with 60 % of ImageNet's training data no loss of accuracy (ResNet-50), patches left out included. The release
takes features, Grad-CAM++ and autoencoder from networks with ImageNet's weights, enlarges CIFAR's images to 224 pixels
for it, and reports the best of all epochs on the test images. Here these networks are trained on the same training
images, which keep their size, and students are looked at once, at the end. `--config.teachers.weights=FILE
--config.teachers.tune=False` gives Grad-CAM++ a network with weights of its own.
"""

from collections.abc import Mapping
from typing import Any

from . import common_knowledge as common
from . import mae

STEPS, BATCH, TRAIN = 300, 64, 1000
SGD = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "augment": "crop_flip"}
PUBLISHED = (0.1, 0.2, 0.4, 0.6)  # of the data that is stored: images times patches
THETA = 0.2
_MLP = {"student/name": "mlp", "student/widths": (64, 64, 64)}
_CONVNET = {"student/name": "convnet", "student/widths": None, "student/width": 32, "student/depth": 2}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny", "cifar10", "imagenet"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `cifar10` or `imagenet` (the paper's settings) or `tiny`."""
  common.check_preset(preset, presets())
  config = common.students("dq", {"name": "ce"}, about={"name": "supervised"})
  config.subject, config.reference, config.seeds, config.train_size = "dq", "random", 20, TRAIN + 200
  config.student, config.proxy = (common.network("mlp", widths=(64, 64, 64)) for _ in range(2))
  adamw = {"batch_size": BATCH, "optimizer": "adamw", "lr": 0.003, "weight_decay": 0.01}
  config.train, config.proxy_train = common.schedule(epochs=STEPS, **adamw), common.schedule(epochs=40, **adamw)
  config.teacher, config.teacher_train = (
    common.network("convnet", width=32, depth=2),
    common.schedule(epochs=40, **adamw),
  )
  config.data_policy = common.policy("selected")
  config.select.update({"name": "bins", "vectors_of": "features", "fraction": 0.1})
  train = {"epochs": 600, "batch_size": 100, "optimizer": "adamw", "lr": 0.003, "weight_decay": 0.01}
  config.committee = {"decoder": decoder(mae.DIGITS, {"mask_side": 2, "mask_ratio": 0.25}, train)}
  full = {"data_policy/name": "shuffle", "train/epochs": round(STEPS * BATCH / TRAIN)}
  common.arms(config, _selections() | _patches(0.25, 2) | {"full": full})
  config.sweep = {
    "groups": {
      f"{round(100 * part)} %, {name}": network | _kept(part)
      for name, network in (("MLP", _MLP), ("ConvNet", _CONVNET))
      for part in (0.05, 0.1, 0.2)
    },
    "series": {"equal steps": {}},
    "seeds": (0,),
  }
  if preset == "cifar10":
    _published(config, "cifar10", "resnet18_bn", side=2)
  if preset == "imagenet":
    _imagenet(config)
  if preset == "tiny":
    _tiny(config)
  return config


def decoder(sizes: Mapping[str, Any], own: Mapping[str, Any], train: Mapping[str, Any]) -> dict[str, Any]:
  """A masked autoencoder as one of the committee: options of the network, of the recipe and of the schedule."""
  found = {"teacher/name": "mae"} | {f"teacher/{key}": value for key, value in sizes.items()}
  found |= {"teacher_method/name": "mae"} | {f"teacher_method/{key}": value for key, value in own.items()}
  return found | {f"teacher_train/{key}": value for key, value in train.items()}


def _selections() -> dict[str, dict[str, Any]]:
  return {
    "graph_cut": {"select/name": "graph_cut", "select/vectors_of": "features"},
    "dq_distance": {"select/form": "distance"},
    "first_bin": {"select/n_bins": 10, "select/only_bin": 1},
    "last_bin": {"select/n_bins": 10, "select/only_bin": 10},
    "random": {"select/name": "random"},
  }


def _patches(theta: float, side: int) -> dict[str, dict[str, Any]]:
  ways = {"cam_decoder": {}, "random_decoder": {"by": "random"}}
  ways |= {f"random_{fill}": {"by": "random", "fill": fill} for fill in ("mean", "zero")}
  common_values = {"theta": theta, "side": side}
  return {
    f"dq_{name}": {f"patches/{key}": value for key, value in (common_values | own).items()}
    for name, own in ways.items()
  }


def _kept(part: float) -> dict[str, Any]:
  """A part of the data, for about `STEPS` steps; where it is a fifth, bins that are compared are fifths, too."""
  found = {"select/fraction": part, "train/epochs": max(1, round(STEPS / -(-round(part * TRAIN) // BATCH)))}
  if part > 0.1:
    for label, number in (("first_bin", 1), ("last_bin", 5)):
      found |= {f"arms/{label}/select/only_bin": number, f"arms/{label}/select/n_bins": 5}
  return found


def _published(config: common.ConfigDict, dataset: str, network: str, *, side: int) -> None:
  """The paper's settings of training, with patches left out of DQ's images; its arms with all patches are `whole`.

  Fractions are such that images times patches are 10 to 60 % of the data. Batches are of 16 up to 10 %.
  """
  config.dataset, config.preprocessing, config.validation_size, config.seeds = dataset, "channel", 1000, 5
  config.train_size = None
  config.student, config.proxy, config.teacher = (common.network(network) for _ in range(3))
  config.train = common.schedule(epochs=200, batch_size=128, **SGD)
  config.proxy_train, config.teacher_train = (common.schedule(epochs=200, batch_size=128, **SGD) for _ in range(2))
  train = {"epochs": 800, "batch_size": 256, "optimizer": "adamw", "lr": 1.5e-4, "weight_decay": 0.05}
  train |= {"warmup_epochs": 40.0, "augment": "crop_flip"}
  config.committee = {"decoder": decoder({"patch": side}, {"mask_side": side, "mask_ratio": 0.75}, train)}
  arms = _selections()
  del arms["first_bin"], arms["last_bin"]
  arms |= _patches(THETA, side) | {"full": {"data_policy/name": "shuffle", "train/batch_size": 128}}
  common.arms(config, arms)
  config.sweep.groups = {
    f"{round(100 * part)} %": {"select/fraction": part / (1 - THETA), "train/batch_size": 16 if part <= 0.1 else 128}
    for part in PUBLISHED
  }
  config.sweep.series = {"equal epochs": {}}


def _imagenet(config: common.ConfigDict) -> None:
  """For a folder of 224-pixel images that fits into memory, such as a hundred of the classes.

  The release trains by timm's recipe, with RandAugment, several augmented copies and their divergence, and erased
  rectangles; here images are cropped and mirrored.
  """
  _published(config, "imagenet", "resnet50_imagenet", side=16)
  config.proxy, config.teacher = common.network("vit_b16"), common.network("resnet18_imagenet")
  config.train.update({"epochs": 260, "batch_size": 1024, "lr": 0.6, "weight_decay": 1e-4})
  adamw = {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05, "warmup_epochs": 20.0, "augment": "crop_flip"}
  config.proxy_train = common.schedule(epochs=300, batch_size=1024, **adamw)
  config.arms["full"]["train/batch_size"] = 1024
  for values in config.sweep.groups.values():
    values["train/batch_size"] = 1024
  sizes = {"patch": 16, "dim": 1024, "depth": 24, "heads": 16}
  sizes |= {"decoder_dim": 512, "decoder_depth": 8, "decoder_heads": 16}
  for key, value in sizes.items():
    config.committee["decoder"][f"teacher/{key}"] = value


def _tiny(config: common.ConfigDict) -> None:
  """Seconds: DQ's choice with and without patches left out."""
  cam = config.arms["dq_cam_decoder"].to_dict()
  common.tiny(config)
  config.arms, config.order = {"dq_cam_decoder": cam}, ("dq", "dq_cam_decoder")
  config.student, config.proxy = (common.network("mlp", widths=(16,)) for _ in range(2))
  config.teacher = common.network("convnet", width=4, depth=1)
  config.teacher_train.epochs, config.teacher_train.lr = 10, 0.03
  config.proxy_train.epochs, config.select.fraction = 2, 0.5
  for key, value in (mae.TINY | {"patch": 2}).items():
    config.committee["decoder"][f"teacher/{key}"] = value
  config.committee["decoder"]["teacher_train/epochs"], config.committee["decoder"]["teacher_train/batch_size"] = 3, 50
  config.sweep.groups = {"half": {"select/fraction": 0.5}}
