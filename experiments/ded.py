"""DED: A Data-Efficient Distillation Framework for Reasoning (arXiv 2508.09883).

python -m jdistill.run --config=experiments/ded.py                 five teachers of additions
python -m jdistill.run --config=experiments/ded.py --config.task.easy=0.2

Programs stand in the place of teachers. They answer the same additions, several times each and in different styles;
half of the questions need no carry, all held-out ones do. Only right answers are kept. The smoke test trains
a small student on a few responses of every teacher and takes the teacher of the best one; the student's roll-outs tell
which questions are too easy; of the responses to the others the two farthest apart are kept. `shuffled` is always right
itself and hard to learn from, so `own_score` takes the wrong teacher. The other arms drop one step each, and all have
as many traces and updates; `all_traces` sees all of them in as many updates.

Expect the choice of the teacher to matter most, the filter less, and diversity little. The paper's student is able
before it is distilled, and its roll-outs are that student's; here they are those of the smoke test's.
"""

from . import common_language as common

TEACHERS = ("steps", "carry_first", "verbose", "shuffled", "distracting")
KEPT, BATCH, EPOCHS, WARMUP = 1024, 64, 40, 2.0
CONTROLS = {
  "random": {"select/name": "random"},
  "own_score": {"select/teacher": "own"},
  "any_teacher": {"select/teacher": "any"},
  "no_filter": {"select/max_pass": 1.0},
  "no_diversity": {"select/keep": "random"},
  "longest": {"select/keep": "longest"},
}


def presets() -> list[str]:
  """The names after the colon."""
  return ["additions", "tiny"]


def get_config(preset: str = "additions") -> common.ConfigDict:
  """The experiment; `preset` is `additions` or `tiny`."""
  common.check_preset(preset, presets())
  config = common.students("ded", {"name": "sft"})
  config.subject, config.reference, config.seeds = "ded", "random", 5
  config.dataset, config.train_size, config.validation_size, config.test_size = "addition", 2800, 100, 400
  config.task = common.task("candidates", digits=2, questions=8100, samples=4, easy=0.5)
  config.student = common.network("decoder", width=48, depth=2, heads=4, context=96)
  config.proxy = common.network("decoder", width=48, depth=2, heads=4, context=96)
  adam = {"optimizer": "adamw", "batch_size": BATCH, "clip": 1.0, "weight_decay": 0.01}
  config.train = common.schedule(epochs=EPOCHS, lr=0.003, warmup_epochs=WARMUP, **adam)
  config.proxy_train = common.schedule(epochs=EPOCHS, lr=0.003, warmup_epochs=WARMUP, **adam)
  config.data_policy = common.policy("selected")
  config.select.name, config.select.per_class, config.select.runs = "ded", KEPT, 2
  config.select.reference, config.select.rollouts = 0.25, 4
  rows = 2100 * 4 * len(TEACHERS)  # about: some responses are wrong
  epochs = max(1, round(EPOCHS * KEPT / rows))
  everything = {"select/name": "random", "select/per_class": None, "select/fraction": 1.0}
  everything |= {"train/epochs": epochs, "train/warmup_epochs": WARMUP * epochs / EPOCHS}
  controls = CONTROLS | {"all_traces": everything}
  common.arms(config, controls)
  return _tiny(config) if preset == "tiny" else config


def _tiny(config):
  """Cuts the experiment down to seconds. The figures mean nothing."""
  own = config.task
  common.tiny(config)
  config.dataset, config.train_size, config.validation_size, config.test_size = "addition", 40, 8, 8
  config.task = own
  config.task.digits, config.task.questions, config.task.samples = 1, 100, 2
  config.student = common.network("decoder", width=8, depth=1, heads=1, context=40)
  config.proxy = common.network("decoder", width=8, depth=1, heads=1, context=40)
  config.proxy_train = common.schedule(epochs=2, batch_size=16)
  config.train.update({"epochs": 2, "batch_size": 16})
  config.select.per_class, config.select.max_pass = 16, 1.0
  return config
