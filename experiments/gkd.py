"""GKD: On-Policy Distillation of Language Models (arXiv 2306.13649).

python -m jdistill.run --config=experiments/gkd.py                               Python's reference; minutes
python -m jdistill.run --config=experiments/gkd.py:shares                        additions with a scratchpad; minutes
python -m jdistill.run --config=experiments/gkd.py --config.dataset=FILE.jsonl --config.method.prompt=0   records

All arms start from the same students, trained for some epochs by `sft`. `data` is the same divergence on the text of
the data alone, `on_policy` on the student's alone. The score is the loss on held-out text of the data: that of the
student's own text, which on-policy training is about, is not in it.

`shares` makes a curve of the share of updates on the student's own text: 0, 0.25, 0.5, 0.75 and 1, with five paired
seeds and as many updates each. Its score is the accuracy on held-out additions of two digits, where every step and the
answer have to be right: what is left to 100% are the invalid responses of a student that writes its likeliest tokens.
The paper's direction: more of the own text, fewer of these. Updates that write take longer; `seconds` has that.
"""

from . import common_knowledge
from . import common_language as common

_SHARES = (0.0, 0.25, 0.75, 1.0)  # beside the method's own arm, which has 0.5


def presets() -> list[str]:
  """The names after the colon."""
  return [*common.PRESETS, "shares"]


def get_config(preset: str = "text") -> common.ConfigDict:
  """The experiment; `preset` is `text`, `tiny` or `shares`."""
  common.check_preset(preset, presets())
  if preset == "shares":
    return _shares()
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


def _shares() -> common.ConfigDict:
  """`99+99=9+9+0=18,9+9+1=19;198` and its end have 28 tokens, of which 22 are the response."""
  config = common.students("gkd", {"name": "gkd", "student_share": 0.5, "beta": 0.5, "prompt": 0, "max_new": 22})
  common_knowledge.arms(config, {f"share_{round(100 * share)}": {"method/student_share": share} for share in _SHARES})
  config.reference, config.seeds, config.targets.source = "share_0", 5, "online"
  config.dataset, config.task = "addition:least=2,digits=2,records=3000,scratchpad=true", common.task("arithmetic")
  config.train_size, config.validation_size, config.test_size = 2000, 200, 500
  config.teacher = common.network("decoder", width=96, depth=3, heads=4, context=28)
  config.student = common.network("decoder", width=32, depth=2, heads=4, context=28)
  config.start_method = common.method("sft")
  config.start_train.update(config.train.to_dict())
  for section, epochs, lr in (("teacher_train", 40, 0.003), ("start_train", 10, 0.003), ("train", 10, 0.001)):
    config[section].update(epochs=epochs, batch_size=64, lr=lr, weight_decay=0.0)
  return config
