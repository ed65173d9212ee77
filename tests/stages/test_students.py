"""Runs of knowledge distillation end to end on a few digits: every kind of arm, again, and interrupted."""

import io
import json
import re
import shutil

import pytest
from knowledge_runs import ARMS, experiment, one_step_at_a_time

from jdistill import run
from jdistill.base import UserError
from jdistill.reporting import JsonlWriter, read_jsonl
from jdistill.runs import lines
from jdistill.stages import Interrupted, run_stages

pytestmark = pytest.mark.usefixtures("compiled_once")  # most runs here are the same run again


def table(said):
  """The closing table, with its verdict."""
  return said[said.index("| arm ") :].partition("\ntime: ")[0]


def test_every_arm_is_trained_and_the_best_comes_first(done):
  arms = done.summary["arms"]
  assert set(arms) == {"kd", *ARMS} and done.summary["failed"] == []
  means = [arm["mean"] for arm in arms.values()]
  assert means == sorted(means, reverse=True) and max(means) > 0.2
  assert all(len(arm["scores"]["accuracy"]) == 2 for arm in arms.values())
  rows = table(done.said).splitlines()
  assert [row.split()[1] for row in rows if row.startswith("| ")][2:] == list(arms)
  assert done.summary["reference"] == "ce" and arms["ce"]["difference"] == 0
  assert (done.work / "report.html").exists() and json.loads((done.work / "summary.json").read_text())


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


STOPS = [  # where it is asked to stop, and what it says then
  ("students/kd", 2, r"kd: step \d+ of about 4 is saved"),
  ("students/start", 1, r"start: step \d+ of about 3 is saved"),
  ("students/cached", 4, r"5 of 6 are saved"),
]


def test_a_run_that_is_interrupted_again_and_again_ends_with_the_same_numbers(done, tmp_path, monkeypatch):
  one_step_at_a_time(monkeypatch)
  for where, step, words in STOPS:
    one = run.make_run(experiment(), tmp_path / "work", done.artefacts, io.StringIO())

    class Writer(JsonlWriter):
      """Asks the run to stop once the metrics of a step are written."""

      def __init__(self, path, name, *, stop_at=(where, step), one=one, **options):
        super().__init__(path, name, **options)
        self.own, self.stop_at, self.one = name, stop_at, one

      def write(self, step, metrics):
        super().write(step, metrics)
        if (self.own, step) == self.stop_at:
          self.one.stop_requested = True

    monkeypatch.setattr(lines, "JsonlWriter", Writer)
    with pytest.raises(Interrupted, match=f"^{words}$"):
      run_stages(one)
    assert not (one.workdir / "stages" / "students.json").exists()
  monkeypatch.setattr(lines, "JsonlWriter", JsonlWriter)
  summary = run.run_experiment(experiment(), tmp_path / "work", artefacts=done.artefacts, stream=io.StringIO())
  for label, arm in done.summary["arms"].items():
    again = summary["arms"][label]
    assert (again["scores"], again["last"], again["metrics"]) == (arm["scores"], arm["last"], arm["metrics"]), label
    name = f"metrics/{arm['metrics']}.jsonl"
    rows, want = (read_jsonl(work / name, f"students/{label}") for work in (tmp_path / "work", done.work))
    assert [row["step"] for row in want] == [1, 2, 3, 4]
    assert [row | {"time": 0} for row in rows] == [row | {"time": 0} for row in want]


def test_an_arm_that_diverges_is_kept_apart_and_the_others_go_on(done, tmp_path):
  arms = {"ce": ARMS["ce"], "wild": {"train/lr": 1e35}}
  said = io.StringIO()
  summary = run.run_experiment(experiment(arms, tune={}), tmp_path / "work", artefacts=done.artefacts, stream=said)
  assert summary["failed"] == ["wild"] and set(summary["arms"]) == {"kd", "ce", "wild"}
  assert re.search(r"^wild: step \d+: .* is not finite.*; lower train\.lr$", summary["arms"]["wild"]["failed"])
  assert summary["arms"]["kd"]["mean"] > 0 and "failed: wild: " in said.getvalue()
  again = run.run_experiment(experiment(arms, tune={}), tmp_path / "work", artefacts=done.artefacts, stream=said)
  assert again["arms"] == summary["arms"]


def test_teachers_that_do_not_fit_are_refused_before_any_work(tmp_path):
  for arm, words in (
    ({"method/name": "fitnets", "method/tap": "block7"}, r"hints: .*block7"),
    ({"targets/source": "cached", "targets/top_k": 10}, r"hints: targets\.top_k=10: must lie in 1\.\.9 for 10 classes"),
    ({"method/name": "nd", "targets/source": "cached", "targets/top_k": 3}, r"hints: targets\.top_k: .* embeddings"),
  ):
    with pytest.raises(UserError, match=f"^{words}"):
      run.run_experiment(experiment({"hints": arm}, tune={}, reference=None), tmp_path / "work", stream=io.StringIO())
    assert not (tmp_path / "work").exists() and not (tmp_path / "artefacts").exists()
