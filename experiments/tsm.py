"""Teacher score matching, the first stage of multi-student distillation (MSD, arXiv 2410.23274).

python -m jdistill.run --config=experiments/tsm.py           25 Gaussians in the plane
python -m jdistill.run --config=experiments/tsm.py:digits    scikit-learn's digits, by class

A small denoiser that learns the predictions of a larger one, beside the same network that learns from the data (`edm`),
with samples of 64 steps each. Its use is as a start of small one-step students: `experiments/msd.py`.
"""

from . import common_diffusion as common
from .common import check_preset
from .common_knowledge import arms


def presets() -> list[str]:
  """The names after the colon."""
  return list(common.PRESETS)


def get_config(preset: str = "grid") -> common.ConfigDict:
  """The experiment; `preset` is `grid`, `digits` or `tiny`."""
  check_preset(preset, presets())
  config = common.students("tsm", {"name": "tsm"}, preset)
  widths = config.student.widths
  config.student.widths = (32, 32, 32)
  teachers = {"teacher_64": common.teacher_in(64) | {"student/widths": tuple(widths)}}
  arms(config, {"edm": {"method/name": "edm"}, **teachers})
  config.reference = "edm"
  return common.tiny(config) if preset == "tiny" else config
