"""What is learned and how it is judged: data splits, input specification, metrics and score.

A task is a value: the examples of teachers and students, those on which choices are made, those that are only looked
at in the end, and a score.
"""

import importlib
from collections.abc import Callable

from jdistill.tasks.task import Exhibit, Finished, Request, Task, Writer, fingerprint, take

__all__ = ["Exhibit", "Finished", "Request", "Task", "Writer", "builder", "fingerprint", "names", "take"]

_NAMES = (
  "supervised",
  "long_tailed",
  "segmentation",
  "web",
  "noisy_labels",
  "canaries",
  "language",
  "samples",
  "countdown",
  "arithmetic",
  "oracle",
  "domains",
  "unlabelled",
  "clients",
  "active",
  "rotations",
  "traces",
  "candidates",
  "prompt_pairs",
  "concept",
)


def names() -> list[str]:
  """The names of all tasks."""
  return list(_NAMES)


def builder(name: str) -> Callable:
  """The builder of a task, `(Request, *, options) -> Task`; it lies in the module of its name."""
  return getattr(importlib.import_module(f"jdistill.tasks.{name}"), name)
