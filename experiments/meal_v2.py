"""MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks (arXiv 2009.08453).

python -m jdistill.run --config=experiments/meal_v2.py                                   digits, three teachers
python -m jdistill.run --config=experiments/meal_v2.py:committee          teachers of 200 images, 60 untrained students
python -m jdistill.run --config=experiments/meal_v2.py:cifar100_resnet56_resnet20        a pair, for accelerators

Teachers and students have the same images, randomly moved, scaled and turned. Students are first trained on labels
(`start_train`). Then they learn from the average probabilities of three teachers of different width and seed, without
labels and without weight decay; `ce` goes on with labels on the same schedule. `committee` asks one question alone,
where teachers differ more: they have 200 labelled images, and untrained students see all images without their labels.
"""

from . import common_knowledge as common

COMMITTEE = {"wide": {"teacher/widths": (128,)}, "deep": {"teacher/widths": (96, 48)}}
SINGLE = {"teachers/also": ()}
SCRATCH = {"start_method/name": "none"}


def presets() -> list[str]:
  """The names after the colon."""
  return [*common.presets(), "committee"]


def controls() -> dict[str, dict]:
  """The arms beside MEAL V2 itself, which is the committee, the discriminator as released, and a trained start."""
  return {
    "single": SINGLE,
    "single_wide": SINGLE | COMMITTEE["wide"],
    "single_deep": SINGLE | COMMITTEE["deep"],
    "off": {"method/mode": "off"},
    "adversarial": {"method/mode": "adversarial"},
    "hard_half": {"method/hard_weight": 0.5},
    "decay": {"train/weight_decay": 5e-4},
    "scratch": SCRATCH,
    "single_scratch": SINGLE | SCRATCH,
    "ce": common.CE | SINGLE,
    "kd": common.KD | SINGLE,
  }


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `committee`, `tiny` or a CIFAR-100 pair (three teachers of one network)."""
  arms = controls()
  if preset.startswith("cifar100"):
    arms = {label: arm for label, arm in arms.items() if label not in ("single_wide", "single_deep")}
    arms = {label: arm | ({"teachers/count": 1} if "teachers/also" in arm else {}) for label, arm in arms.items()}
  grids = {"kd": common.KD_GRID}
  if preset == "committee":
    arms, grids = {label: arms[label] for label in ("single", "single_wide", "single_deep", "off")}, {}
  base = "digits" if preset == "committee" else preset
  config = common.experiment(base, "meal_v2", {"name": "meal_v2"}, controls=arms, grids=grids)
  config.reference = "single"
  config.start_method = common.method("ce")
  if preset.startswith("cifar100"):
    config.teachers.count = 3
    config.train.lr, config.train.weight_decay = 0.01, 0.0
    config.train.epochs, config.train.milestones = 180, (100,)
    return config
  config.committee = {label: dict(own) for label, own in COMMITTEE.items()}
  config.teachers.also = tuple(COMMITTEE)
  augment = "none" if preset == "tiny" else "crop_scale_rotate"  # which takes long to compile
  views = {"epochs": 100, "batch_size": 100, "augment": augment}
  config.teacher_train, config.start_train = common.schedule(**views), common.schedule(**views)
  config.train = common.schedule(optimizer="sgd", lr=0.01, schedule="step", milestones=(60,), **views)
  config.task = common.task("supervised")
  config.seeds = 20
  if preset == "committee":
    config.seed, config.seeds = 2, 60
    config.task = common.task("supervised", teacher_size=200)
    config.start_method, config.train = {"name": "none"}, common.schedule(**views)
  return common.tiny(config) if preset == "tiny" else config
