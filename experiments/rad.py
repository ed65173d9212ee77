"""RAD: Robust Active Distillation (arXiv 2210.01213).

python -m jdistill.run --config=experiments/rad.py                                              digits, 30 labels
"""

from . import common, common_active
from .common_active import asks

_HOW = {"rounds": 3, "queries": 50, "answers": "teacher", "steps": 1}
_TASK = {"name": "active", "start": 30, "teacher_size": 100, "teacher_noise": 0.2}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits` or `tiny`."""
  common.check_preset(preset, presets())
  config = common_active.rounds("rad", {"name": "rad"}, _TASK, _HOW)
  config.selector, config.reference, config.seeds = common_active.selector("rad"), "margin", 20
  controls = {
    "margin": asks("margin"),
    "random": asks("random"),
    "entropy": asks("entropy"),
    "k_center": asks("k_center"),
    "badge": asks("badge"),
    "rad, no mistakes": asks("rad", mistakes=0),
    "oracle": asks("oracle"),
  }
  common_active.arms(config, controls)
  return common_active.tiny(config) if preset == "tiny" else config
