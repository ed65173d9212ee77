"""INFER: images added to the real ones of all classes (arXiv 2408.06927, ICLR 2025).

  python -m jdistill.run --config=experiments/infer.py                    scikit-learn digits at six images per class
  python -m jdistill.run --config=experiments/infer.py:controls           the same beside its controls, five repetitions
  python -m jdistill.run --config=experiments/infer.py:cifar10_small --config.data_dir=DIR     a part of CIFAR-10
  python -m jdistill.run --config=experiments/infer.py:cifar100_ipc10     the published values, for accelerators
  python -m jdistill.run --config=experiments/infer.py:imagenet --config.dataset=FOLDER        ImageNet's values

`ipc` is what the set may cost: images per class of which some pay for the compensators, each shared by all classes. On
the digits, six images of each class and two teachers make five real images per class and ten compensators, 60 images
that are stored, of which 150 are made to train on. The table compares with six real images per class under the same
labels. Controls with as many images to train on, which `controls` compares:

  --config.method.compensator=noise      noise of the norm of each learned compensator, at the same bytes
  --config.method.compensator=none       the real images alone, each of them three times

Published for ImageNet-1K at the cost of 50 images per class, with ResNet-18: 34.5 points above SRe2L at the same
compression of images and labels (abstract of v3). Its teachers on CIFAR are ResNet-18, MobileNetV2, EfficientNet-B0 and
ShuffleNet with two groups, on ImageNet the first three; here ShuffleNetV2 stands in the place of EfficientNet-B0, which
is not among the networks for small images. The release leaves the second batch norm of EfficientNet-B0 out of the loss:
`method.norms_left_out`.

Labels are static: the mean logits of the teachers on every image as it is, interpolated under mixup. Dynamic ones, of
every augmented batch: `--config.relabel.store=online`, with a fifth of the epochs in the paper.
"""

from . import common

_PUBLISHED = ("cifar10_ipc10", "cifar10_ipc50", "cifar100_ipc10", "cifar100_ipc50")
_FOUR = {
  "mobilenet": {"teacher/name": "mobilenetv2"},
  "shufflenet": {"teacher/name": "shufflenetv1", "teacher/widths": (200, 400, 800), "teacher/groups": 2},
  "shufflenetv2": {"teacher/name": "shufflenetv2"},
}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "controls", "cifar10_small", *_PUBLISHED, "imagenet", "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `controls`, `cifar10_small`, `imagenet`, `tiny` or a published row."""
  common.check_preset(preset, presets())
  config = common.base("infer", {"name": "infer"})
  config.dataset, config.preprocessing, config.ipc = "digits", "channel", 6
  config.validation_size = 100
  config.teacher = common.network("convnet_bn", width=16, depth=2)
  config.model = common.network("convnet_bn", width=16, depth=2)
  config.teacher_train = common.schedule(epochs=30, batch_size=64, lr=0.003)
  _second(config, {"teacher/depth": 3, "teacher/width": 16})
  config.method.update({"iterations": 200, "r_bn": 1.0, "jitter": 1, "compensator_lr": 0.1})
  config.relabel.update({"epochs": 200, "batch_size": 25, "lr": 3e-3, "crop_scale": None, "flip": False})
  config.relabel.update({"store": "static", "temperature": 30.0, "mix": "mixup"})
  config.eval.update({"epochs": 200, "full_epochs": 40, "full_lr": 0.01, "full_batch_size": 64})
  config.eval.models = ("convnet_bn",)
  if preset == "controls":
    _controls(config)
  if preset == "cifar10_small":
    _cifar10_small(config)
  if preset in _PUBLISHED:
    _cifar(config, preset)
  if preset == "imagenet":
    _imagenet(config)
  if preset == "tiny":
    _tiny(config)
  return config


def _second(config: common.ConfigDict, paths: dict) -> None:
  """Two teachers: the run's own, and one that differs in these keys."""
  config.committee = {"second": paths}
  config.teachers.also = ("second",)


