"""Compression under one evaluator: which images are worth most, and how much of it is in their labels?

python -m jdistill.run --config=experiments/compare_compression.py --workdir=runs/compression         digits; an hour
python -m jdistill.run --config=experiments/compare_compression.py:quick --workdir=runs/quick         once each, IPC 5
python -m jdistill.run --config=experiments/compare_compression.py:cifar10_small --config.data_dir=DIR ...

Every set of images is trained on four times, in the same number of updates of the same batches: with stored soft labels
of every augmented batch, with labels of the teacher that is asked in training, with two stored distances per image
(DBR, arXiv 2503.18267), and with hard labels, mixed as the images are. Each kind of labels is a block of the table,
with random real images and those of five selectors in it; graph cut and facility location see the last-layer gradients
of the teacher, the others pixels. The table counts the bytes of labels (of an asked teacher those of its parameters)
and the seconds of teachers, recovery, selection and labels. LRS and ARS are DD-Ranking's scores (arXiv 2505.13300).

Methods have the settings of their own experiments; data, teacher, augmentation, temperature and students are the same
for all. CV-DD and INFER have a committee of teachers, whose labels their random images (`random_relabelled` of the same
run) have, too. INFER makes of each budget more images to train on; its epochs are as many fewer. At one image per class
a budget pays for no compensator, and its run fails. NRR-DD takes Grad-CAM, since the teacher does not average its last
map, and PCA's images are the easiest real ones: of 8 pixels none are left to put several into one.
"""

from collections.abc import Callable, Mapping

from jdistill import selection

from . import common, cv_dd, infer, nrr_dd, pca, rded, sre2l


def _nrr_dd() -> common.ConfigDict:
  """With the teacher of all, which does not average its last map."""
  config = _with_networks(nrr_dd.get_config())
  config.method.class_map = "grad_cam"
  return config


def _pca() -> common.ConfigDict:
  """With labels of a teacher beside its own, which are hard."""
  config = _with_networks(pca.get_config())
  config.stages = pca.SOFT
  return config


def _with_networks(config: common.ConfigDict) -> common.ConfigDict:
  """With the networks of all: options of others would stay beside theirs."""
  config.teacher, config.model = (common.network("convnet_bn", width=32, depth=2) for _ in range(2))
  return config


_METHODS: dict[str, Callable[[], common.ConfigDict]] = {
  "SRe2L": sre2l.get_config,  # the first one has all controls
  "RDED": rded.get_config,
  "CV-DD": cv_dd.get_config,
  "INFER": infer.get_config,
  "NRR-DD": _nrr_dd,
  "PCA": _pca,
}
_KINDS = ("one_hot", "dbr", "online")  # beside the stored soft labels, which are those of the section relabel
_OWN = ("distilled", "distilled_hard", *(f"distilled_{kind}" for kind in _KINDS), "distilled_reaugmented")
_RANDOM = ("random_relabelled", "random_relabelled_reaugmented")
_IMAGES = (*selection.CHOICES, "graph_cut", "facility_location")
_FIRST = tuple(
  dict.fromkeys(
    [
      *_OWN,
      *_RANDOM,
      *(f"{images}_{kind}" for images in _IMAGES for kind in ("relabelled", *_KINDS)),
      "random_hard",
      "full_data",
    ]
  )
)
_RELABEL = {
  "store": "float16",
  "temperature": 20.0,
  "teacher_mode": "eval",
  "parts": 1,
  "augment": "none",
  "strips": 1,
  "mix": "cutmix",
  "optimizer": "adamw",
  "weight_decay": 0.01,
  "decay_all": False,
  "warmup_epochs": 0.0,
  "eta": 1.0,
}
# what 32-pixel images need
_CIFAR = {
  "SRe2L": {"iterations": 300, "r_bn": 0.01, "jitter": 4, "image_lr": 0.25},
  "RDED": {"mipc": 300, "patch_scale": 0.08},
  "CV-DD": {"iterations": 300, "r_bn": 0.01, "jitter": 4, "image_lr": 0.25, "mipc": 300, "patch_scale": 0.08},
  "INFER": {"iterations": 200, "jitter": 4, "compensator_lr": 0.25},
  "NRR-DD": {"iterations": 300, "r_bn": 0.01, "jitter": 4, "image_lr": 0.25, "mipc": 300, "patch_scale": 0.08},
  "PCA": {"factor": 2},
}
_COMMITTEE = {"wide": {"teacher/depth": 2, "teacher/width": 64}}


