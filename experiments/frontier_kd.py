"""Knowledge Distillation Using Frontier Open-source LLMs, with synthetic and reasoning data (arXiv 2410.18588).

python -m jdistill.run --config=experiments/frontier_kd.py                       additions of 3 digits
python -m jdistill.run --config=experiments/frontier_kd.py --config.task.digits=2

The teacher is a decoder that answers `123+456=` at once and `?123+456=` with its steps. It writes to the elaborate
prompts of problems that are new to it; students see the simple prompt and what it wrote. The other arms have the same
problems: `answer_only` learns the end of the same responses, `direct` what the teacher says to the simple prompt,
`labels` the true answers. Each is asked with both prompts, and so is the teacher: its accuracy with the elaborate
prompt is the ceiling, with the simple one its advertised score. `tokens` is what a response costs.

Expect the student of rationales far ahead of all others with the simple prompt, and above the teacher with that prompt.
Unfinished and empty responses of the teacher are dropped; `written/unfinished` and `written/empty` tell how many.
"""

from . import common_language as common

CONTROLS = {
  "answer_only": {"method/target": "answer"},
  "direct": {"method/prompts": "direct"},
  "labels": {"method/name": "sft"},
}


def presets() -> list[str]:
  """The names after the colon."""
  return ["additions", "tiny"]


def get_config(preset: str = "additions") -> common.ConfigDict:
  """The experiment; `preset` is `additions` or `tiny`."""
  common.check_preset(preset, presets())
  config = common.students("frontier_kd", {"name": "frontier_kd", "max_new": 36})
  config.reference, config.targets.source = "labels", "online"
  config.dataset, config.train_size, config.validation_size, config.test_size = "addition", 2000, 100, 300
  config.task = common.task("prompt_pairs", digits=3, questions=5000, teacher_size=2000, context=48)
  config.teacher = common.network("decoder", width=64, depth=3, heads=4, context=48)
  config.student = common.network("decoder", width=48, depth=2, heads=4, context=48)
  config.teacher_train.update({"epochs": 30, "batch_size": 64})
  config.train.update({"epochs": 30, "batch_size": 64, "lr": 0.003})
  common.arms(config, CONTROLS)
  return _tiny(config) if preset == "tiny" else config


def _tiny(config):
  """Cuts the experiment down to seconds. The figures mean nothing."""
  common.tiny(config)
  config.dataset, config.train_size, config.validation_size, config.test_size = "addition", 30, 4, 4
  config.task = common.task("prompt_pairs", digits=1, questions=90, teacher_size=40, context=20)
  config.teacher = common.network("decoder", width=8, depth=1, heads=1, context=20)
  config.student = common.network("decoder", width=8, depth=1, heads=1, context=20)
  config.method.max_new = 14
  config.teacher_train.update({"epochs": 40, "batch_size": 20, "lr": 0.01})
  config.train.batch_size = 15
  return config
