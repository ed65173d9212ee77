"""Fragments that experiments with rounds of queries share: the digits, arms, the tiny variant."""

from collections.abc import Mapping
from typing import Any

from jdistill.config import sections

from .common import ConfigDict, base, method, network, opened, schedule, task


def selector(name: str, **options: Any) -> dict[str, Any]:
  """A section `selector`."""
  return {"name": name} | opened(sections.selector().shown(name), options)


def rounds(name: str, own: Mapping[str, Any], about: Mapping[str, Any], how: Mapping[str, Any]) -> ConfigDict:
  """Rounds on scikit-learn's digits with an MLP 64-64 teacher and an MLP 32 student; ten seeds.

  Args:
    name: of the experiment.
    own: the section `method`: a name and options.
    about: the section `task`: a name and options.
    how: the section `active`.
  """
  config = base(name, own)
  config.seeds, config.dataset, config.preprocessing, config.validation_size = 10, "digits", "standardize", 200
  config.task = task(**about)
  config.teacher, config.student = network("mlp", widths=(64, 64)), network("mlp", widths=(32,))
  config.teacher_method, config.teacher_train = method("ce"), schedule(batch_size=100)
  config.train = schedule(epochs=200, batch_size=64, lr=0.01)
  config.active.update(dict(how))
  return config


def arms(config: ConfigDict, controls: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
  """Adds controls, in this order after the method's own arm; keys are paths such as `"selector/name"`."""
  config.arms = {label: dict(values) for label, values in controls.items()}
  config.order = (config.subject or config.method.name, *controls)
  return config


def asks(name: str, **options: Any) -> dict[str, Any]:
  """An arm: a selector and its options."""
  return {"selector/name": name} | {f"selector/{key}": value for key, value in options.items()}


def tiny(config: ConfigDict) -> ConfigDict:
  """Cuts rounds down to seconds: few digits, two rounds of ten queries, the first control. The figures mean nothing."""
  config.update({"train_size": 200, "test_size": 60, "validation_size": 40, "seeds": 2})
  config.train.epochs, config.train.batch_size, config.active.rounds, config.active.queries = 3, 16, 2, 10
  config.teacher_train.epochs, config.teacher_train.batch_size = 20, 50
  config.task.start, config.task.teacher_size = 10, 60
  if config.active.unlabelled:
    config.active.unlabelled = 16
  kept = config.order[1:2]
  if config.reference not in kept:
    config.reference = None
  return arms(config, {label: config.arms[label].to_dict() for label in kept})
