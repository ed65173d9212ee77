"""Damage to a finished run in knowledge distillation: every file is named and made again, or refused with its cure."""

import io
import re
import shutil
import types

import numpy as np
import pytest
from knowledge_runs import experiment

from experiments import datm
from jdistill import run
from jdistill.base import Diverged, UserError
from jdistill.jobs import networks, train, trajectories
from jdistill.stages import students

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def copy(done, tmp_path):
  """A copy of the finished run, and its command: what it prints."""
  shutil.copytree(done.root, tmp_path / "copy")

  def again():
    said = io.StringIO()
    summary = run.run_experiment(experiment(), tmp_path / "copy" / "work", stream=said)
    assert summary["arms"] == done.summary["arms"]
    return said.getvalue()

  teacher = tmp_path / "copy" / "artefacts" / "teachers" / done.teacher().name
  return teacher, again


def test_a_teacher_of_a_finished_run_that_is_gone_or_damaged_is_made_again(done, copy, monkeypatch):
  """One line tells which file; the students and their figures stay."""
  monkeypatch.setattr(students.arms, "train_arm", lambda *args: pytest.fail("a student was trained again"))
  teacher, again = copy
  whole = (teacher / "variables.npz").read_bytes()
  changes = {
    "variables.npz": [lambda path: path.unlink(), lambda path: path.write_bytes(whole[:-9])],
    "teacher.json": [
      lambda path: path.unlink(),
      lambda path: path.write_text("[1, 2]"),
      lambda path: path.write_text(path.read_text().replace("0.", "1.", 1)),
    ],
  }
  for name, damages in changes.items():
    for damage in damages:
      damage(teacher / name)
      assert again().count(f"teachers: {teacher / name} is ") == 1
      assert (teacher / "variables.npz").read_bytes() == whole
  shutil.rmtree(teacher)
  assert f"{teacher / 'teacher.json'} is missing; it is made again" in again()
  assert (teacher / "variables.npz").read_bytes() == whole
  assert "made again" not in again()


def test_changed_metrics_of_a_finished_arm_are_refused_until_they_are_away(done, copy):
  teacher, again = copy
  metrics = teacher.parents[2] / "work" / "metrics"
  path = metrics / f"{done.summary['arms']['kd']['metrics']}.jsonl"
  path.write_bytes(path.read_bytes()[:-30])
  with pytest.raises(
    UserError, match=r"is damaged or was edited .*: put it back as it was, or delete it and run"
  ) as error:
    again()
  assert str(error.value).startswith(str(path))
  path.unlink()
  assert f"{path} is missing: the report comes without its curves" in again()


def test_damaged_records_are_named_and_made_again(done, copy):
  """Students come from their last checkpoints then, with the same scores."""
  teacher, _ = copy
  stages, said = teacher.parents[2] / "work" / "stages", io.StringIO()
  for name, change in (
    ("results.json", lambda text: re.sub(r"0\.(\d)", lambda digit: f"0.{(int(digit[1]) + 1) % 10}", text, count=1)),
    ("tuned.json", lambda text: "[1]"),
    ("students.json", lambda text: "7"),
    ("teachers.json", lambda text: "{}"),
    ("tune.json", lambda text: '{"seconds": []}'),
  ):
    (stages / name).write_text(change((stages / name).read_text()))
    summary = run.run_experiment(experiment(), teacher.parents[2] / "work", stream=said)
    assert re.search(
      rf"\w+: {re.escape(str(stages / name))} is damaged or was edited .*; it is made again", said.getvalue()
    )
    for label, arm in done.summary["arms"].items():
      assert summary["arms"][label]["scores"] == arm["scores"], (name, label)


def test_the_seconds_of_a_damaged_interruption_are_not_counted(tmp_path):
  said = io.StringIO()
  one = run.make_run(experiment(), tmp_path / "work", stream=said)
  path = tmp_path / "work" / "stages" / "tune.partial.json"
  path.parent.mkdir(parents=True)
  for content in ("[]", '{"seconds": 5}', "x"):
    path.write_text(content)
    assert one.spent("tune") == 0.0
  assert said.getvalue().count(f"tune: {path} is damaged or was edited") + said.getvalue().count("is not JSON") == 3


def test_teachers_that_are_not_finite_are_not_kept(tmp_path):
  one = run.make_run(experiment(), tmp_path / "work", stream=io.StringIO())
  spec = networks.specs(one)[0]
  with pytest.raises(Diverged, match=r"^teacher: its parameters are not finite; lower teacher_train\.lr$"):
    networks.write(one, spec, {"a": np.array([[1.0, np.nan]])}, [], {})
  assert not networks.directory(one, spec).exists()


def test_trajectories_that_are_not_finite_are_not_kept(tmp_path, monkeypatch):
  one = run.make_run(datm.get_config("tiny"), tmp_path / "work", stream=io.StringIO())

  def wild(_, job, *args, on_epoch, **options):
    for epoch in range(5):
      params = np.full((len(job.seeds), 6050), np.inf if epoch == 3 else 0.0, np.float32)
      on_epoch(epoch, types.SimpleNamespace(variables={"student": types.SimpleNamespace(params=params)}))

  monkeypatch.setattr(train, "run", wild)
  with pytest.raises(Diverged, match=r"^teacher 0: its parameters are not finite; lower teacher_train\.lr$"):
    trajectories.record(one)
  assert not list(tmp_path.rglob("*.npy")) and not list(tmp_path.rglob("manifest.json"))
