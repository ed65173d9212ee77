"""SRe2L: Squeeze, Recover and Relabel (arXiv 2306.13092, NeurIPS 2023).

  python -m jdistill.run --config=experiments/sre2l.py                    scikit-learn digits, five images per class
  python -m jdistill.run --config=experiments/sre2l.py:cifar10_small --config.data_dir=DIR     a part of CIFAR-10
  python -m jdistill.run --config=experiments/sre2l.py:tiny_imagenet      the published values, for accelerators

A teacher with batch norm is trained; images are recovered by its batch-norm statistics; its labels of every augmented
batch of a training run are stored (FKD) and replayed by students. The table gives the bytes of these labels, the same
images with hard labels, and random real images with both. Published top-1 accuracies at IPC 50 (%): Tiny-ImageNet 42.5,
ImageNet-1K 46.8 with ResNet-18 and 60.8 with the largest student.
"""

from . import common


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "cifar10_small", "tiny_imagenet", "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `cifar10_small`, `tiny_imagenet` or `tiny`."""
  common.check_preset(preset, presets())
  config = common.base("sre2l", {"name": "sre2l"})
  config.dataset, config.preprocessing, config.ipc = "digits", "standardize", 5
  config.validation_size = 100
  config.teacher = common.network("convnet_bn", width=32, depth=2)
  config.model = common.network("convnet_bn", width=32, depth=2)
  config.teacher_train = common.schedule(epochs=30, batch_size=64, lr=0.003)
  config.method.update({"iterations": 300, "r_bn": 0.1, "jitter": 1, "image_lr": 0.1})
  config.relabel.update({"epochs": 200, "batch_size": 25, "crop_scale": 0.5, "flip": False, "lr": 3e-3})
  config.eval.update({"epochs": 200, "full_epochs": 40, "full_lr": 0.01, "full_batch_size": 64})
  config.eval.models = ("convnet_bn",)
  if preset == "cifar10_small":
    _cifar10_small(config)
  if preset == "tiny_imagenet":
    _tiny_imagenet(config)
  if preset == "tiny":
    common.tiny_recovery(config)
    config.method.iterations = 2
  return config


def _cifar10_small(config: common.ConfigDict) -> None:
  """5,000 images of CIFAR-10 and ten per class, for a CPU with patience."""
  config.update({"dataset": "cifar10", "preprocessing": "channel", "ipc": 10, "validation_size": 500})
  config.train_size, config.test_size = 5000, 1000
  for section in (config.teacher, config.model):
    section.width, section.depth = 32, 3
  config.teacher_train.update({"epochs": 20, "batch_size": 128, "augment": "crop_flip"})
  config.method.update({"iterations": 300, "r_bn": 0.01, "jitter": 4, "image_lr": 0.25})
  config.relabel.update({"epochs": 100, "batch_size": 50, "flip": True})
  config.eval.update({"epochs": 100, "full_epochs": 20, "full_batch_size": 128})


def _tiny_imagenet(config: common.ConfigDict) -> None:
  """The released values; Tiny-ImageNet is not in TFDS: give its folder or file with `--config.dataset`."""
  config.update({"dataset": "tiny_imagenet", "preprocessing": "channel", "ipc": 50, "validation_size": 5000})
  config.teacher, config.model = common.network("resnet18_bn"), common.network("resnet18_bn")
  config.teacher_train = common.schedule(
    epochs=50, batch_size=256, optimizer="sgd", lr=0.2, weight_decay=1e-4, augment="crop_flip"
  )
  config.method.update({"iterations": 4000, "image_lr": 0.1, "r_bn": 1.0, "jitter": 4, "flip_images": True})
  config.method.crop_scale = 0.08
  config.relabel.update({"epochs": 300, "batch_size": 100, "lr": 1e-3, "crop_scale": 0.08, "flip": True})
  config.eval.update({"epochs": 300, "full_epochs": 50, "full_lr": 0.1, "full_batch_size": 256})
  config.eval.models = ("resnet18_bn",)
