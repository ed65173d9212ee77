"""GRPO: DeepSeekMath, Pushing the Limits of Mathematical Reasoning in Open Language Models (arXiv 2402.03300).

python -m jdistill.run --config=experiments/grpo.py                                additions of 1 and 2 digits

Students are warmed up by `sft` for a few epochs. `grpo` then learns from rewards for right answers to the problems,
whose answers it does not see; `sft` goes on learning from the answers, and `start` stops after the warm-up. Rewards
should lift the accuracy above `start`; labels say more than rewards, so that `sft` is the upper bound.
"""

from . import common_knowledge
from . import common_language as common
from .common import ConfigDict

_ARMS = {
  "start": {"method/name": "sft", "train/epochs": 1, "train/lr": 1e-9},
  "sft": common.SFT,
}


def presets() -> list[str]:
  """The names after the colon."""
  return ["addition", "tiny"]


def get_config(preset: str = "addition") -> ConfigDict:
  """The experiment; `preset` is `addition` or `tiny`."""
  common.check_preset(preset, presets())
  config = common.students("grpo", {"name": "grpo", "group_size": 8, "max_new": 4})
  common_knowledge.arms(config, _ARMS)
  config.reference, config.seeds = "start", 3
  config.dataset, config.task = "addition:digits=2,records=1500", common.task("arithmetic")
  config.train_size, config.validation_size, config.test_size = None, 200, 400
  config.targets.source, config.start_method = "online", common.method("sft")
  config.student = common.network("decoder", width=64, depth=2, heads=4, context=12)
  adam = {"optimizer": "adamw", "clip": 1.0, "weight_decay": 0.0, "schedule": "constant"}
  config.start_train = common.schedule(epochs=15, batch_size=64, lr=0.003, **adam)
  config.train = common.schedule(epochs=4, batch_size=16, lr=0.001, **adam)
  config.score_every = 40
  if preset == "tiny":
    config.dataset, config.seeds, config.order = "addition:digits=2,records=60", 2, ("grpo", "start")
    del config.arms["sft"]
    config.train_size, config.validation_size, config.test_size = 24, 8, 8
    config.student = common.network("decoder", width=8, depth=1, heads=2, context=12)
    config.method.group_size = 2
    config.start_train.epochs, config.train.epochs, config.train.batch_size, config.score_every = 1, 1, 8, 1
  return config
