"""Stage `tune`: grids of numbers share one program where the method allows it, and a diverging point is an answer."""

import copy
import io

import pytest
from knowledge_runs import ARMS, experiment

from experiments import kd
from jdistill import run
from jdistill.base import UserError
from jdistill.files import read_record
from jdistill.jobs import arms as arms_lib

pytestmark = pytest.mark.usefixtures("compiled_once")
GRIDS = {
  "kd": {"method/temperature": (1.0, 4.0), "method/kd_weight": (0.5, 2.0)},
  "sinkd": {"method/final_temperature": (1.0, 3.0)},  # which SinKD looks at in Python
  "rate": {"train/lr": (0.01, 0.02)},
}


def test_a_combination_that_diverges_is_an_answer(done):
  cells = read_record(done.work / "stages" / "tuned.json")
  assert set(cells) == {"kd/0", "kd/1"}
  assert cells["kd/0"].keys() == {"failed"} and "is not finite" in cells["kd/0"]["failed"]
  assert len(cells["kd/1"]["values"]) == 2
  assert done.summary["arms"]["kd"]["tuned"] == {"train/lr": 0.02} and done.summary["failed"] == []
  assert "tune: kd: train/lr=0.02" in done.said


def test_a_grid_of_which_everything_diverges_is_refused(done, tmp_path):
  config = experiment({"ce": ARMS["ce"]}, tune={"kd": {"train/lr": (1e35,)}})
  with pytest.raises(UserError, match=r"^tune\.kd: no combination has a finite loss; lower train\.lr"):
    run.run_experiment(config, tmp_path / "work", artefacts=done.artefacts, stream=io.StringIO())


def search(tmp_path, monkeypatch, *, constants=False):
  """The cells of a tiny run, and the jobs that were trained, by arm."""
  config = kd.get_config("tiny")
  config.teacher.widths, config.student.widths, config.parallel.pool = (16,), (8,), 1
  with config.unlocked():
    config.arms, config.order = {"sinkd": {"method/name": "sinkd"}, "rate": {}}, ("kd", "sinkd", "rate")
    config.reference, config.tune, config.stages = None, copy.deepcopy(GRIDS), ("teachers", "tune")
  jobs, real = {}, arms_lib.train.run

  def seen(one, job, *arguments, stage, **options):
    if stage == "tune":
      jobs.setdefault(job.label.partition(" ")[0], []).append(job)
    return real(one, job, *arguments, stage=stage, **options)

  monkeypatch.setattr(arms_lib.train, "run", seen)
  if constants:
    monkeypatch.setattr(arms_lib, "_with_traced", lambda one, label, method, job: job)
  run.run_experiment(config, tmp_path / "work", artefacts=tmp_path / "artefacts", stream=io.StringIO())
  return read_record(tmp_path / "work" / "stages" / "tuned.json"), jobs


def test_searched_numbers_are_arguments_where_the_method_allows_it(tmp_path, monkeypatch):
  with monkeypatch.context() as patched:
    found, jobs = search(tmp_path / "a", patched)
  assert [sorted(job.options) for job in jobs["kd"]] == [["kd_weight", "temperature"]] * 4
  assert len({id(job.rebuild) for job in jobs["kd"]}) == 1, "one program serves all points of a grid"
  assert not any(job.options for label in ("sinkd", "rate") for job in jobs[label])
  with monkeypatch.context() as patched:
    want, jobs = search(tmp_path / "b", patched, constants=True)
  assert not any(job.options for one in jobs.values() for job in one)
  assert set(found) == set(want) == {"kd/0", "kd/1", "kd/2", "kd/3", "sinkd/0", "sinkd/1", "rate/0", "rate/1"}
  for label, cell in want.items():
    assert found[label]["values"] == pytest.approx(cell["values"], abs=0.05)  # 40 examples: one may fall otherwise
