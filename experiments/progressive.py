"""Progressive Distillation for Fast Sampling of Diffusion Models (arXiv 2202.00512).

python -m jdistill.run --config=experiments/progressive.py           25 Gaussians in the plane
python -m jdistill.run --config=experiments/progressive.py:digits    scikit-learn's digits, by class

Rounds from 16 steps down to one, in as many updates as the other methods have in all (the paper spends as many on every
round, and anneals the rate in each). `uniform` weighs errors of `x_0` alike at all times; `from_four` begins with four.
"""

from . import common_diffusion as common


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "grid") -> common.ConfigDict:
  """The experiment; `preset` is `grid`, `digits` or `tiny`."""
  controls = {"uniform": {"method/time_weight": "uniform"}, "from_four": {"method/first_steps": 4}}
  times = {"schedule": "vp_cosine", "prediction": "v", "t_min": 0.01, "t_max": 0.98}
  config = common.experiment(preset, {"name": "progressive", "first_steps": 16}, controls, **times)
  config.teacher_method.time_weight = "truncated_snr"
  return config
