"""TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge Transfer (arXiv 2501.16937).

python -m jdistill.run --config=experiments/taid.py                               Python's reference; minutes
python -m jdistill.run --config=experiments/taid.py --config.dataset=FILE.txt     a text, or FILE.jsonl
python -m jdistill.run --config=experiments/taid.py:llama2_tinyllama --config.dataset=FILE.jsonl --dry_run

The default has 240 updates, and `rate` x updates is 8 as (an estimate) in the paper's runs: with the paper's 5e-4 the
linear floor would win in every update. `linear` is that ablation. Expect no large effect on a text: the paper's gains
are in instruction tuning (MT-Bench 4.05 against 2.71 of forward KL and 2.00 of SFT for Phi-3-mini and TinyLlama,
unverified), and in pre-training its gap to plain KL is small.

The presets with names of models have the paper's schedule, its start of `t` and the sizes of its models. What the
paper takes from checkpoints begins with new parameters here, and tokens are bytes: for planning and for accelerators.
"""

from . import common_language as common

CONTROLS = {
  "sft": common.SFT,
  "fkl": common.FKL,
  "linear": {"method/adaptive": False},
}
# width, depth, heads, heads of keys and values, hidden units, of the models' public configurations
_SIZES = {
  "tinyllama": (2048, 22, 32, 4, 5632),
  "phi3_mini": (3072, 32, 32, 32, 8192),
  "llama2": (4096, 32, 32, 32, 11008),
}
_START = {"phi3_tinyllama": 0.4, "llama2_tinyllama": 0.2}


def presets() -> list[str]:
  """The names after the colon."""
  return [*common.PRESETS, *_START]


def get_config(preset: str = "text") -> common.ConfigDict:
  """The experiment; `preset` is `text`, `tiny`, or a teacher and a student of the paper."""
  common.check_preset(preset, presets())
  if preset not in _START:
    own = {"name": "taid", "t_start": 0.4, "rate": round(8 / common.UPDATES, 4)}
    return common.experiment(preset, own, CONTROLS)
  config = common.experiment("text", {"name": "taid", "t_start": _START[preset], "rate": 5e-4}, CONTROLS)
  config.dataset, config.train_size, config.validation_size, config.test_size = "ultrachat.jsonl", None, 512, 512
  config.seeds, config.task = 1, common.task("language", context=2048, too_long="drop")
  config.teacher = _model("phi3_mini" if preset.startswith("phi3") else "llama2")
  config.student = _model("tinyllama")
  adam = {"optimizer": "adamw", "epochs": 5, "batch_size": 64, "lr": 1e-4, "clip": 1.0, "weight_decay": 0.01}
  config.teacher_train, config.train = (common.schedule(precision="bfloat16", **adam) for _ in range(2))
  return config


def _model(name: str) -> dict:
  sizes = dict(zip(("width", "depth", "heads", "kv_heads", "hidden"), _SIZES[name], strict=True))
  return common.network("decoder", context=2048, tied=False, remat=True, **sizes)
