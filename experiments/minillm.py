"""MiniLLM: Knowledge Distillation of Large Language Models (arXiv 2306.08543).

python -m jdistill.run --config=experiments/minillm.py                           Python's reference
python -m jdistill.run --config=experiments/minillm.py --config.dataset=FILE.jsonl --config.method.prompt=0   records
python -m jdistill.run --config=experiments/minillm.py:gpt2 --config.dataset=FILE.jsonl --dry_run

All arms start from the same students, trained for some epochs by `sft`. `single` has the exact divergence of the next
token alone, `long` the policy gradient alone, `rkl` the same divergence on the text of the data. The score is the loss
on held-out text of the data, which covers all of it: reverse divergences prefer what is likely under the teacher, and
are expected behind `sft` in this score.

`gpt2` has the paper's settings and sizes (student base, teacher XL), with new parameters instead of checkpoints, and
bytes for tokens.
"""

from . import common_language as common

CONTROLS = {
  "single": {"method/long_weight": 0.0},
  "long": {"method/single_weight": 0.0},
  "rkl": {"method/name": "rkl"},
  "sft": common.SFT,
}


def presets() -> list[str]:
  """The names after the colon."""
  return [*common.PRESETS, "gpt2"]


def get_config(preset: str = "text") -> common.ConfigDict:
  """The experiment; `preset` is `text`, `tiny` or `gpt2`."""
  common.check_preset(preset, presets())
  if preset == "gpt2":
    return _gpt2()
  config = common.experiment(preset, {"name": "minillm", "prompt": 16, "max_new": 64, "rollouts": 128}, CONTROLS)
  config.start_method, config.targets.source = common.method("sft"), "online"
  config.start_train.update(config.train.to_dict())
  if preset == "tiny":
    config.method.prompt, config.method.max_new, config.method.rollouts = 4, 8, 20
  else:
    config.start_train.epochs, config.train.epochs, config.train.lr = 10, 5, 0.0005
  return config


def _gpt2() -> common.ConfigDict:
  config = common.experiment("text", {"name": "minillm", "max_new": 256}, CONTROLS)
  config.dataset, config.train_size, config.validation_size, config.test_size = "dolly.jsonl", None, 512, 512
  config.seeds, config.task, config.targets.source = 1, common.task("language", context=512, too_long="drop"), "online"
  config.teacher = common.network("gpt2", width=1600, depth=48, heads=25, context=512)
  config.student = common.network("gpt2", width=768, depth=12, heads=12, context=512)
  adam = {"optimizer": "adamw", "batch_size": 16, "clip": 1.0, "weight_decay": 0.01, "precision": "bfloat16"}
  config.teacher_train, config.train = common.schedule(epochs=3, lr=5e-5, **adam), common.schedule(lr=5e-6, **adam)
  config.train.epochs = 10
  return config
