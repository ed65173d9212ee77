"""Runs of knowledge distillation end to end on a few digits: every kind of arm, again, interrupted, and with a teacher
that another run has left."""

import copy
import io
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import kd
from jdistill import run
from jdistill.base import UserError
from jdistill.files import read_json
from jdistill.reporting import read_jsonl
from jdistill.stages import Interrupted, run_stages
from jdistill.stages.knowledge import train

pytestmark = pytest.mark.usefixtures("compiled_once")  # most runs here are the same run again
KD = {"method/name": "kd", "method/temperature": 2.0}
ARMS = {
  "ce": {"method/name": "ce"},
  "others": KD | {"teacher/widths": (24,), "targets/also": ("wide",)},
  "started": KD | {"start_method/name": "ce"},
  "cached": KD | {"targets/source": "cached"},
  "top": KD | {"targets/source": "cached", "targets/top_k": 3},
}


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


@pytest.fixture(scope="module")
def done(tmp_path_factory, compiled_once):
  """A finished run: where, what it said, and its summary. Not to be written to."""
  root, said = tmp_path_factory.mktemp("done"), io.StringIO()
  summary = run.run_experiment(experiment(), root / "work", stream=said)
  return SimpleNamespace(root=root, work=root / "work", said=said.getvalue(), summary=summary)


def table(said):
  """The closing table, with its verdict."""
  return said[said.index("| arm ") :].partition("\nreport: ")[0]


def test_every_arm_is_trained_and_the_best_comes_first(done):
  arms = done.summary["arms"]
  assert set(arms) == {"kd", *ARMS}
  means = [arm["mean"] for arm in arms.values()]
  assert means == sorted(means, reverse=True) and max(means) > 0.2
  assert all(len(arm["scores"]["accuracy"]) == 2 for arm in arms.values())
  rows = table(done.said).splitlines()
  assert [row.split()[1] for row in rows if row.startswith("| ")][2:] == list(arms)
  assert done.summary["reference"] == "ce" and arms["ce"]["difference"] == 0
  assert (done.work / "report.html").exists() and json.loads((done.work / "summary.json").read_text())


def test_teachers_are_named_with_figures_and_hash_and_made_once(done):
  teachers = {one["name"]: one for one in done.summary["teachers"]}
  assert set(teachers) == {"teacher", "teacher of others", "teacher wide"}
  assert len({one["hash"] for one in teachers.values()}) == 3
  assert len(list((done.root / "artefacts" / "teachers").iterdir())) == 3
  for name, one in teachers.items():
    assert one["scores"][0]["accuracy"] > 0.5
    assert re.search(rf"^{name}: mlp, accuracy 0\.\d+.*; hash {one['hash']}$", done.said, re.MULTILINE)
  assert done.said.index("teacher: mlp") < done.said.index("students: kd")


def test_stored_targets_are_the_teachers_own_and_take_the_bytes_they_take(done):
  arms = done.summary["arms"]
  assert arms["cached"]["last"] == pytest.approx(arms["kd"]["last"], rel=1e-3)
  assert arms["top"]["last"]["loss/kd"] != pytest.approx(arms["kd"]["last"]["loss/kd"], rel=1e-3)
  examples = 200 - 40  # all of the training part, at 4 bytes a number
  weights = lambda width: 4 * (64 * width + width + width * 10 + 10)  # noqa: E731
  assert arms["cached"]["target_bytes"] == 4 * examples * (10 + 16 + 1)
  assert arms["top"]["target_bytes"] == 4 * examples * (2 * 3 + 1 + 1)
  assert arms["kd"]["target_bytes"] == weights(16)
  assert arms["others"]["target_bytes"] == weights(24) + weights(32)
  assert arms["ce"]["target_bytes"] == 0


def test_a_phase_before_is_where_students_start(done):
  """It has epochs of its own; after it, students are further than those that start from nothing."""
  arms = done.summary["arms"]
  assert arms["started"]["last"]["loss/ce"] < arms["kd"]["last"]["loss/ce"]
  (rows,) = (rows for path in (done.work / "metrics").iterdir() if (rows := read_jsonl(path, "students/start")))
  assert [row["step"] for row in rows] == [1, 2, 3] and "loss/ce" in rows[0] and "loss/kd" not in rows[0]


