"""Fragments that experiments with diffusion models share: data, a denoiser, and its samples as references."""

from collections.abc import Mapping
from typing import Any

from . import common_knowledge
from .common import ConfigDict, base, check_preset, method, network, schedule, task

PRESETS = ("grid", "digits", "tiny")
TEACHER_STEPS = (1, 4, 16, 64)
_POINTS = {"widths": (128, 128, 128), "features": 64, "t_min": 0.02, "t_max": 20.0}
_DIGITS = {"widths": (256, 256, 256), "features": 64, "t_min": 0.02, "t_max": 20.0}


def teacher_in(steps: int, solver: str = "heun", **changes: Any) -> dict[str, Any]:
  """An arm: the teacher itself, sampled from in so many steps."""
  own = {"method/name": "edm", "method/copied": True, "method/sample_steps": steps, "method/solver": solver}
  return own | {"train/epochs": 1, "train/warmup_epochs": 0.0, "train/ema_decay": None} | changes


def students(name: str, own: Mapping[str, Any], preset: str) -> ConfigDict:
  """A mixture of 5 x 5 Gaussians or scikit-learn's digits by class, and MLPs; a teacher of 12,000 updates; 5 seeds.

  Args:
    name: of the experiment.
    own: the section `method`: a name and options.
    preset: `grid` or `digits`; `tiny` begins as `grid`.
  """
  config = base(name, own)
  config.preprocessing, config.seeds, config.tune_seeds = "none", 5, 1
  config.reference = "teacher_64"
  adam = {"optimizer": "adam", "batch_size": 128, "clip": 10.0, "lr": 1e-3}
  config.teacher_method = method("edm")
  if preset == "digits":
    config.dataset, config.task, sizes = "digits", task("samples", draws=500), _DIGITS
    config.validation_size, epochs = 200, 1200
  else:
    config.dataset, config.train_size, sizes = "grid25", 4000, _POINTS
    config.task, epochs = task("samples", conditions="none", draws=4000), 384
  config.teacher, config.student = (network("denoising_mlp", **sizes) for _ in range(2))
  config.teacher_train = schedule(epochs=epochs, ema_decay=0.999, schedule="cosine", **adam)
  config.train = schedule(epochs=epochs // 2, schedule="constant", warmup_epochs=1.0, **(adam | {"lr": 3e-4}))
  return config


def tiny(config: ConfigDict) -> ConfigDict:
  """Cuts samplers down to seconds, with the first control. The figures mean nothing."""
  common_knowledge.tiny(config)
  config.dataset, config.task = "ring8", task("samples", conditions="none", draws=60)
  for section in (config.teacher, config.student):
    section.widths, section.features = (16,), 8
  return config


def experiment(
  preset: str, own: Mapping[str, Any], controls: Mapping[str, Mapping[str, Any]], **changes: Any
) -> ConfigDict:
  """An experiment with the presets `grid`, `digits` and `tiny`; 64 steps of the teacher are the reference.

  Args:
    preset: after the colon.
    own: the section `method`: a name, which is that of the experiment, and options.
    controls: the other arms.
    **changes: values of both networks.

  Raises:
    ValueError: an unknown preset.
  """
  check_preset(preset, PRESETS)
  teachers = {f"teacher_{steps}": teacher_in(steps) for steps in TEACHER_STEPS}
  config = common_knowledge.arms(students(own["name"], own, preset), {**controls, **teachers})
  for section in (config.teacher, config.student):
    section.update(changes)
  return tiny(config) if preset == "tiny" else config
