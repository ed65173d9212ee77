"""Fragments that experiments with orders of batches share: a text, a small decoder, arms, the tiny variant."""

from collections.abc import Mapping
from typing import Any

from .common import ConfigDict, base, check_preset, network, task

PRESETS = ("text", "tiny")
ZEROTH = {"method/expansion": 0}
CONTROLS = {
  "zeroth": ZEROTH,
  "reference_moments": {"method/moments": "reference"},
  "secant": {"method/hessian": "secant"},
  "stored": {"method/expansion": 0, "method/stored": True},
  "mixed": {"method/expansion": 0, "method/stored": True, "method/mixtures": 8},
}


def experiment(preset: str, own: Mapping[str, Any], controls: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
  """An experiment with the presets `text` and `tiny`; the zeroth order is the reference.

  Python's reference in 32 stretches of 8 rows of 48 bytes, a decoder of 7,520 parameters, three seeds.

  Args:
    preset: after the colon.
    own: the section `method`: a name, which is that of the experiment, and options.
    controls: the other arms.

  Raises:
    ValueError: an unknown preset.
  """
  check_preset(preset, PRESETS)
  config = base(own["name"], own)
  config.dataset, config.preprocessing = "python", "none"
  config.train_size, config.validation_size, config.test_size = 1024, 48, 48
  config.seeds, config.reference = 3, "zeroth"
  config.task = task("language", context=48)
  config.model = network("decoder", width=16, depth=1, heads=2, context=48)
  config.arms = {label: dict(values) for label, values in controls.items()}
  config.order = (own["name"], *controls)
  return tiny(config) if preset == "tiny" else config


def tiny(config: ConfigDict) -> ConfigDict:
  """Cuts an experiment down to seconds, with the zeroth order beside the method. The figures mean nothing."""
  config.dataset, config.train_size, config.test_size, config.validation_size = "descriptions", 60, 12, 12
  config.task = task("language", context=24)
  config.model = network("decoder", width=8, depth=1, heads=1, context=24)
  config.seeds = 2
  config.orders.update({"batches": 5, "batch_size": 4, "compared": 4, "population": 4, "generations": 1, "moved": 1})
  config.arms = {"zeroth": dict(ZEROTH)}
  config.order = (config.method.name, "zeroth")
  return config
