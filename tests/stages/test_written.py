"""Texts that teachers write before training: stored once, made anew where anything differs, and refused in one line."""

import io
import re

import jax
import numpy as np
import pytest

from experiments import seq_kd
from jdistill import run
from jdistill.base import UserError
from jdistill.jobs import written
from jdistill.jobs.networks import Teachers

TINY = "--config=experiments/seq_kd.py:tiny"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A run, a few of its examples, and a teacher that was never trained."""
  one = run.make_run(seq_kd.get_config("tiny"), tmp_path_factory.mktemp("run") / "work", stream=io.StringIO())
  arm = one.config["arms"]["seq_kd"]
  task = one.task(arm["task"])
  network = one.network(arm["teacher"], task)
  teachers = Teachers((network,), (network.init(jax.random.key(0)),), "an untrained one")
  return one, arm["method"], jax.tree.map(lambda leaf: leaf[:5], task.data), teachers


def test_they_are_written_once_and_read_back(prepared, monkeypatch):
  one, method, data, teachers = prepared
  first, figures = written.ready(one, "seq_kd", method, data, teachers, "students")
  assert figures["written/unfinished"] > 0 and figures["written_seconds"] > 0
  assert np.array_equal(first.ids, data.ids) and not np.array_equal(first.x.tokens, data.x.tokens)
  (record,) = (one.artefacts / "responses").glob("*/responses.json")
  assert '"teacher": "an untrained one"' in record.read_text() and '"sampling_temperature": 1.0' in record.read_text()

  def never(*arguments):
    raise AssertionError("made again")

  monkeypatch.setattr(written, "_make", never)
  again, same = written.ready(one, "another arm", method, data, teachers, "students")
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert same == figures
  for other in ({"sampling_temperature": 0.5}, {"max_new": 9}):
    with pytest.raises(AssertionError, match="made again"):
      written.ready(one, "seq_kd", method | other, data, teachers, "students")
  with pytest.raises(AssertionError, match="made again"):
    written.ready(one, "seq_kd", method, data, teachers._replace(hash="another"), "students")


def test_the_data_of_other_methods_stay_as_they_are(prepared):
  one, _, data, teachers = prepared
  assert written.ready(one, "sft", {"name": "sft"}, data, teachers, "students") == (data, {})


def test_a_teacher_that_never_ends_is_told(prepared):
  one, method, data, teachers = prepared
  short = method | {"unfinished": "drop", "max_new": 1}
  with pytest.raises(UserError, match=r"seq_kd: of 5 responses .* all are unfinished; raise method\.max_new"):
    written.ready(one, "seq_kd", short, data, teachers, "students")


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    ("--config.targets.source=cached", r"targets\.source='cached': seq_kd has its teacher read what is written in tra"),
    ("--config.method.max_new=24", r"seq_kd: method\.max_new=24: leaves no token of 24 to a prompt; lower it"),
    ("--config.method.end_token=700", r"seq_kd: end_token, pad_token: 700 is outside the vocabulary"),
  ],
)
def test_what_does_not_fit_is_told_before_any_work(capsys, argument, message):
  assert run.main(["run", TINY, "--dry_run", argument]) == 1
  err = capsys.readouterr().err
  assert re.search(message, err) and err.count("\n") == 1, err
