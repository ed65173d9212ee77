"""A tiny run in knowledge distillation with every kind of arm, which several tests look at."""

import copy
import io
import pathlib
from typing import NamedTuple

from experiments import kd
from jdistill import run
from jdistill.files import read_json
from jdistill.jobs import train

KD = {"method/name": "kd", "method/temperature": 2.0}
ARMS = {
  "ce": {"method/name": "ce"},
  "others": KD | {"teacher/widths": (24,), "teachers/also": ("wide",)},
  "started": KD | {"start_method/name": "ce"},
  "cached": KD | {"targets/source": "cached"},
  "top": KD | {"targets/source": "cached", "targets/top_k": 3},
}


class Done(NamedTuple):
  """A finished run: its directories, what it printed, and its summary."""

  root: pathlib.Path
  said: str
  summary: dict

  @property
  def work(self) -> pathlib.Path:
    return self.root / "work"

  @property
  def artefacts(self) -> pathlib.Path:
    return self.root / "artefacts"

  def teacher(self) -> pathlib.Path:
    """Where the run's own teacher lies."""
    own = next(one["hash"] for one in self.summary["teachers"] if one["name"] == "teacher")
    (line,) = [line for line in self.said.splitlines() if line.startswith("teacher: ") and line.endswith(own)]
    found = [path for path in (self.artefacts / "teachers").iterdir() if widths(path) == [16]]
    assert len(found) == 1 and line
    return found[0]


def widths(path: pathlib.Path) -> list[int]:
  """Of a stored teacher."""
  return read_json(path / "teacher.json")["identity"]["model"]["widths"]


def experiment(arms=ARMS, **changes):
  """The tiny experiment of KD with these controls; the first rate of the grid diverges."""
  config = kd.get_config("tiny")
  config.teacher.widths, config.student.widths = (16,), (8,)
  config.teacher_train.epochs, config.train.epochs = 20, 4
  config.method.temperature, config.train.lr = 2.0, 0.02
  config.parallel.pool = 1
  config.committee = {"wide": {"teacher/widths": (32,)}}
  with config.unlocked():
    config.arms, config.order = copy.deepcopy(arms), ("kd", *arms)
    config.tune = {"kd": {"train/lr": (1e35, 0.02)}}
    for name, value in changes.items():
      config[name] = value
  return config


def one_step_at_a_time(monkeypatch) -> None:
  """Makes a call of the program one step, so that a stop can fall between any two of them."""
  monkeypatch.setattr(train, "suggest_steps_per_call", lambda steps, epochs: 1)


def finish(root: pathlib.Path) -> Done:
  """Runs it."""
  said = io.StringIO()
  summary = run.run_experiment(experiment(), root / "work", stream=said)
  return Done(root, said.getvalue(), summary)
