"""Smoke tests and roll-outs in a run: what is refused before any work, and that teachers are tested alike."""

import importlib
import io

import numpy as np
import pytest

from jdistill import run
from jdistill.base import UserError
from jdistill.jobs import rollouts, subset
from jdistill.runs.run import Run
from jdistill.stages import resolve


def config(**changes):
  found = importlib.import_module("experiments.ded").get_config("tiny")
  for name, value in changes.items():
    section, _, key = name.partition("__")
    found[section][key] = value
  return found


def test_teachers_are_tested_by_the_same_questions_which_nobody_may_choose(tmp_path):
  one = Run(resolve(config()), tmp_path, tmp_path, io.StringIO())
  arm = one.config["arms"]["ded"]
  task = one.task(arm["task"])
  members, pool = rollouts._smoke_members(one, arm, task), subset.pool(one, arm)
  question, source = task.data.extra["question"], task.data.extra["domain"]
  asked = [question[own].tolist() for own in members]
  assert all(own == asked[0] for own in asked) and len(set(asked[0])) == len(asked[0]) > 3
  assert [set(source[own].tolist()) for own in members] == [{number} for number in range(5)]
  assert not set(asked[0]) & set(question[pool].tolist())
  prompts = rollouts._prompts(task, pool)
  assert prompts.extra["question"].tolist() == sorted(set(question[pool].tolist()))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"select__rollouts": 1}, r"select\.rollouts=1: .*at least 2"),
    ({"select__runs": 0}, "select.runs=0: ded needs students of the smoke test; set at least 1"),
    ({"select__reference": 0.0}, r"select\.reference=0\.0: no question is set aside"),
    ({"proxy__name": "gru"}, "students of the smoke test must write; use a decoder"),
    ({"select__per_class": 10**6}, "per_class"),
    ({"task__name": "traces"}, "needs responses of several teachers .*set task.name='candidates'"),
  ],
)
def test_what_is_refused_before_work_starts(tmp_path, changes, message):
  own = config(**changes)
  if "task__name" in changes:
    own.task = {"name": "traces", "digits": 1, "questions": 90}
  if "proxy__name" in changes:
    own.proxy = {"name": "gru"}
  with pytest.raises(UserError, match=message) as caught:
    run.run_experiment(own, tmp_path / "work", stream=io.StringIO())
  assert "\n" not in str(caught.value)
  assert not np.any([path.is_file() for path in (tmp_path / "artefacts").rglob("*")])