def test_a_combination_that_diverges_is_an_answer(done):
  trials = read_json(done.work / "stages" / "tuned.json")["kd"]
  assert [trial["chosen"] for trial in trials] == [{"train/lr": 1e35}, {"train/lr": 0.02}]
  assert trials[0]["values"] is None and len(trials[1]["values"]) == 2
  assert done.summary["arms"]["kd"]["tuned"] == {"train/lr": 0.02}
  assert "tune: kd: train/lr=0.02" in done.said


def test_a_grid_of_which_everything_diverges_is_refused(done, tmp_path):
  config = experiment({"ce": ARMS["ce"]}, tune={"kd": {"train/lr": (1e35,)}})
  with pytest.raises(UserError, match=r"^tune\.kd: no combination has a finite loss; lower train\.lr"):
    run.run_experiment(config, tmp_path / "work", artefacts=done.root / "artefacts", stream=io.StringIO())


def test_the_same_command_again_trains_nothing_and_shows_the_same_table(done, tmp_path):
  shutil.copytree(done.root, tmp_path / "copy")
  work, said = tmp_path / "copy" / "work", io.StringIO()
  before = {path: path.stat().st_mtime_ns for path in [*work.glob("stages/*"), *work.rglob("checkpoints/*/*")]}
  summary = run.run_experiment(experiment(), work, stream=said)
  assert table(said.getvalue()) == table(done.said)
  assert not re.search(r"^(students|tune|teacher)", said.getvalue(), re.MULTILINE)
  after = {path: path.stat().st_mtime_ns for path in [*work.glob("stages/*"), *work.rglob("checkpoints/*/*")]}
  changed = {path.name for path in before if after[path] != before[path]}
  assert changed <= {"report.json"} and set(after) == set(before)
  assert summary["arms"] == done.summary["arms"]


STOPS = [  # where it is asked to stop, and what it says then; figures come a step late
  ("students/kd", 2, r"kd: epoch [23] of 4 is saved"),
  ("students/start", 1, r"start: epoch [12] of 3 is saved"),
  ("students/cached", 4, r"5 of 6 arms are saved"),
]


def test_a_run_that_is_interrupted_again_and_again_ends_with_the_same_numbers(done, tmp_path, monkeypatch):
  for where, epoch, words in STOPS:
    ctx = run.make_context(experiment(), tmp_path / "work", done.root / "artefacts", io.StringIO())

    class Writer(train.JsonlWriter):
      """Asks the run to stop once the metrics of an epoch are written."""

      def __init__(self, path, name, *, stop_at=(where, epoch), ctx=ctx, **options):
        super().__init__(path, name, **options)
        self.own, self.stop_at, self.ctx = name, stop_at, ctx

      def write(self, step, metrics):
        super().write(step, metrics)
        if (self.own, step) == self.stop_at:
          self.ctx.stop_requested = True

    monkeypatch.setattr(train, "JsonlWriter", Writer)
    with pytest.raises(Interrupted, match=f"^{words}$"):
      run_stages(ctx)
    assert not (ctx.workdir / "stages" / "students.json").exists()
  monkeypatch.undo()
  summary = run.run_experiment(experiment(), tmp_path / "work", artefacts=done.root / "artefacts", stream=io.StringIO())
  for label, arm in done.summary["arms"].items():
    again = summary["arms"][label]
    assert (again["scores"], again["last"], again["metrics"]) == (arm["scores"], arm["last"], arm["metrics"])
    name = f"metrics/{arm['metrics']}.jsonl"
    rows, want = (read_jsonl(work / name, f"students/{label}") for work in (tmp_path / "work", done.work))
    assert [row | {"time": 0} for row in rows] == [row | {"time": 0} for row in want]


