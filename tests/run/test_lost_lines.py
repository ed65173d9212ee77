"""Metrics of a run that is not finished: lines from before its checkpoint that were lost or changed are found."""

import io

import pytest

from jdistill.base import UserError
from jdistill.files import read_json
from jdistill.run import load_experiment, make_run
from jdistill.stages import Interrupted, run_stages

STEPS = 4


class _Stopping(io.StringIO):
  """A log that asks its run to stop when a line begins with certain words."""

  def __init__(self, words):
    super().__init__()
    self.words, self.run = words, None

  def write(self, text):
    self.run.stop_requested = self.run.stop_requested or text.startswith(self.words)
    return super().write(text)


def _run(workdir, stop_at="never"):
  """`dm.py:tiny` with a checkpoint after every step; stops at a line of its log."""
  config, log = load_experiment("experiments/dm.py:tiny"), _Stopping(stop_at)
  config.steps, config.log_every, config.checkpoint_seconds = STEPS, 1, 0.0
  config.stages = ("distill",)
  log.run = make_run(config, workdir, stream=log)
  run_stages(log.run)


@pytest.fixture
def interrupted(tmp_path):
  with pytest.raises(Interrupted):
    _run(tmp_path / "work", stop_at="distill 1/")
  return tmp_path / "work"


def test_whole_lines_go_on(interrupted):
  _run(interrupted)
  assert read_json(interrupted / "stages" / "distill.json")["steps"] == STEPS


@pytest.mark.parametrize("damage", ["emptied", "a digit", "deleted"])
def test_lost_lines_are_refused_by_name(interrupted, damage):
  path = interrupted / "metrics.jsonl"
  text = path.read_text()
  if damage == "deleted":
    path.unlink()
  else:
    path.write_text("" if damage == "emptied" else text.replace('"step": 1', '"step":  1', 1))
  before = path.read_text() if path.exists() else None
  with pytest.raises(UserError, match=r"metrics\.jsonl is damaged or lost lines of before step \d+: put it back"):
    _run(interrupted)
  assert (path.read_text() if path.exists() else None) == before
  path.write_text(text)  # put back as it was
  _run(interrupted)
