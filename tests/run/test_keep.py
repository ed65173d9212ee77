"""`keep="best"`: of the sets on the way of a distillation the one that networks learn most from is the result."""

import json

import numpy as np
import pytest

import jdistill
from experiments import dm
from jdistill import stages
from jdistill.files import read_npz
from jdistill.stages import validation

KEEP = ("--config.keep=best", "--config.steps=4", "--config.snapshot_every=2", "--config.eval.choose_lr=True")
DM = "--config=experiments/dm.py:tiny"


@pytest.fixture
def preferring(monkeypatch):
  """Lets networks learn most from the set of one step; gives how the run ended and the rates that were tried."""

  def carry_out(workdir, call, step):
    tried = []

    def accuracy(own, network, one, rate, *, seeds, mesh=None):
      at = read_npz(own.workdir / "sets" / f"{step:07d}.npz")["images"]
      if own.record_of("keep").exists():
        return 0.5  # stage evaluate asks, too
      tried.append(rate)
      return 0.9 if np.array_equal(one.images, at) else 0.3

    monkeypatch.setattr(validation, "accuracy", accuracy)
    ended = call(DM, *KEEP, f"--workdir={workdir}")
    assert ended.code == 0, ended.err
    return ended, tried

  return carry_out


@pytest.mark.parametrize("step", [0, 2, 4])
def test_the_best_set_is_kept_evaluated_and_exported(preferring, call, tmp_path, step):
  ended, tried = preferring(tmp_path / "work", call, step)
  assert f"the set of step {step} of 4 was kept" in ended.err
  wanted = read_npz(tmp_path / "work" / "sets" / f"{step:07d}.npz")
  loaded = jdistill.load(tmp_path / "work")
  np.testing.assert_array_equal(loaded.images, wanted["images"])
  assert loaded.learned_lr == pytest.approx(0.05)  # the rate at which it was best
  assert json.loads((tmp_path / "work" / "summary.json").read_text())["kept_step"] == step
  assert "## Kept set" in (tmp_path / "work" / "report.md").read_text()
  assert tried == pytest.approx([0.05] * len(tried)) and len(tried) <= 4  # one rate, and as learned


def test_what_is_gone_or_damaged_is_chosen_again(preferring, call, tmp_path):
  work = tmp_path / "work"
  preferring(work, call, 2)
  kept = (work / "stages" / "kept.npz").read_bytes()
  (work / "stages" / "kept.npz").write_bytes(kept[:100])
  ended, _ = preferring(work, call, 2)
  assert "kept.npz" in ended.err and (work / "stages" / "kept.npz").read_bytes() == kept


def test_a_run_whose_sets_are_real_prefers_what_trains_best(call, tmp_path):
  """Nothing is replaced here: the accuracies are those of networks."""
  ended = call(DM, *KEEP, f"--workdir={tmp_path / 'work'}")
  assert ended.code == 0, ended.err
  record = json.loads((tmp_path / "work" / "stages" / "keep.json").read_text())
  assert list(record["accuracies"]) == ["0", "2", "4"]
  assert record["accuracies"][str(record["step"])] == max(record["accuracies"].values())


@pytest.mark.parametrize(
  ("flags", "words"),
  [
    (["--config.keep=first"], "keep='first'"),
    (["--config.keep=best", "--config.stages=('distill','evaluate')"], "keep='best': is the work of the stage keep"),
    (["--config.stages=('keep',)"], "stages=('keep',): there is nothing to choose from with keep='last'"),
  ],
)
def test_what_does_not_go_together_is_one_line(call, tmp_path, flags, words):
  assert call(DM, *flags, f"--workdir={tmp_path / 'work'}").complaint.startswith(words)


def test_a_usual_run_has_no_such_stage():
  assert "keep" not in stages.resolve(dm.get_config("tiny"))["stages"]
