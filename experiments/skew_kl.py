"""Skew KL of DistiLLM (arXiv 2402.03898), on the text of the data.

python -m jdistill.run --config=experiments/skew_kl.py                               Python's reference; minutes
python -m jdistill.run --config=experiments/skew_kl.py --config.dataset=FILE.txt     a text, or FILE.jsonl
"""

from . import common_language as common


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "text") -> common.ConfigDict:
  """The experiment; `preset` is `text` or `tiny`."""
  return common.experiment(preset, {"name": "skew_kl", "skew": 0.1}, {"sft": common.SFT, "fkl": common.FKL})
