"""Generalised JSD of GKD (arXiv 2306.13649), on the text of the data.

python -m jdistill.run --config=experiments/jsd.py                               Python's reference; minutes
python -m jdistill.run --config=experiments/jsd.py --config.dataset=FILE.txt     a text, or FILE.jsonl
"""

from . import common_language as common


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "text") -> common.ConfigDict:
  """The experiment; `preset` is `text` or `tiny`."""
  return common.experiment(
    preset,
    {"name": "jsd", "beta": 0.5},
    {"sft": common.SFT, "fkl": common.FKL, "low": {"method/beta": 0.1}, "high": {"method/beta": 0.9}},
  )
