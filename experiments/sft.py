"""SFT: a language model on a text, or on responses to prompts, without a teacher (arXiv 2203.02155).

python -m jdistill.run --config=experiments/sft.py                               Python's reference; minutes
python -m jdistill.run --config=experiments/sft.py --config.dataset=FILE.jsonl   records with `prompt` and `response`

Beside it the same student under a teacher's forward KL, which needs the teacher trained first.
"""

from . import common_language as common


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "text") -> common.ConfigDict:
  """The experiment; `preset` is `text` or `tiny`."""
  return common.experiment(preset, {"name": "sft"}, {"fkl": common.FKL})
