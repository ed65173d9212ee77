"""What the experiments with losses on feature maps share: a pair of small convolutional networks for digits."""

from collections.abc import Mapping
from typing import Any

from . import common_knowledge as common
from .common import ConfigDict

# as many combinations as the losses on features try: compiling is most of what a small convolutional run takes
KD_GRID = {"method/temperature": (2.0, 4.0, 8.0)}


def experiment(preset: str, name: str, method: Mapping[str, Any], **rest: Any) -> ConfigDict:
  """`common_knowledge.experiment` with convolutional networks on digits, whose taps are maps of 8x8, 4x4 and 2x2.

  Three blocks of 32 filters teach three blocks of 8; the mean of the last map is the embedding.

  Args:
    preset: after the colon.
    name: of the experiment.
    method: the section `method` of the digits default.
    **rest: as `common_knowledge.experiment` takes them.
  """
  config = common.experiment(preset, name, method, **rest)
  if preset == "tiny":  # little to compile, and no running statistics, which six steps do not find
    config.teacher, config.student = (common.network("convnet", width=width, depth=2) for width in (8, 2))
    config.teacher_train.epochs = 10
  elif preset == "digits":
    config.teacher, config.student = (common.network("convnet_bn", width=width, depth=3) for width in (32, 8))
    config.teacher_train = common.schedule(epochs=40, batch_size=60)
    config.train = common.schedule(epochs=100, batch_size=50)
    config.seeds, config.tune_seeds = 10, 2
  return config
