"""Scores of students beside their teacher: through arms, while training and at the end, and checks of data policies."""

from types import SimpleNamespace

import numpy as np
import pytest

from jdistill.base import Batch, DataPolicy, LanguageModel, Network, TargetSource, UserError, Variables
from jdistill.jobs import job
from jdistill.jobs.arms import scorer

MODEL = LanguageModel(*[lambda *given: None] * 5, 4, 3)


def task(against, judged_by=None):
  return SimpleNamespace(score=lambda predict, data: {"own": predict(data)}, against=against, judged_by=judged_by)


def source(language):
  return TargetSource(lambda *given: (), (Variables({"w": 5}),), 0, "online", networks=language)


def test_the_teacher_is_asked_once_and_its_figures_join_the_others():
  asked = []

  def against(writer, data):
    asked.append((writer, data))
    return lambda predict: {"apart": predict(data) - writer.params["w"]}

  score = scorer(task(against), 7, source((MODEL,)))
  assert not asked  # plans make scorers, too, and compute nothing
  assert score(lambda data: data + 1, 0) == {"own": 8, "apart": 3}
  assert score(lambda data: data, 0) == {"own": 7, "apart": 2}
  assert len(asked) == 1 and asked[0][0].model is MODEL


@pytest.mark.parametrize("targets", [None, source((Network(None, None),))])
def test_without_a_teacher_that_writes_there_are_the_tasks_own_figures(targets):
  assert scorer(task(lambda writer, data: pytest.fail()), 7, targets)(lambda data: data, 0) == {"own": 7}
  assert scorer(task(None), 7, source((MODEL,)))(lambda data: data, 0) == {"own": 7}


def test_a_student_is_judged_by_what_its_seed_has():
  score = scorer(task(None, lambda seed, data: 10 * data + seed), 7, None)
  assert [score(lambda data: data, seed) for seed in (0, 3)] == [{"own": 70}, {"own": 73}]


def test_examples_that_a_policy_cannot_draw_from_are_refused_before_anything_is_compiled(monkeypatch):
  def check(data):
    raise UserError(f"data_policy.name='own': {len(data.ids)} examples")

  policy = DataPolicy(lambda key: (), lambda *given: None, 1, check=check)
  monkeypatch.setattr(job, "_method", lambda *given: (None, None))
  data = Batch(np.zeros(3), np.zeros(3, int), np.arange(3))
  given = job.Job("arm", None, SimpleNamespace(outer=None), {"batch_size": 2, "lr": 0.1}, data, np.arange(3)[None], [0])
  run = SimpleNamespace(mesh=lambda *axes: None)
  with pytest.raises(UserError, match="'own': 3 examples"):
    job.prepare(run, given._replace(policy=lambda size, batch_size: policy))