def kept(done):
  """Where the run's own teacher lies."""
  wanted = next(one["scores"] for one in done.summary["teachers"] if one["name"] == "teacher")
  found = [
    p for p in (done.root / "artefacts" / "teachers").iterdir() if read_json(p / "teacher.json")["scores"] == wanted
  ]
  return next(p for p in found if read_json(p / "teacher.json")["identity"]["model"]["widths"] == [16])


def stored(path, **changes):
  config = experiment({"ce": ARMS["ce"]}, tune={}, **changes)
  config.targets.stored = str(path)
  return config


def test_a_teacher_of_another_run_teaches_as_it_did_there(done, tmp_path):
  config = stored(kept(done))
  config.teacher.widths = (99,)  # what the section says does not matter then
  said = io.StringIO()
  summary = run.run_experiment(config, tmp_path / "work", stream=said)
  (mine,), theirs = summary["teachers"], next(t for t in done.summary["teachers"] if t["name"] == "teacher")
  assert (mine["hash"], mine["scores"]) == (theirs["hash"], theirs["scores"])
  assert summary["arms"]["kd"]["scores"] == done.summary["arms"]["kd"]["scores"]
  assert not (tmp_path / "artefacts" / "teachers").exists() and "epoch" not in said.getvalue().partition("students")[0]


def refused(config, tmp_path):
  """The line of a run that must not begin."""
  with pytest.raises(UserError) as error:
    run.run_experiment(config, tmp_path / "work", stream=io.StringIO())
  assert not (tmp_path / "work").exists() and "\n" not in str(error.value)
  return str(error.value)


def test_a_stored_teacher_with_its_classes_in_another_order_is_refused(done, tmp_path):
  path = tmp_path / "permuted"
  shutil.copytree(kept(done), path)
  with np.load(path / "variables.npz") as found:
    arrays = dict(found)
  for name, value in arrays.items():
    if value.shape[-1] == 10:
      arrays[name] = np.roll(value, 1, axis=-1)
  np.savez(path / "variables.npz", **arrays)
  line = refused(stored(path), tmp_path)
  assert line.startswith("teacher: its classes are in another order (accuracy 0.") and "1->0" in line


def test_a_stored_teacher_of_other_classes_or_pixels_is_refused(done, tmp_path):
  rng = np.random.default_rng(0)
  for shape, classes in (((8, 8, 1), 3), ((6, 6, 1), 10)):
    arrays = {}
    for part, count in (("train", 200), ("test", 100)):
      arrays[f"{part}_images"] = rng.random((count, *shape), np.float32)
      arrays[f"{part}_labels"] = np.arange(count) % classes
    np.savez(tmp_path / "set.npz", **arrays)
    line = refused(stored(kept(done), dataset=str(tmp_path / "set.npz")), tmp_path)
    assert f"does not fit model mlp with {classes} classes on inputs {shape}; give a teacher of this data" in line


def test_a_damaged_stored_teacher_is_refused(done, tmp_path):
  path = tmp_path / "damaged"
  shutil.copytree(kept(done), path)
  (path / "variables.npz").write_bytes(b"PK no archive")
  assert "variables.npz" in refused(stored(path), tmp_path)


def test_a_run_without_the_teacher_stage_says_where_the_teacher_must_come_from(tmp_path):
  config = experiment({"ce": ARMS["ce"]}, tune={}, stages=("students", "report"))
  with pytest.raises(UserError, match=r"no teacher there; add 'teacher' to config\.stages, or give the --artefacts"):
    run.run_experiment(config, tmp_path / "work", stream=io.StringIO())


def test_a_teacher_at_chance_is_refused_before_any_student(tmp_path):
  config = experiment({"ce": ARMS["ce"]}, tune={})
  config.teacher_train.lr, config.teacher_train.epochs = 1e-9, 1
  config.teacher.init = "torch"
  said = io.StringIO()
  with pytest.raises(UserError, match=r"^teacher: accuracy 0\.\d+ is not above chance for 10 classes; train it longer"):
    run.run_experiment(config, tmp_path / "work", stream=said)
  assert "students" not in said.getvalue()
