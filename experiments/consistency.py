"""Consistency distillation: Consistency Models (arXiv 2303.01469).

python -m jdistill.run --config=experiments/consistency.py           25 Gaussians in the plane
python -m jdistill.run --config=experiments/consistency.py:digits    scikit-learn's digits, by class

`two_steps` samples with fresh noise between two predictions, `pseudo_huber` takes the distance of later work
(arXiv 2310.14189) in the place of squares; the paper's LPIPS needs a network of its own.
"""

from . import common_diffusion as common


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "grid") -> common.ConfigDict:
  """The experiment; `preset` is `grid`, `digits` or `tiny`."""
  controls = {"two_steps": {"method/sample_steps": 2}, "pseudo_huber": {"method/distance": "pseudo_huber"}}
  config = common.experiment(preset, {"name": "consistency", "grid": 18}, controls)
  config.student.prediction = "consistency"
  for label in config.arms:
    if label.startswith("teacher"):
      config.arms[label]["student/prediction"] = "edm"
  return config
