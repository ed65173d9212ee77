"""Total variation per token: f-Divergence Minimization for Sequence-Level KD (arXiv 2307.15190).

python -m jdistill.run --config=experiments/tvd.py                               Python's reference; minutes
python -m jdistill.run --config=experiments/tvd.py --config.dataset=FILE.txt     a text, or FILE.jsonl
"""

from . import common_language as common


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "text") -> common.ConfigDict:
  """The experiment; `preset` is `text` or `tiny`."""
  return common.experiment(preset, {"name": "tvd"}, {"sft": common.SFT, "fkl": common.FKL})
