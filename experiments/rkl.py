"""The reverse KL per token, on the text of the data: MiniLLM (arXiv 2306.08543) without its samples.

python -m jdistill.run --config=experiments/rkl.py                               Python's reference; minutes
python -m jdistill.run --config=experiments/rkl.py --config.dataset=FILE.txt     a text, or FILE.jsonl
"""

from . import common_language as common


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "text") -> common.ConfigDict:
  """The experiment; `preset` is `text` or `tiny`."""
  return common.experiment(preset, {"name": "rkl"}, {"sft": common.SFT, "fkl": common.FKL})
