"""ActiveKD and PCoreSet: active learning beside a teacher of all examples (arXiv 2506.00910).

python -m jdistill.run --config=experiments/activekd.py                                         digits, 10 labels
python -m jdistill.run --config=experiments/activekd.py:cifar10 --config.dataset=FOLDER         the paper's schedule

Students have two heads on one backbone, for labels and for the teacher, and ask for ten labels in each of eight rounds.
PCoreSet asks about what is farthest in the space of their probabilities. Every selector has an arm with the teacher and
one without (`ce`). On digits the teacher saw a tenth of the images of three classes, in the place of a vision-language
model whose predictions are clustered; the score `minority` is of these classes.

The paper reports that the teacher helps every selector (+29.07 points on ImageNet, the mean over selectors), and that
PCoreSet is first in 64 of 73 settings, not in the first two rounds.

`cifar10` has the paper's schedule on small data sets: ResNet-18, AdamW at 0.001, 200 passes with 10% of warm-up,
batches of 64 with labels and 64 without, crops and flips, 15 rounds of as many queries as classes (set
`active.queries`). What differs: the data, unless you name yours; the student starts from new parameters and not from
ImageNet's; crops are those of `crop_flip`; the teacher is a ResNet-18 of the task, or one of yours (`teachers.stored`).
No vision-language model is here: `jdistill.teachers.zero_shot` makes the logits of one from given embeddings.
"""

from . import common, common_active
from .common_active import asks

_HOW = {"rounds": 8, "queries": 10, "answers": "labels", "unlabelled": 64, "steps": 1}
_TASK = {"name": "active", "start": 10, "teacher_size": 600, "minority": 3, "minority_share": 0.1}
_SELECTORS = ("random", "entropy", "k_center", "badge", "class_balanced")
_PLAIN = {"method/name": "ce"}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "cifar10", "tiny"]


def _paper(config: common.ConfigDict) -> common.ConfigDict:
  """The paper's schedule on small data sets."""
  config.dataset, config.preprocessing, config.seeds, config.validation_size = "cifar10", "channel", 5, 0
  config.task = common.task("active", start=10)
  config.teacher = config.student = common.network("resnet18_bn")
  adamw = {"optimizer": "adamw", "lr": 0.001, "weight_decay": 0.01, "augment": "crop_flip", "batch_size": 64}
  adamw |= {"schedule": "linear", "epochs": 200, "warmup_epochs": 20.0}
  config.train = common.schedule(**adamw)
  config.teacher_train = common.schedule(**adamw)
  config.active.rounds, config.active.steps = 15, None
  return config


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits`, `cifar10` or `tiny`."""
  common.check_preset(preset, presets())
  config = common_active.rounds("activekd", {"name": "activekd"}, _TASK, _HOW)
  config.subject, config.reference = "pcoreset", "random"
  config.selector = common_active.selector("pcoreset")
  controls = {name: asks(name) for name in _SELECTORS}
  controls |= {f"{name}, no teacher": asks(name) | _PLAIN for name in ("pcoreset", *_SELECTORS)}
  common_active.arms(config, controls)
  if preset == "cifar10":
    return _paper(config)
  return common_active.tiny(config) if preset == "tiny" else config
