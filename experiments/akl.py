"""Adaptive KL: Rethinking Kullback-Leibler Divergence in Knowledge Distillation for LLMs (arXiv 2404.02657).

python -m jdistill.run --config=experiments/akl.py                               Python's reference; minutes
python -m jdistill.run --config=experiments/akl.py --config.dataset=FILE.txt     a text, or FILE.jsonl
"""

from . import common_language as common


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "text") -> common.ConfigDict:
  """The experiment; `preset` is `text` or `tiny`."""
  return common.experiment(preset, {"name": "akl", "head_mass": 0.5}, {"sft": common.SFT, "fkl": common.FKL})
