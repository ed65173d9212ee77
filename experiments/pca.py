"""PCA: Rethinking Large-scale Dataset Compression, Shifting Focus From Labels to Images (arXiv 2502.06434, 2025).

  python -m jdistill.run --config=experiments/pca.py                     scikit-learn digits, one image per class
  python -m jdistill.run --config=experiments/pca.py:table               random, easy and hard images; hard, soft labels
  python -m jdistill.run --config=experiments/pca.py:cifar10_small --config.data_dir=DIR         PCA and its parts
  python -m jdistill.run --config=experiments/pca.py:cifar10_factorial --config.data_dir=DIR     all combinations
  python -m jdistill.run --config=experiments/pca.py:imagenet_ipc10 --config.dataset=FOLDER      published values

Prune: of every class the real images with the lowest EL2N are chosen, by proxies that see all data for a few epochs
(stage `prune`; any other selector by `--config.select.name=NAME`). Combine: they are made smaller, and
`method.factor x method.factor` of them make an image. Augment: networks are trained on random resized crops inside one
of these tiles (`eval.cells`), with hard labels. The exported set carries this protocol. With the stages `teachers` and
`relabel` its labels are soft instead, by the section `relabel`.

Digits have too few pixels to be made smaller: there it is pruning alone, and `--config.ipc=5 --config.eval.epochs=300`
makes as many updates as one image per class does in 600 epochs.

Published top-1 with ResNet-18 and hard labels (%): ImageNet-1K 22.8, 39.1 and 45.5 at IPC 10, 50 and 100; random images
4.6, 20.6 and 31.7. The paper's "SGD setting" is `--config.eval.optimizer=sgd --config.method.lr_init=0.1
--config.eval.weight_decay=1e-4`, its soft labels `relabel.store=online` with `relabel.mix=cutmix` and a temperature
of 20. From which networks and epoch its EL2N is taken was not published.
"""

from collections.abc import Mapping
from typing import Any

from . import common, rded

SOFT = ("teachers", "prune", "distill", "relabel", "evaluate", "export", "report")
_HARD = ("prune", "distill", "evaluate", "export", "report")
_PUBLISHED = tuple(f"imagenet_ipc{ipc}" for ipc in (10, 50, 100))
_EASY: dict[str, Any] = {"select/name": "el2n", "select/keep": "lowest"}
_RANDOM = {"select/name": "random", "select/keep": None}
_IMAGES = {"random": _RANDOM, "easy": _EASY, "hard": {"select/name": "el2n", "select/keep": "highest"}}
_WHOLE = {"method/factor": 1, "eval/cells": 1, "relabel/cells": 1}
_FREE = {"eval/cells": 1, "relabel/cells": 1}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "table", "cifar10_small", "cifar10_factorial", *_PUBLISHED, "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `table`, `cifar10_small`, `cifar10_factorial`, `tiny` or a published row."""
  common.check_preset(preset, presets())
  if preset.startswith("cifar10"):
    return _parts() if preset == "cifar10_small" else _factorial()
  config = _digits()
  if preset == "table":
    _table(config)
  if preset in _PUBLISHED:
    _published(config, int(preset.removeprefix("imagenet_ipc")))
  if preset == "tiny":
    config.update({"train_size": 200, "test_size": 100, "validation_size": 40, "log_every": 1})
    config.model = common.network("mlp", widths=(16,))
    config.method.factor = config.eval.cells = 2
    config.select.runs, config.proxy_train.epochs = 2, 2
    config.eval.update({"seeds": 2, "epochs": 2, "full_epochs": 1, "crop_scale": 0.5})
  return config


def _digits() -> common.ConfigDict:
  """Whole images: of a tile of a digit too little would be left."""
  config = common.base("pca", {"name": "pca", "factor": 1, "lr_init": 0.003}, stages=_HARD)
  config.dataset, config.preprocessing, config.ipc, config.validation_size = "digits", "standardize", 1, 100
  config.model, config.teacher = common.network("mlp", widths=(64, 64, 64)), common.network("mlp", widths=(256,))
  own = {"optimizer": "adamw", "lr": 0.003, "weight_decay": 0.01}
  config.teacher_train = common.schedule(epochs=30, batch_size=64, **own)
  # the beginning of a long training: about 60 updates
  config.proxy_train = common.schedule(epochs=4, batch_size=64, schedule="constant", **own)
  config.select.update({"name": "el2n", "keep": "lowest", "runs": 10})
  config.relabel.update({"store": "online", "temperature": 4.0, "epochs": 600, "batch_size": 32, "lr": 0.003})
  config.relabel.update({"crop_scale": 1.0, "flip": False, "mix": "none", "decay_all": False})  # images as they are
  config.eval.update({"epochs": 600, "batch_size": 32, "optimizer": "adamw", "weight_decay": 0.01})
  config.eval.update({"schedule": "cosine", "decay_all": False, "control_lrs": (0.003,)})
  config.eval.update({"full_epochs": 35, "full_lr": 0.003, "full_batch_size": 64, "models": ("mlp",)})
  config.eval.sets = ("distilled", "random_hard", "full_data")
  return config