def series() -> list[str]:
  """Names of what is compared, in order."""
  return list(_METHODS)


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "quick", "cifar10_small", "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `quick` (once, five images per class), `cifar10_small` or `tiny`."""
  common.check_preset(preset, presets())
  if preset == "tiny":
    return _tiny()
  groups, seeds = {f"IPC {ipc}": {"ipc": ipc} for ipc in (1, 5, 10)}, (0, 1, 2)
  if preset == "quick":
    groups, seeds = {"IPC 5": {"ipc": 5}}, (0,)
  bases = {name: _base(make(), first=not index) for index, (name, make) in enumerate(_METHODS.items())}
  config = _around(bases, groups, seeds)
  config.dataset, config.preprocessing, config.validation_size = "digits", "channel", 100
  _with_networks(config)
  config.teacher_train = common.schedule(epochs=30, batch_size=64, lr=0.003)
  config.relabel.update(_RELABEL | {"epochs": 200, "batch_size": 25, "lr": 3e-3, "crop_scale": 0.5, "flip": False})
  config.eval.update({"seeds": 3, "other_augment": "crop_scale_rotate", "models": ("convnet_bn",)})
  # as many updates: 12 of 10 images are trained on where others have 5, 24 where they have 10
  config.sweep["series"]["INFER"] = {"relabel/epochs": 80}
  if preset == "cifar10_small":
    _cifar10_small(config)
  return config


def _cifar10_small(config: common.ConfigDict) -> None:
  """5,000 images of CIFAR-10, for a CPU with patience: one and ten images per class."""
  config.update({"dataset": "cifar10", "train_size": 5000, "test_size": 1000, "validation_size": 500})
  config.sweep["groups"] = {f"IPC {ipc}": {"ipc": ipc} for ipc in (1, 10)}
  for section in (config.teacher, config.model):
    section.width, section.depth = 32, 3
  config.teacher_train.update({"epochs": 20, "batch_size": 128, "augment": "crop_flip"})
  config.relabel.update({"epochs": 100, "batch_size": 50, "flip": True})
  config.eval.update({"other_augment": "crop_flip", "epochs": 100, "full_epochs": 20, "full_batch_size": 128})
  for name, options in _CIFAR.items():
    config.sweep["bases"][name]["method"].update(options)
  for name in ("CV-DD", "INFER"):
    config.sweep["bases"][name]["committee"] = _COMMITTEE
    config.sweep["bases"][name]["teachers"]["also"] = tuple(_COMMITTEE)
  config.sweep["series"]["INFER"] = {"relabel/epochs": 40}  # 5 batches where others have 2
  tiles = {"relabel/cells": 2, "eval/cells": 2}
  config.sweep["series"]["PCA"] = tiles | {"proxy_train/epochs": 5, "proxy_train/batch_size": 128}


def _around(bases: Mapping[str, common.ConfigDict], groups: dict, seeds: tuple[int, ...]) -> common.ConfigDict:
  """What holds for every method, and the sweep."""
  config = common.base("compare_compression", {"name": "sre2l"})
  config.sweep = {
    "groups": groups,
    "series": {name: {} for name in bases},
    "order": tuple(bases),
    "seeds": seeds,
    "bases": dict(bases),
  }
  return config


def _base(config: common.ConfigDict, *, first: bool) -> common.ConfigDict:
  """An experiment with the sets that it is compared by."""
  config.eval.sets = _FIRST if first else (*_OWN, *_RANDOM)
  return config


def _tiny() -> common.ConfigDict:
  """Two methods in seconds; the figures mean nothing."""
  bases = {"SRe2L": sre2l.get_config("tiny"), "RDED": rded.get_config("tiny")}
  for name, config in bases.items():
    more = ("graph_cut_dbr", "random_dbr", "random_hard") if name == "SRe2L" else ()
    config.eval.sets = ("distilled", "distilled_dbr", *more)
  config = _around(bases, {"IPC 1": {"ipc": 1}}, (0,))
  config.relabel.store, config.dataset, config.preprocessing = "float16", "digits", "channel"
  config.teacher = common.network("convnet_bn", width=4, depth=1)
  config.model = common.network("convnet_bn", width=4, depth=1)
  return config
