"""SSLD: Beyond Self-Supervision, A Simple Yet Effective Network Distillation Alternative (arXiv 2103.05959).

python -m jdistill.run --config=experiments/ssld.py                 5,000 MNIST images (extra `mnist`) and drawn junk
python -m jdistill.run --config=experiments/ssld.py:mostly_junk     nine tenths of the pool are junk
python -m jdistill.run --config=experiments/ssld.py:digits          scikit-learn's digits and drawn junk

Students have 300 labelled images, of which SSLD does not read the labels, and a pool: half of it are images of the
classes, half are junk. Stage 1 (`start_method`) learns from labelled images and from what the teacher mined of the
pool; stage 2 (`method`) goes on with the labelled ones at a hundredth of the rate. All arms take the same number of
updates.
"""

import math

from . import common_knowledge as common

EPOCHS, FINE_TUNING, BATCH = 60, 10, 100
# by preset: labels of teachers and of students, other images and junk in the pool, images mined per class
SIZES = {
  "mnist5k": (1500, 300, 2000, 2000, (100, 200)),
  "mostly_junk": (1500, 300, 500, 4500, (25, 50)),
  "digits": (400, 100, 697, 697, (40, 70)),
}


def presets() -> list[str]:
  """The names after the colon."""
  return [*SIZES, "tiny"]


def mine(kind: str) -> dict:
  """An arm whose stage 1 has other images."""
  return {"start_data_policy/mine": kind}


def divergence(name: str) -> dict:
  """An arm with another divergence, in both stages."""
  return {"start_method/divergence": name, "method/divergence": name}


def labelled_alone(updates: int, labelled: int) -> dict:
  """Plain training on the labelled images with so many updates; they make `labelled / batch` of them per epoch."""
  epochs = math.ceil(updates / max(labelled // BATCH, 1))
  alone = {"start_method/name": "none", "task/pool": "none", "data_policy/name": "shuffle"}
  return alone | {"train/epochs": epochs, "train/lr": 0.01}


def get_config(preset: str = "mnist5k") -> common.ConfigDict:
  """The experiment; `preset` is `mnist5k`, `mostly_junk`, `digits` or `tiny`."""
  common.check_preset(preset, presets())
  teacher_size, labelled, others, junk, per_class = SIZES["digits" if preset == "tiny" else preset]
  task = {
    "name": "unlabelled",
    "teacher_size": teacher_size,
    "labelled_size": labelled,
    "pool_size": others,
    "junk_size": junk,
  }
  config = common.students("ssld", {"name": "ssld"}, about=task)
  if preset in ("mnist5k", "mostly_junk"):
    config.dataset, config.validation_size, config.task.side = "mnist5k", 500, 14
  steps = math.ceil((labelled + others + junk) / BATCH)
  alone = labelled_alone((EPOCHS + FINE_TUNING) * steps, labelled)
  config.teacher_train = common.schedule(epochs=100, batch_size=BATCH)
  config.start_method, config.data_policy = common.method("ssld"), common.policy("ssld", mine="none")
  config.start_data_policy = common.policy("ssld", per_class=per_class[0])
  config.start_train = common.schedule(epochs=EPOCHS, batch_size=BATCH, lr=0.01)
  config.train = common.schedule(epochs=FINE_TUNING, batch_size=BATCH, lr=1e-4)
  common.arms(
    config,
    {
      "random": mine("random"),
      "none": mine("none"),
      "all": mine("all"),
      "jeffreys": divergence("jeffreys"),
      "soft_ce": divergence("soft_ce"),
      "kl": divergence("kl"),
      "kd": common.KD | alone,
      "ce": common.CE | alone,
    },
  )
  mined = {"start_data_policy/per_class": per_class}
  common.tune(config, dict.fromkeys(("ssld", "random", "jeffreys", "soft_ce", "kl"), mined) | {"kd": common.KD_GRID})
  config.reference = "random"
  if preset == "tiny":
    common.tiny(config)
    config.task.teacher_size, config.task.labelled_size = 100, 40
    config.task.pool_size = config.task.junk_size = 50
    config.start_data_policy.per_class = 3
    config.tune = {}  # two phases per trial take their time to compile
  return config
