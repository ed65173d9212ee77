"""Fragments that experiments with language models share: a text and a pair of decoders, arms, the tiny variant."""

from collections.abc import Mapping
from typing import Any

from . import common_knowledge
from .common import ConfigDict, base, check_preset, method, network, schedule, task
from .common import policy as policy
from .common_knowledge import arms as arms

SFT = {"method/name": "sft"}
FKL = {"method/name": "fkl"}
UPDATES = 240  # of the default: 15 epochs of 16 batches
PRESETS = ("text", "tiny")


def students(name: str, own: Mapping[str, Any]) -> ConfigDict:
  """Bytes of Python's reference: a decoder of 357,000 parameters teaches one of 68,000 on 512 rows of 128; 3 seeds.

  Args:
    name: of the experiment.
    own: the section `method`: a name and options.
  """
  config = base(name, own)
  config.dataset, config.preprocessing = "python", "none"
  config.train_size, config.validation_size, config.test_size = 512, 96, 96
  config.seeds, config.tune_seeds = 3, 1
  config.task = task("language", context=128)
  config.teacher = network("decoder", width=96, depth=3, heads=4, context=128)
  config.student = network("decoder", width=48, depth=2, heads=4, context=128)
  config.teacher_method = method("sft")
  adam = {"optimizer": "adamw", "batch_size": 32, "clip": 1.0, "weight_decay": 0.01}
  config.targets.source = "cached"  # 68 MB of logits; the teacher is asked once about every row
  config.teacher_train = schedule(epochs=15, lr=0.003, warmup_epochs=1.0, **adam)
  config.train = schedule(epochs=15, lr=0.005, warmup_epochs=1.0, **adam)
  return config


def tiny(config: ConfigDict) -> ConfigDict:
  """Cuts language models down to seconds, with the first control. The figures mean nothing."""
  common_knowledge.tiny(config)
  config.dataset, config.train_size, config.test_size, config.validation_size = "descriptions", 60, 12, 12
  config.task = task("language", context=24)
  config.teacher = network("decoder", width=16, depth=1, heads=2, context=24)
  config.student = network("decoder", width=8, depth=1, heads=2, context=24)
  for section in (config.train, config.teacher_train):
    section.epochs, section.batch_size = 2, 20
  return config


def experiment(preset: str, own: Mapping[str, Any], controls: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
  """An experiment with the presets `text` and `tiny`; `sft` is the reference.

  Args:
    preset: after the colon.
    own: the section `method`: a name, which is that of the experiment, and options.
    controls: the other arms.

  Raises:
    ValueError: an unknown preset.
  """
  check_preset(preset, PRESETS)
  config = common_knowledge.arms(students(own["name"], own), controls)
  config.reference = "sft" if "sft" in config.order else None
  return tiny(config) if preset == "tiny" else config
