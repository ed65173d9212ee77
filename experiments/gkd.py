"""GKD: On-Policy Distillation of Language Models (arXiv 2306.13649).

python -m jdistill.run --config=experiments/gkd.py                               Python's reference; minutes
python -m jdistill.run --config=experiments/gkd.py --config.dataset=FILE.jsonl --config.method.prompt=0   records

All arms start from the same students, trained for some epochs by `sft`. `data` is the same divergence on the text of
the data alone, `on_policy` on the student's alone. The score is the loss on held-out text of the data: that of the
student's own text, which on-policy training is about, is not in it.
"""

from . import common_language as common


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "text") -> common.ConfigDict:
  """The experiment; `preset` is `text` or `tiny`."""
  own = {"name": "gkd", "student_share": 0.5, "beta": 0.5, "prompt": 16, "max_new": 64}
  arms = {"data": {"method/student_share": 0.0}, "on_policy": {"method/student_share": 1.0}, "sft": common.SFT}
  config = common.experiment(preset, own, arms)
  config.start_method, config.targets.source = common.method("sft"), "online"
  config.start_train.update(config.train.to_dict())
  if preset == "tiny":
    config.method.prompt, config.method.max_new = 4, 8
  else:
    config.start_train.epochs, config.train.epochs, config.train.lr = 10, 5, 0.001
  return config
