"""Names that lead elsewhere, hold line breaks, or are empty; sizes that no machine has; values that contradict."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jdistill import run
from tests.hostile.case import Action, Case, changed, config_of, python

_NAMES = {"outside": "../../x", "absolute": "{place}/x", "line break": "a\nb", "empty": "", "nul": "a\0b"}
_NAMES |= {"long": 300 * "x"}
_HUGE = 10**12
_DATM: dict[str, Any] = {
  "ipc": [_HUGE, 2**31, 2**63],
  "steps": [2**31, 2**63],
  "seed": [2**31, 2**63, 2**64, -1],
  "train_size": [_HUGE, 2**63, 5],
  "test_size": [_HUGE, 2**63],
  "validation_size": [_HUGE, 2**63],
  "teachers.count": [_HUGE, 2**63],
  "eval.seeds": [_HUGE, 2**63],
  "teacher_train.batch_size": [_HUGE, 2**63],
  "model.widths": [[_HUGE], [2**63], [10**6, 10**6], [64] * 100_000, [], [0], [-1], [1.5], ["abc"], [True], [None]],
  "method.inner_steps": [2**31, 2**63],
  "memory_limit": ["", "abc", "-1GB", "1e400GB", "NaN", "0", "9" * 400, "1XB"],
  "checkpoint_seconds": [10**400, -1],
  "teacher_train.lr": [1e308],
  "parallel.pool": [_HUGE, 2**63],
  "preprocessing": ["zac", ""],
  "teacher_train.augment": ["flop", "crop_", "_", "", "none_flip", "flip_flip_flip_flop"],
  "dataset": ["", "nope", "a\nb", "../x", "/", "/dev/null", ".", "~nobody_of_that_name/x", "a\0b", "x.npz", "digits:3"],
  "method.augment": ["flop", "", "flip_", "siamese"],
}
_KD: dict[str, Any] = {
  "seeds": [_HUGE, 2**63],
  "student.widths": [[_HUGE], [2**63], [], [0], ["abc"]],
  "teacher.widths": [[_HUGE], [10**6, 10**6], [0]],
  "task.student_size": [_HUGE, 0, -1, 1],
  "task.teacher_size": [_HUGE, 0, 1],
  "train.milestones": [[0], [-1], ["abc"], [float("nan")], {"a": 1}],
  "train.augment": ["flop", "", "crop_"],
  "student.name": ["nope", "", "../x", 3],
  "teacher.name": ["nope", ""],
  "method.name": ["nope", "", "datm", "rs2", "../x"],
  "task.name": ["nope", "", "segmentation"],
  "data_policy.name": ["nope", "", "kd"],
  "subject": ["ce", "", "a\nb"],
  "reference": ["nope", ""],
  "score_every": [-1],
  "target_scores": [[float("nan")]],
}


def cases() -> Iterator[Case]:
  """Names first, then the tables above."""
  for experiment in ("datm", "kd", "datm_difficulty"):
    for what, value in _NAMES.items():
      start = functools.partial(_default_directory, experiment, value)
      yield Case(f"name/{experiment}/name/{what}", "name", start, ("name",))
  for experiment, table in (("datm", _DATM), ("kd", _KD)):
    for dotted, values in table.items():
      for number, value in enumerate(values):
        start = functools.partial(_start, experiment, dotted, value)
        last = dotted.rpartition(".")[2]
        words = (last, "unknown", "no such", "arms", "model")
        yield Case(f"value/{experiment}/{dotted}/{number}", "value", start, (words,))


def _start(experiment: str, dotted: str, value: Any, place: Path) -> Action:
  config = config_of(experiment)
  if dotted == "subject":
    config |= {"order": None, "reference": None}  # which would be refused first
  return python(changed(config, dotted, value), place)


def _default_directory(experiment: str, value: str, place: Path) -> Action:
  """The run chooses its directory by the name, from far enough below `place` that it cannot get out of it."""
  below = place / "a" / "b" / "c"
  below.mkdir(parents=True)

  def action() -> int:
    with contextlib.chdir(below):
      run.run_experiment(changed(config_of(experiment), "name", value.replace("{place}", str(place))))
    return 0

  return action
