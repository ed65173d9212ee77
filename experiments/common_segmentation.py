"""Fragments that experiments in segmentation share: drawn shapes, a segmentation set from a file, the tiny variant."""

from collections.abc import Mapping
from typing import Any

from . import common_knowledge as common
from .common import ConfigDict

CE = {"method/name": "ce"}
KD = {"method/name": "kd", "method/temperature": 4.0, "method/ce_weight": 1.0}
PLAIN = {"teacher_method/name": "ce"}
LARGE = {"teacher/width": 16}


def presets() -> list[str]:
  """The names after the colon."""
  return ["shapes", "camvid", "tiny"]


def experiment(
  preset: str,
  method: Mapping[str, Any],
  *,
  teacher_method: Mapping[str, Any],
  controls: Mapping[str, Mapping[str, Any]],
  grids: Mapping[str, Mapping[str, tuple]],
  reference: str,
) -> ConfigDict:
  """An experiment with a small encoder-decoder as teacher and as student, both of width 8.

  Args:
    preset: `shapes` (drawn, 32x32), `camvid` (a `.npz` file of 96x96 images with `--config.dataset`), or `tiny`.
    method, teacher_method: sections of those names.
    controls: the other arms.
    grids: what is searched on held-out examples.
    reference: the arm that others are compared with.

  Raises:
    ValueError: an unknown preset.
  """
  common.check_preset(preset, presets())
  config = common.students(method["name"], method, about={"name": "segmentation"})
  config.dataset, config.preprocessing, config.validation_size, config.seeds = "shapes", "channel", 100, 6
  for section in ("teacher", "student"):
    config[section] = common.network("segnet", width=8, levels=2)
  config.teacher_method = common.method(**teacher_method)
  config.teacher_train = common.schedule(epochs=50, batch_size=8, lr=0.01)
  config.train, config.start_train = (common.schedule(epochs=40, batch_size=8, lr=0.01) for _ in range(2))
  config.tune_seeds = 1
  common.tune(common.arms(config, controls), grids)
  config.reference = reference
  if preset == "camvid":
    config.dataset, config.task.ignore = "camvid.npz", 11
  if preset == "tiny":
    tiny(config)
  return config


def tiny(config: ConfigDict) -> None:
  """A few small pictures, two epochs, the method and cross entropy, and no search. The figures mean nothing."""
  config.order = (config.method.name, "ce")
  common.tiny(config)
  config.train_size, config.test_size, config.validation_size, config.seeds = 24, 8, 8, 1
  for section in (config.teacher_train, config.train, config.start_train):
    section.epochs, section.batch_size = 2, 8
  for section in (config.teacher, config.student):
    section.width, section.levels = 2, 1
