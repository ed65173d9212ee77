"""The contract of calibrations: values of a method that are measured on a task before the long part of a run."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jdistill.base import Network
from jdistill.synthetic import Start


class Lab(NamedTuple):
  """What a calibration may use.

  Attributes:
    x, y: training images in network space, and labels.
    num_classes, ipc, seed: of the run.
    seconds: the time limit of the whole run.
    network: `(options) -> network`, that of the configuration with other values of some options.
    start: `(**options) -> how the synthetic set starts`, as configured but for these options.
    value: `(path) -> value` of the configuration.
    is_open: `(path) -> whether` it may be chosen.
    log: prints a line.
  """

  x: np.ndarray
  y: np.ndarray
  num_classes: int
  ipc: int
  seed: int
  seconds: float
  network: Callable[[Mapping[str, Any]], Network]
  start: Callable[..., Start]
  value: Callable[[str], Any]
  is_open: Callable[[str], bool]
  log: Callable[[str], None]


class Choice(NamedTuple):
  """A value of the configuration, and why."""

  path: str
  value: Any
  reason: str


class Calibration(NamedTuple):
  """How open values of a method are chosen.

  Attributes:
    paths: `"section/key"` of the values.
    choose: `(Lab) -> choices` for those of them that are open.
  """

  paths: tuple[str, ...]
  choose: Callable[[Lab], list[Choice]]


class Book:
  """Choices so far: what is not open keeps its value."""

  def __init__(self, lab: Lab):
    self.lab, self.choices = lab, []

  def choose(self, path: str, value: Any, reason: str) -> Any:
    """The value that holds: the configuration's own where it is set."""
    if not self.lab.is_open(path):
      return self.lab.value(path)
    self.choices.append(Choice(path, value, reason))
    self.lab.log(f"calibrate: {path.replace('/', '.')}={value}: {reason}")
    return value
