"""DMD2: Improved Distribution Matching Distillation for Fast Image Synthesis (arXiv 2405.14867).

python -m jdistill.run --config=experiments/dmd2.py           25 Gaussians in the plane; half an hour
python -m jdistill.run --config=experiments/dmd2.py:digits    scikit-learn's digits, by class

One step of a student beside 1, 4 and 40 steps of its teacher. `one_to_one` lets the two time scales be one, which the
paper finds unstable (FID 3.48 against 2.61 on ImageNet-64, the former unverified); `gan` adds the adversarial part
(1.51), whose weight is the paper's 3e-3 brought from 12,288 numbers per example to the size of these.
"""

from . import common_diffusion as common


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "grid") -> common.ConfigDict:
  """The experiment; `preset` is `grid`, `digits` or `tiny`."""
  size = 64 if preset == "digits" else 2
  controls = {
    "one_to_one": {"method/ratio": 1},
    "gan": {"method/gan_weight": round(3e-3 * 12288 / size, 4)},
  }
  return common.experiment(preset, {"name": "dmd2", "ratio": 5}, controls)
