"""What the steps of a method that learns a set consume: a function of a run's data, teachers, seed, and the step."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jdistill.base import PyTree, Variables


class Materials(NamedTuple):
  """What a run has.

  Attributes:
    x, y: `[n, height, width, channels]` real images in network space, and their labels `[n]`.
    num_classes: number of classes.
    seed: of the run.
    parameters: of its network.
    shapes: of its network's parameters, in the order in which they lie in the flat vector.
    segment: `(teacher, first epoch, epochs) -> (parameters, parameters)` at the ends of a piece of a trajectory.
    epochs: of every trajectory; its last piece ends there.
    teachers: how many there are.
    teacher: variables of the first teacher.
    committee: variables of all teachers, for methods that look at several.
    prior: `[teachers]` float32, what each of these is worth, in percent.
    encoder: gives the variables of the run's label projector, which is made then; `None` for runs without one.
  """

  x: np.ndarray
  y: np.ndarray
  num_classes: int
  seed: int
  parameters: int = 0
  shapes: tuple[tuple[int, ...], ...] = ()
  segment: Callable[[int, int, int], tuple[np.ndarray, np.ndarray]] | None = None
  epochs: int = 0
  teachers: int = 0
  teacher: Variables | None = None
  committee: tuple[Variables, ...] = ()
  prior: np.ndarray | tuple[()] = ()
  encoder: Callable[[], Variables] | None = None


class Feed(NamedTuple):
  """A stream as a value.

  Attributes:
    stream: `(Materials) -> (step -> batch)`, host arrays of one shape.
    example: `(Materials) -> shapes` of a batch, from materials without trajectories, and with shapes for a teacher.
    check: `(method, teacher_train) -> None`, sections of a configuration, the second `None` without teachers that leave
      trajectories: refuses options that do not go together.
  """

  stream: Callable[[Materials], Callable[[int], PyTree]]
  example: Callable[[Materials], PyTree]
  check: Callable[[Mapping[str, Any], Mapping[str, Any] | None], None] = lambda method, teacher_train: None
