"""Diff-Instruct: A Universal Approach for Transferring Knowledge From Pre-trained Diffusion Models (arXiv 2305.18455).

python -m jdistill.run --config=experiments/diff_instruct.py           25 Gaussians in the plane
python -m jdistill.run --config=experiments/diff_instruct.py:digits    scikit-learn's digits, by class

The integral of KL divergences over noise levels, one update of the follower for each of the generator, and no
normalisation per example; its weight of the levels is 1 in `x_0`, which is `alpha / sigma^2` in scores (the paper's is
unverified). `dmd2` is the same with five updates and the normalisation.
"""

from . import common_diffusion as common


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "grid") -> common.ConfigDict:
  """The experiment; `preset` is `grid`, `digits` or `tiny`."""
  controls = {"dmd2": {"method/ratio": 5, "method/normalize": "dmd"}}
  return common.experiment(preset, {"name": "diff_instruct"}, controls)
