"""Word-level distillation, the forward KL: Sequence-Level Knowledge Distillation (arXiv 1606.07947).

python -m jdistill.run --config=experiments/fkl.py                               Python's reference; minutes
python -m jdistill.run --config=experiments/fkl.py --config.dataset=FILE.txt     a text, or FILE.jsonl
"""

from . import common_language as common


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "text") -> common.ConfigDict:
  """The experiment; `preset` is `text` or `tiny`."""
  return common.experiment(preset, {"name": "fkl"}, {"sft": common.SFT})
