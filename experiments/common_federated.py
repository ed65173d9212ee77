"""Fragments that experiments with clients share: the digits of three clients, arms, the tiny variant."""

from collections.abc import Mapping
from typing import Any

from .common import ConfigDict, base, network, task

VIRTUAL = {"virtual_ipc": 5, "warmup_steps": 300, "batch_real": 16, "image_lr": 1.0}
# the paper's 0.01 and one pass learn next to nothing in 20 rounds on 50 images
LOCAL = {"lr": 0.1, "local_epochs": 5, "local_batch": 32}


def federation(name: str, own: Mapping[str, Any]) -> ConfigDict:
  """Three clients with scikit-learn's digits, inverted, turned by 45 degrees and noisy; 20 rounds, five seeds.

  Args:
    name: of the experiment.
    own: the section `method`: a name and options.
  """
  config = base(name, own)
  config.dataset, config.preprocessing, config.validation_size = "digits", "standardize", 200
  config.task = task("clients")
  config.model = network("convnet", width=16, depth=2, norm="instance")
  config.rounds, config.seeds = 20, 5
  return config


def arms(config: ConfigDict, controls: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
  """Adds controls, in this order after the method's own arm; keys are paths such as `"method/name"`."""
  config.arms = {label: dict(values) for label, values in controls.items()}
  config.order = (config.subject or config.method.name, *controls)
  return config


def options(name: str, **values: Any) -> dict[str, Any]:
  """An arm: a method and its options."""
  return {"method/name": name} | {f"method/{key}": value for key, value in values.items()}


def tiny(config: ConfigDict) -> ConfigDict:
  """Cuts an experiment down to seconds: few digits, a small MLP, two rounds. The figures mean nothing."""
  config.update({"train_size": 200, "test_size": 60, "validation_size": 40, "seeds": 2, "rounds": 2})
  config.model = network("mlp", widths=(16,))
  small = {"virtual_ipc": 1, "warmup_steps": 2, "batch_real": 4, "anchor_ipc": 1, "anchor_steps": 2}
  small |= {"refresh_steps": 1, "refresh_every": 1}
  for key in set(small) & set(config.method):
    config.method[key] = small[key]
  kept = config.order[1:3]
  for label in kept:
    own = config.arms[label]
    for key in small:
      if f"method/{key}" in own:
        own[f"method/{key}"] = small[key]
  return arms(config, {label: config.arms[label].to_dict() for label in kept})
