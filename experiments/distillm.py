"""DistiLLM: Towards Streamlined Distillation for Large Language Models (arXiv 2402.03898).

python -m jdistill.run --config=experiments/distillm.py                          Python's reference
python -m jdistill.run --config=experiments/distillm.py --config.dataset=FILE.jsonl --config.method.prompt=0   records
python -m jdistill.run --config=experiments/distillm.py:gpt2 --config.dataset=FILE.jsonl --dry_run

All arms start from the same students, trained for some epochs by `sft`. `data` never writes, `on_policy` writes in
every update, `reverse` has the skew reverse KL. The claim at this scale is about cost: replay writes fewer batches than
`on_policy` (`method/generated` in `metrics`) at a loss on held-out text that is as low.

On a short text the held-out loss does not rise by 0.1 nats within the run, and the schedule would stay at the data: the
default starts at a threshold of 0.2 and takes a rise of 0.01. `gpt2` has the paper's schedule, batch and sizes
(student 0.1B, teacher 1.5B), with new parameters instead of checkpoints, and bytes for tokens.
"""

from . import common_language as common

CONTROLS = {
  "data": {"method/name": "skew_kl"},
  "reverse": {"method/divergence": "skew_reverse_kl"},
  "on_policy": {"method/start_threshold": 1.0, "method/replay": "constant", "method/capacity": 4096},
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
  own = {"name": "distillm", "start_threshold": 0.2, "loss_rise": 0.01, "capacity": 512, "prompt": 16, "max_new": 64}
  config = common.experiment(preset, own, CONTROLS)
  config.start_method, config.targets.source = common.method("sft"), "online"
  config.start_train.update(config.train.to_dict())
  if preset == "tiny":
    config.method.prompt, config.method.max_new, config.method.capacity = 4, 8, 20
  else:
    config.start_train.epochs, config.train.epochs, config.train.lr = 10, 5, 0.001
  return config


def _gpt2() -> common.ConfigDict:
  own = {"name": "distillm", "validate_every": 1000, "lm_weight": 1.0, "max_new": 256}
  config = common.experiment("text", own, CONTROLS)
  config.dataset, config.train_size, config.validation_size, config.test_size = "dolly.jsonl", None, 512, 512
  config.seeds, config.task, config.targets.source = 1, common.task("language", context=512, too_long="drop"), "online"
  config.teacher = common.network("gpt2", width=1600, depth=48, heads=25, context=512)
  config.student = common.network("gpt2", width=768, depth=12, heads=12, context=512)
  adam = {"optimizer": "adamw", "epochs": 20, "batch_size": 32, "lr": 5e-4, "clip": 1.0, "weight_decay": 0.01}
  config.teacher_train, config.train = (common.schedule(precision="bfloat16", **adam) for _ in range(2))
  return config