def _controls(config: common.ConfigDict) -> None:
  """What the compensators are worth: beside noise, nothing, and the image that they cost, with as many updates each."""
  alone = {"method/compensator": "none", "method/iterations": 1}
  config.relabel.epochs = 120  # 6 batches each
  config.eval.update({"sets": ("distilled",), "seeds": 2})
  config.sweep = {
    "groups": {"digits": {}},
    "series": {
      "INFER": {},
      "noise": {"method/compensator": "noise"},
      "no compensator": alone,
      # the cost of 8 pays for 6 images and compensators of zeros, which nobody would store; 8 batches
      "six real images": alone | {"ipc": 8, "relabel/epochs": 90},
    },
    "order": ("INFER", "noise", "no compensator", "six real images"),
    "seeds": (0, 1, 2, 3, 4),
  }


def _tiny(config: common.ConfigDict) -> None:
  common.tiny_recovery(config)
  config.ipc, config.committee.second, config.method.iterations = 2, {"teacher/width": 6}, 2


def _cifar10_small(config: common.ConfigDict) -> None:
  """5,000 images of CIFAR-10 and ten per class, for a CPU with patience."""
  config.update({"dataset": "cifar10", "ipc": 10, "validation_size": 500, "train_size": 5000, "test_size": 1000})
  for section in (config.teacher, config.model):
    section.width, section.depth = 32, 3
  _second(config, {"teacher/depth": 2, "teacher/width": 64})
  config.teacher_train.update({"epochs": 20, "batch_size": 128, "augment": "crop_flip"})
  config.method.update({"iterations": 200, "jitter": 4, "compensator_lr": 0.25})
  config.relabel.update({"epochs": 100, "batch_size": 50, "augment": "crop_flip"})
  config.eval.update({"epochs": 100, "full_epochs": 20, "full_batch_size": 128})


def _published(config: common.ConfigDict, epochs: int) -> None:
  """What all published rows share: ResNet-18 for the first teacher and for students."""
  config.validation_size = 5000
  config.teacher, config.model = common.network("resnet18_bn"), common.network("resnet18_bn")
  config.teacher_train = common.schedule(
    epochs=epochs, batch_size=128, optimizer="sgd", lr=0.1, weight_decay=5e-4, augment="crop_flip"
  )
  config.eval.update({"full_epochs": epochs, "full_lr": 0.1, "full_batch_size": 128, "models": ("resnet18_bn",)})
  config.relabel.update({"batch_size": 64, "lr": 1e-3, "weight_decay": 0.01})


def _cifar(config: common.ConfigDict, preset: str) -> None:
  """A slice has one image of every class: 10 of CIFAR-10, 100 of CIFAR-100. The release's batch is 100 for both."""
  config.dataset, _, ipc = preset.rpartition("_ipc")
  config.ipc = int(ipc)
  _published(config, 200)
  config.committee, config.teachers.also = dict(_FOUR), tuple(_FOUR)
  config.method.update({"iterations": 1000, "r_bn": 1.0, "jitter": 4, "compensator_lr": 0.25})
  config.relabel.update({"epochs": 400, "augment": "crop_flip"})
  config.eval.update({"epochs": 400, "augment": "crop_flip"})


def _imagenet(config: common.ConfigDict) -> None:
  """For a folder of 224-pixel images that fits into memory, such as a hundred of the classes.

  Networks have a stem for small images and teachers are trained here, where the release takes ready weights.
  """
  config.dataset, config.ipc = "imagenet", 50
  _published(config, 90)
  three = {name: paths for name, paths in _FOUR.items() if name != "shufflenet"}
  config.committee, config.teachers.also = three, tuple(three)
  own = {"iterations": 2000, "r_bn": 0.01, "jitter": 32, "crop_scale": 0.08, "flip_images": True}
  config.method.update(own | {"compensator_lr": 0.25})
  config.relabel.update({"epochs": 400, "crop_scale": 0.08, "flip": True})
  config.eval.epochs = 400