def _table(config: common.ConfigDict) -> None:
  """Which images are worth most, by the budget and by the labels; ten repetitions of everything."""
  series = {}
  for labels, stages in (("hard labels", _HARD), ("soft labels", SOFT)):
    series |= {f"{images}, {labels}": {"stages": stages, **chosen} for images, chosen in _IMAGES.items()}
  epochs = {1: 600, 5: 300}  # as many updates
  groups = {f"IPC {ipc}": {"ipc": ipc, "eval/epochs": n, "relabel/epochs": n} for ipc, n in epochs.items()}
  config.eval.sets, config.eval.seeds = ("distilled",), 1
  config.sweep = {"groups": groups, "series": series, "order": tuple(series), "seeds": tuple(range(10))}


def _cifar10() -> common.ConfigDict:
  """5,000 images of CIFAR-10 and ten per class, for a CPU; the proxies of a repetition are three networks."""
  config = common.base("pca", {"name": "pca", "factor": 2, "lr_init": 0.001}, stages=_HARD)
  config.update({"dataset": "cifar10", "preprocessing": "channel", "ipc": 10, "validation_size": 500})
  config.train_size, config.test_size = 5000, 1000
  config.model = config.teacher = common.network("convnet_bn", width=32, depth=3)
  config.teacher_train = common.schedule(epochs=20, batch_size=128, lr=0.003, augment="crop_flip")
  config.proxy_train = common.schedule(epochs=5, batch_size=128, lr=0.003, augment="crop_flip", schedule="constant")
  config.select.update({"name": "el2n", "keep": "lowest", "runs": 3})
  students = {"crop_scale": 0.25, "flip": True, "decay_all": False, "epochs": 300, "batch_size": 128}
  config.relabel.update(students | {"cells": 2, "store": "online", "temperature": 4.0, "mix": "cutmix"})
  config.eval.update(students | {"cells": 2, "optimizer": "adamw", "weight_decay": 0.01, "schedule": "cosine"})
  config.eval.update({"control_lrs": (0.001,), "full_epochs": 20, "full_lr": 0.003, "full_batch_size": 128})
  config.eval.update({"sets": ("distilled",), "seeds": 1, "models": ("convnet_bn",)})
  return config


def _parts() -> common.ConfigDict:
  """PCA, each of its parts left out or turned round, and RDED, all with hard labels and the same training."""
  own: dict[str, Mapping[str, Any]] = {
    "PCA": {},
    "random": _RANDOM | _WHOLE,
    "pruned": _WHOLE,
    "random combined": _RANDOM,
    "hard combined": _IMAGES["hard"],
    "free crops": _FREE,
    "crops as tiles": {"method/crop": 0.25},
  }
  config = common.base("pca", {"name": "rded"})  # what holds for all comes from the bases
  bases = {name: _cifar10() for name in own} | {"RDED": _rded(_cifar10())}
  series = {name: dict(values) for name, values in own.items()} | {"RDED": {}}
  config.sweep = {"groups": {"IPC 10": {}}, "series": series, "order": tuple(series), "seeds": tuple(range(5))}
  config.sweep.bases = bases
  return config


def _rded(like: common.ConfigDict) -> common.ConfigDict:
  """RDED with hard labels and the training of another experiment."""
  config = rded.get_config()
  for key in ("dataset", "preprocessing", "ipc", "validation_size", "train_size", "test_size", "model", "teacher"):
    config[key] = like[key]
  config.teacher_train, config.eval = like.teacher_train, like.eval.copy_and_resolve_references()
  config.eval.cells, config.stages = 1, ("teachers", "distill", "evaluate", "export", "report")
  config.method.update({"mipc": 300, "num_crop": 5, "factor": 2, "patch_scale": 0.25, "lr_init": like.method.lr_init})
  return config


def _factorial() -> common.ConfigDict:
  """Random, easy and hard images; whole ones or tiles, with crops in one of them or anywhere; hard and soft labels."""
  config, series = _cifar10(), {}
  forms = {"in cells": {}, "free crops": _FREE, "whole": _WHOLE}
  for labels, stages in (("hard labels", _HARD), ("soft labels", SOFT)):
    for images, chosen in _IMAGES.items():
      series |= {f"{images}, {name}, {labels}": {"stages": stages} | chosen | form for name, form in forms.items()}
  config.sweep = {"groups": {"IPC 10": {}}, "series": series, "order": tuple(series), "seeds": tuple(range(5))}
  return config


def _published(config: common.ConfigDict, ipc: int) -> None:
  """The benchmark's values; ImageNet is not in TFDS: give its folder with `--config.dataset`."""
  config.update({"dataset": "imagenet", "preprocessing": "channel", "ipc": ipc, "validation_size": 5000})
  config.model, config.teacher = common.network("resnet18_bn"), common.network("resnet18_bn")
  sgd = {"batch_size": 256, "optimizer": "sgd", "lr": 0.1, "weight_decay": 1e-4, "augment": "crop_flip"}
  config.teacher_train = common.schedule(epochs=90, **sgd)
  config.proxy_train = common.schedule(epochs=20, schedule="constant", **sgd)  # not published, as `select.runs`
  config.method.update({"factor": 2, "lr_init": 0.001})
  students = {"epochs": 300, "batch_size": 128, "weight_decay": 0.01, "crop_scale": 0.08, "flip": True, "cells": 2}
  config.eval.update(students | {"full_epochs": 90, "full_lr": 0.001, "full_batch_size": 128})
  config.eval.update({"control_lrs": (0.001,), "models": ("resnet18_bn",)})
  config.relabel.update(students | {"lr": 0.001, "temperature": 20.0, "mix": "cutmix"})
