"""Cells of work beside each other: one that diverges is kept apart, and a data policy is an axis of all of them."""

import json

import pytest

from jdistill.files import read_record
from jdistill.reporting import read_jsonl
from jdistill.runs.grid import Grid
from jdistill.stages import report, students

WILD = """
from experiments import kd

def get_config():
  config = kd.get_config("tiny")
  config.name, config.stages = "wild", ("teachers", "students", "report")
  config.order = None
  config.arms = {"wild": {"train/lr": 1e30}, "ce": {"method/name": "ce"}}
  config.teacher.widths, config.student.widths = (8,), (8,)
  config.teacher_train.epochs = 20
  return config
"""
# two batches an epoch; of half of the examples, one
POLICY = ["--config.data_policy.name=rs2", "--config.data_policy.fraction=0.5", "--config.train.batch_size=25"]
MESSAGE = "step 1: loss/ce is not finite; lower train.lr"


@pytest.fixture(scope="module")
def wild(tmp_path_factory):
  """The experiment's file, beside which its runs are."""
  path = tmp_path_factory.mktemp("wild") / "wild.py"
  path.write_text(WILD)
  return path


@pytest.fixture
def again(call, wild):
  """Runs the experiment, or shows it once more."""
  return lambda: call(f"--config={wild}", *POLICY, f"--workdir={wild.parent / 'work'}")


def _read(wild, name):
  return json.loads((wild.parent / "work" / name).read_text())


def test_an_arm_that_diverges_is_kept_apart_and_the_others_finish(again, wild):
  result = again()
  assert (result.code, result.out) == (1, "")
  assert "Traceback" not in result.err
  assert f"failed: wild: {MESSAGE}\n" in result.err
  cells = _read(wild, "stages/results.json")
  assert cells["wild"] == {"failed": f"wild: {MESSAGE}"}
  assert [len(cells[label]["scores"]["accuracy"]) for label in ("kd", "ce")] == [2, 2]
  summary = _read(wild, "summary.json")
  assert summary["failed"] == ["wild"] and summary["arms"]["wild"]["failed"] == f"wild: {MESSAGE}"
  assert list(summary["arms"])[-1] == "wild" and summary["arms"]["kd"]["mean"] > 0
  for name in ("report.md", "report.html"):
    text = (wild.parent / "work" / name).read_text()
    assert "Failed" in text and f"wild: {MESSAGE}" in text


def test_the_same_command_shows_the_failure_again_and_trains_nothing(again, wild, monkeypatch):
  first = again()
  before = _read(wild, "stages/results.json")
  monkeypatch.setattr(students.arms, "train_arm", lambda *args: pytest.fail("an arm was trained again"))
  second = again()
  assert (second.code, second.err[second.err.index("| arm") :]) == (1, first.err[first.err.index("| arm") :])
  assert _read(wild, "stages/results.json") == before


def test_a_policy_by_its_name_alone_is_that_of_every_arm(again, wild):
  """With cross entropy and with a teacher alike; fewer examples mean fewer steps."""
  again()
  cells = _read(wild, "stages/results.json")
  for label in ("kd", "ce"):
    assert cells[label]["arm"]["data_policy"] == {"name": "rs2", "fraction": 0.5, "replacement": False}
    assert cells[label]["figures"]["steps"] == 3
    rows = read_jsonl(wild.parent / "work" / "metrics" / f"{cells[label]['figures']['metrics']}.jsonl")
    assert rows[-1]["step"] == 3
  assert cells["kd"]["arm"]["method"]["name"] == "kd" and cells["ce"]["arm"]["method"]["name"] == "ce"
  assert cells["kd"]["arm"]["teacher_data_policy"]["name"] == "shuffle"


class _Run:
  """As much of a run as a grid needs."""

  def __init__(self, workdir):
    self.workdir, self.said, self.stops = workdir, [], lambda: False
    self.log, self.told = self.said.append, []
    self.tell = lambda stage, flaw: self.told.append(flaw)


def test_a_grid_does_what_is_left_and_saves_after_every_cell(tmp_path):
  done, grid = [], Grid(_Run(tmp_path), "students", "cells.json")

  def one(name):
    saved = read_record(tmp_path / "stages" / "cells.json") if done else {}
    assert list(saved) == done  # those before are in the file already
    done.append(name)
    return {"value": name}

  grid.work(["a", "b"], one)
  other = Grid(_Run(tmp_path), "students", "cells.json")
  other.cells["c"] = {"begun": True, "value": "half"}
  other.work(["a", "b", "c", "d"], one)
  assert done == ["a", "b", "c", "d"]
  assert other.cells["c"] == {"value": "c"}
  assert read_record(tmp_path / "stages" / "cells.json") == other.cells


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_a_failed_cell(tmp_path, score):
  grid = Grid(_Run(tmp_path), "students", "cells.json")
  grid.work(["a", "b"], lambda name: {"scores": {"accuracy": [0.5, score if name == "a" else 0.5]}})
  assert grid.cells["a"] == {"failed": "a: accuracy is not finite; lower the learning rate of its training"}
  assert grid.cells["b"]["scores"] == {"accuracy": [0.5, 0.5]}


@pytest.mark.parametrize("content", ["[]", "7", "{}", '{"a": {"value": 1}}', '{"a"'])
def test_cells_that_were_changed_are_named_and_made_again(tmp_path, content):
  run = _Run(tmp_path)
  Grid(run, "students", "cells.json").work(["a"], lambda name: {"value": name})
  (tmp_path / "stages" / "cells.json").write_text(content)
  assert Grid(run, "students", "cells.json").cells == {}
  assert [flaw.path.name for flaw in run.told] == ["cells.json"]


def test_a_grid_lets_other_mistakes_through(tmp_path):
  def one(name):
    raise ZeroDivisionError(name)

  with pytest.raises(ZeroDivisionError):
    Grid(_Run(tmp_path), "students", "cells.json").work(["a"], one)
  assert not (tmp_path / "stages" / "cells.json").exists()


@pytest.mark.parametrize(
  ("override", "cells", "cure"),
  [
    ("full_lr=1e30", ["full_data"], "training diverges at a learning rate of 1e+30; lower eval.full_lr"),
    (
      "control_lrs=1e30,",
      ["random_hard", "random_soft", "initial"],
      "training diverges at every rate of eval.control_lrs=(1e+30,); add lower ones",
    ),
  ],
)
def test_a_network_of_an_evaluation_that_diverges_fails_its_cell(call, tmp_path, override, cells, cure):
  """In no mean and no verdict; the others go on."""
  result = call("--config=experiments/datm.py:tiny", f"--config.eval.{override}", f"--workdir={tmp_path / 'work'}")
  assert (result.code, result.out) == (1, "")
  summary = json.loads((tmp_path / "work" / "summary.json").read_text())
  assert summary["failed"] == cells
  for name, cell in summary["arms"].items():
    assert cell == {"failed": f"mlp/{name}: {cure}"} if name in cells else 0 <= cell["mean"] <= 1
  for name in cells:
    assert f"failed: {name}: mlp/{name}: {cure}\n" in result.err


def test_failures_with_any_network_count():
  lost = {"failed": "convnet/initial: lost"}
  summary = {"arms": {"a": {"mean": 1}, "b": {"failed": "b: x"}}}
  assert report.failures(summary) == {"b": "x"}
  summary["models"] = {"mlp": summary["arms"], "convnet": {"a": {"mean": 1}, "initial": lost}}
  assert report.failures(summary) == {"b": "x", "convnet/initial": "lost"}
