"""CV-DD: Dataset Distillation via Committee Voting (arXiv 2501.07575, 2025), and its baseline SRe2L++.

  python -m jdistill.run --config=experiments/cv_dd.py                    scikit-learn digits, five images per class
  python -m jdistill.run --config=experiments/cv_dd.py:sre2l_plus         the same with one teacher: SRe2L++
  python -m jdistill.run --config=experiments/cv_dd.py:factorial          teachers x start x mode of labels, on digits
  python -m jdistill.run --config=experiments/cv_dd.py:cifar10_ipc10      published values, for accelerators
  python -m jdistill.run --config=experiments/cv_dd.py:imagenet_ipc50 --config.dataset=FOLDER

Teachers of different architectures are trained; images start as real patches and are recovered from two of the
teachers at a time, weighted by what each is worth (`voting.prior`, in percent: as published for CIFAR-10, CIFAR-100,
Tiny-ImageNet and ImageNet-1K, else measured on held-out images). All teachers label every batch in train mode, each
half of it by itself, and students see the same halves. `voting.label_weights` and `method.voter` change the weights,
`relabel.store` what is kept of the labels. What voting gains is CV-DD minus SRe2L++.

Published top-1 with ResNet-18 on ImageNet-1K at IPC 50 (%): 59.5, where RDED has 56.5. The zoo here has no DenseNet121
and no ResNet50: `resnet10_bn` and `vgg13_bn` stand in for them, so the published priors are those of other networks.
"""

from . import common

_TEACHERS = ("resnet10_bn", "shufflenetv2", "mobilenetv2", "vgg13_bn")  # beside ResNet-18
# ResNet18, ResNet50, ShuffleNetV2, MobileNetV2, DenseNet121
_PRIORS = {
  "cifar10": (63.0, 65.3, 68.5, 67.6, 67.4),
  "cifar100": (64.0, 60.6, 51.6, 59.4, 56.4),
  "tiny_imagenet": (46.5, 28.3, 43.6, 44.8, 41.5),
  "imagenet": (56.4, 42.3, 52.5, 44.2, 40.6),
}
_IPCS = {"cifar10": (1, 10, 50), "cifar100": (1, 10, 50), "tiny_imagenet": (1, 10, 50), "imagenet": (1, 10, 50)}
_PUBLISHED = tuple(f"{dataset}_ipc{ipc}" for dataset, ipcs in _IPCS.items() for ipc in ipcs)
_PLUS = {"teachers/also": (), "method/voters": 1}
_START = {"noise": {"method/initial": "noise"}, "patches": {"method/initial": "patches"}}
_MODES = {"eval": {"relabel/teacher_mode": "eval"}, "train": {"relabel/teacher_mode": "train"}}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "sre2l_plus", "factorial", *_PUBLISHED, "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `sre2l_plus`, `factorial`, `tiny` or a published row."""
  common.check_preset(preset, presets())
  config = _digits()
  if preset == "sre2l_plus":
    config.teachers.also, config.method.voters = (), 1
  if preset == "factorial":
    _factorial(config)
  if preset in _PUBLISHED:
    dataset, _, ipc = preset.rpartition("_ipc")
    _published(config, dataset, int(ipc))
  if preset == "tiny":
    common.tiny_recovery(config)
    config.committee = {"wide": {"teacher/width": 6}}
    config.teachers.also = ("wide",)
    config.method.update({"iterations": 2, "mipc": 10, "num_crop": 2})
    config.relabel.batch_size = 8
  return config


def _digits() -> common.ConfigDict:
  """Three ConvNets of different shape, two of which vote on an image."""
  config = common.base("cv_dd", {"name": "cv_dd"})
  config.dataset, config.preprocessing, config.ipc = "digits", "standardize", 5
  config.validation_size = 100
  config.teacher = common.network("convnet_bn", width=32, depth=2)
  config.model = common.network("convnet_bn", width=32, depth=2)
  config.committee = {"narrow": {"teacher/width": 16}, "deep": {"teacher/width": 16, "teacher/depth": 3}}
  config.teachers.also = ("narrow", "deep")
  config.teacher_train = common.schedule(epochs=30, batch_size=64, lr=0.003)
  own = {"iterations": 300, "image_lr": 0.1, "r_bn": 0.01, "jitter": 1, "crop_scale": None, "flip_images": False}
  config.method.update(own | {"mipc": 60, "num_crop": 5, "patch_scale": 0.5})
  config.voting.label_weights = "prior"
  students = {"epochs": 60, "batch_size": 16, "teacher_mode": "train", "parts": 2, "decay_all": False, "lr": 3e-3}
  config.relabel.update(students | {"crop_scale": 0.5, "flip": False})
  config.eval.update({"epochs": 60, "full_epochs": 40, "full_lr": 0.01, "full_batch_size": 64})
  config.eval.models = ("convnet_bn",)
  return config


def _factorial(config: common.ConfigDict) -> None:
  """{one teacher, pairs} x {noise, patches} x {labels in eval, in train mode}, paired by seed."""
  config.eval.sets, config.eval.seeds = ("distilled",), 3
  config.teachers.also = ("deep",)
  teachers, series = {"one": _PLUS, "pair": {}}, {}
  for many, of_teachers in teachers.items():
    for start, of_start in _START.items():
      for mode, of_mode in _MODES.items():
        series[f"{many} {start} {mode}"] = of_teachers | of_start | of_mode
  order = tuple(series)
  config.sweep = {"groups": {"IPC 5": {"ipc": 5}}, "series": series, "order": order, "seeds": (0, 1, 2)}


def _published(config: common.ConfigDict, dataset: str, ipc: int) -> None:
  """The released values; Tiny-ImageNet and ImageNet are not in TFDS: give their folder with `--config.dataset`."""
  config.update({"dataset": dataset, "preprocessing": "channel", "ipc": ipc, "validation_size": 5000})
  config.teacher, config.model = common.network("resnet18_bn"), common.network("resnet18_bn")
  config.committee = {name: {"teacher/name": name} for name in _TEACHERS}
  config.teachers.also = _TEACHERS
  config.teacher_train = common.schedule(
    epochs=200, batch_size=128, optimizer="sgd", lr=0.1, weight_decay=1e-4, augment="crop_flip"
  )
  config.voting.update({"prior": _PRIORS[dataset], "label_weights": "prior", "temperature": 10.0})
  pairs = "best" if ipc == 1 else "fixed" if ipc == 10 else "random"
  large, block = dataset == "imagenet", 10 if dataset == "cifar10" else 100
  config.method.update({"iterations": 4000, "image_lr": 0.25, "r_bn": 0.01, "block_size": block, "pairs": pairs})
  config.method.update({"jitter": 32 if large else 4, "crop_scale": 0.08, "flip_images": True, "patch_scale": 0.08})
  config.method.update({"mipc": 300, "num_crop": 5, "factor": 2 if large else 1})
  eta = 2.0 if (dataset, ipc) in (("cifar100", 10), ("tiny_imagenet", 1), ("tiny_imagenet", 50)) else 1.0
  eta = (1.0 if ipc == 50 else 2.0) if large else eta
  students = {"epochs": 300, "batch_size": 16, "lr": 1e-3, "weight_decay": 0.01, "crop_scale": 0.08, "flip": True}
  config.relabel.update(students | {"eta": eta})
  config.eval.update({"epochs": 300, "full_epochs": 200, "full_lr": 0.1, "full_batch_size": 128})
  config.eval.models = ("resnet18_bn",)
