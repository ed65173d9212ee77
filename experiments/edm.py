"""EDM: Elucidating the Design Space of Diffusion-Based Generative Models (arXiv 2206.00364).

python -m jdistill.run --config=experiments/edm.py           25 Gaussians in the plane
python -m jdistill.run --config=experiments/edm.py:digits    scikit-learn's digits, by class

A denoiser, the teacher of what is distilled, with EDM's scalings, weights, noise levels and Heun sampler: what a number
of steps is worth. The arms are copies of one teacher, so that they differ by the number of steps alone; `student` is a
denoiser of its own.
"""

from . import common_diffusion as common


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "grid") -> common.ConfigDict:
  """The experiment; `preset` is `grid`, `digits` or `tiny`."""
  controls = {"teacher_16_ddim": common.teacher_in(16, "ddim"), "teacher_32_ddim": common.teacher_in(32, "ddim")}
  return common.experiment(preset, {"name": "edm"}, controls)
