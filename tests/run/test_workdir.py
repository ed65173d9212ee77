"""Work directories: what belongs to another run or is damaged is refused, and the cure that is named works."""

import errno
import io
import json
import os
import re
import shutil
import sys

import numpy as np
import pytest

import jdistill.run
from experiments import datm
from jdistill.base import UserError
from jdistill.files import read_record, sha256_file, write_record
from jdistill.reporting import read_jsonl
from jdistill.runs import locked

TINY = "--config=experiments/datm.py:tiny"


@pytest.fixture
def again(call, copy):
  """`(*arguments)` runs the finished run's command on its copy."""
  return lambda *arguments: call(TINY, f"--workdir={copy / 'work'}", *arguments)


@pytest.fixture
def same(done, copy):
  """Asserts that the copy ends like the run it was copied from."""

  def check():
    for name in ("result/distilled.npz", "stages/evaluations.json"):
      assert (copy / "work" / name).read_bytes() == (done / "work" / name).read_bytes()

  return check


def test_the_directory_of_another_configuration_names_the_differing_keys(again, same):
  complaint = again("--config.ipc=2", "--config.method.image_lr=3").complaint
  assert "belongs to another configuration" in complaint
  assert "ipc=1 (there) != 2 (now)" in complaint
  assert "method.image_lr=1.0 (there) != 3.0 (now)" in complaint
  assert "choose another --workdir" in complaint
  same()


def test_many_differing_keys_are_counted(again):
  keys = ("seed", "ipc", "steps", "log_every", "snapshot_every")
  complaint = again(*(f"--config.{key}=7" for key in keys)).complaint
  assert complaint.count("(there)") == 3
  assert "and 2 more" in complaint


def test_a_directory_of_other_things_is_refused_and_left_alone(call, tmp_path):
  (tmp_path / "thesis.tex").write_text("precious")
  assert "is not empty and not a work directory" in call(TINY, f"--workdir={tmp_path}").complaint
  assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("thesis.tex", "precious")]


def test_a_file_is_no_work_directory(call, tmp_path):
  (tmp_path / "file").write_text("precious")
  assert "is a file" in call(TINY, f"--workdir={tmp_path / 'file'}").complaint
  assert "file" in call(TINY, f"--workdir={tmp_path / 'file' / 'below'}").complaint
  assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("content", ["{", "[]", '{"seed": 5}'])
def test_a_damaged_configuration_is_taken_from_the_other_copy(again, copy, content):
  """A finished run shows its report, and another configuration is still another."""
  path, claim = copy / "work" / "config.json", copy / "work" / "claim.json"
  before = path.read_bytes()
  path.write_text(content)
  assert "ipc=1 (there) != 2 (now)" in again("--config.ipc=2").complaint
  assert again().code == 0
  assert path.read_bytes() == before
  claim.write_text(content)
  assert "ipc=1 (there) != 2 (now)" in again("--config.ipc=2").complaint
  path.write_text("[]")
  assert again().complaint == (
    f"{path} and {claim} are damaged, so nothing tells whose --workdir={copy / 'work'} is; choose another, or put one "
    "of them back"
  )
  path.write_bytes(before)
  assert again().code == 0 and json.loads(claim.read_text())["config"] == json.loads(before)


def test_a_refused_command_claims_no_directory(call, tmp_path):
  work = f"--workdir={tmp_path / 'work'}"
  assert "ipc=21" in call(TINY, work, "--config.ipc=21").complaint
  assert not (tmp_path / "work").exists()  # so the corrected command is not "another configuration"


def test_a_run_killed_at_the_very_beginning_can_go_on(tmp_path):
  (tmp_path / ".lock").write_text("process 999999999 on elsewhere")
  (tmp_path / ".claim.json.0123abcd.tmp").write_text("{")
  assert locked.is_new(tmp_path)
  (tmp_path / "notes.tmp").touch()
  assert not locked.is_new(tmp_path)


def _interrupt_after_distill(root):
  """Turns the copy of a finished run into one that was killed before its distillation was marked as done."""
  for name in ("distill.json", "distilled.npz", "evaluate.json", "evaluations.json", "export.json", "report.json"):
    (root / "work" / "stages" / name).unlink()
  shutil.rmtree(root / "work" / "result")


def _payload(checkpoint):
  """The largest file of a checkpoint: its arrays."""
  return max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_a_damaged_checkpoint_is_told_and_does_without(again, copy, flip, same):
  _interrupt_after_distill(copy)
  checkpoints = copy / "work" / "checkpoints"
  flip(_payload(checkpoints / "2"))
  result = again()
  assert (result.code, result.out) == (0, "")
  assert f"checkpoint {checkpoints / '2'} is damaged" in result.err
  same()


def test_the_checkpoint_of_another_run_is_refused(again, call, copy, same, tmp_path):
  other = tmp_path / "other"
  assert call(TINY, "--config.seed=1", "--config.stages=teachers,distill", f"--workdir={other}").code == 0
  _interrupt_after_distill(copy)
  shutil.rmtree(copy / "work" / "checkpoints")
  shutil.copytree(other / "checkpoints", copy / "work" / "checkpoints")
  result = again()
  assert result.code == 1
  assert "belongs to another configuration" in result.err.splitlines()[-1]
  shutil.rmtree(copy / "work" / "checkpoints")
  assert again().code == 0
  same()


def test_a_damaged_expert_is_recorded_anew(again, copy, flip, same):
  """Also where nothing but the report was left to do; the others stay."""
  file, other = (next((copy / "artefacts").rglob(f"expert_000{index}.npy")) for index in (1, 0))
  whole, time = file.read_bytes(), other.stat().st_mtime_ns
  flip(file)
  result = again()
  assert (result.code, result.out) == (0, "")
  assert result.err.count(f"teachers: {file} is missing or damaged; it is made again") == 1
  assert (file.read_bytes(), other.stat().st_mtime_ns) == (whole, time)
  assert not list((copy / "artefacts").rglob(".lock"))
  same()


def test_an_expert_buffer_of_another_recipe_is_refused(again, copy):
  _interrupt_after_distill(copy)
  (manifest,) = (copy / "artefacts").rglob("manifest.json")
  content = read_record(manifest)
  content["identity"]["seed"] = 5
  write_record(manifest, content)
  result = again()
  assert result.code == 1
  assert "identity is not that of this run" in result.err.splitlines()[-1]


def test_trajectories_deleted_before_the_evaluation_are_recorded_again(again, copy, same):
  for name in ("evaluate.json", "evaluations.json"):
    (copy / "work" / "stages" / name).unlink()
  shutil.rmtree(copy / "artefacts")
  assert again().code == 0
  same()


@pytest.mark.parametrize("name", ["distilled.npz", "README.md"])
def test_a_damaged_artefact_is_refused_and_written_anew(again, copy, flip, same, name):
  file = copy / "work" / "result" / name
  before = sha256_file(file)
  flip(file)
  result = again()
  assert result.code == 1
  complaint = result.err.splitlines()[-1]
  assert complaint.startswith(f"jdistill: {file} is damaged or was edited")
  assert f"delete {file.parent}" in complaint
  if name == "distilled.npz":
    with pytest.raises(UserError, match="damaged"):
      jdistill.load(copy / "work")
  shutil.rmtree(file.parent)
  assert again().code == 0
  assert sha256_file(file) == before
  same()


def _change_a_digit(path):
  """Of a JSON record; it stays valid JSON."""
  text = path.read_text()
  at = max(match.start() for match in re.finditer(r"[0-9](?=[,\n])", text))
  path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])


def test_damaged_files_of_stages_are_named_and_made_anew(again, copy, flip, same):
  """Each by itself, by a flipped bit, a changed digit, or another content that is valid JSON."""
  stages = copy / "work" / "stages"
  before = {name: (stages / name).read_bytes() for name in ("distilled.npz", "initial.npz", "evaluations.json")}

  def change(name, damage):
    damage(stages / name)
    result = again()
    assert (result.code, result.out) == (0, ""), (name, result)
    assert re.search(rf"\w+: {re.escape(str(stages / name))} is .*; it is made again\n", result.err), (name, result.err)
    for kept, content in before.items():
      assert (stages / kept).read_bytes() == content, (name, kept)

  for name in before:
    change(name, _change_a_digit if name.endswith(".json") else flip)
  change("distilled.npz", lambda path: path.unlink())
  for name in ("distill.json", "evaluate.json", "export.json", "teachers.json"):
    change(name, _change_a_digit)
  for name, content in (("distill.json", "[]"), ("export.json", "{")):
    change(name, lambda path, content=content: path.write_text(content))
  same()


def test_what_was_made_of_another_file_is_made_again(again, copy, same):
  stages = copy / "work" / "stages"
  record = read_record(stages / "evaluate.json")
  record["inputs"]["stages/distilled.npz"] = "0" * 64
  write_record(stages / "evaluate.json", record)
  cells = read_record(stages / "evaluations.json")
  cells["mlp/distilled"]["scores"]["accuracy"] = [1.0, 1.0]
  write_record(stages / "evaluations.json", cells)
  record["files"] = {"stages/evaluations.json": sha256_file(stages / "evaluations.json")}
  write_record(stages / "evaluate.json", record)
  result = again()
  assert (
    f"evaluate: {stages / 'distilled.npz'} is not the one that the stage was made of; it is made again" in result.err
  )
  same()


@pytest.mark.parametrize("damage", [lambda text: text[: len(text) // 2], lambda text: text.replace("0.", "1.", 1)])
def test_changed_metrics_of_a_finished_stage_are_refused_until_they_are_away(again, copy, damage):
  path = copy / "work" / "metrics.jsonl"
  path.write_text(damage(path.read_text()))
  result = again()
  assert result.code == 1
  assert result.err.splitlines()[-1].startswith(f"jdistill: {path} is damaged or was edited")
  assert "delete it and run the same command again" in result.err
  path.unlink()
  result = again()
  assert result.code == 0 and f"{path} is missing: the report comes without its curves" in result.err


def test_the_whitening_of_another_day_is_fitted_again_where_it_is_damaged(copy, flip):
  config = datm.get_config("tiny")
  config.preprocessing = "zca"
  one = jdistill.run.make_run(config, copy / "zca", copy / "artefacts", io.StringIO())
  pixels = np.random.default_rng(0).random((20, 4, 4, 1), np.float32)
  first = one.fit("zca", pixels)
  (path,) = (copy / "artefacts" / "zca").iterdir()
  whole = path.read_bytes()
  flip(path)
  np.testing.assert_array_equal(one.fit("zca", pixels).vectors, first.vectors)
  assert path.read_bytes() == whole and f"{path} is damaged; it is made again" in one.stream.getvalue()


def test_a_full_disk_stops_with_one_line_and_loses_nothing(call, done, tmp_path, monkeypatch):
  """Every file is written under a temporary name and then renamed: there the disk is full, ever later in the run."""
  work, replace, names = tmp_path / "work", os.replace, []

  def full(source, target):
    if os.path.basename(target) == names[-1]:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    replace(source, target)

  monkeypatch.setattr(os, "replace", full)
  for name in (
    "config.json",
    "expert_0001.npy",
    "initial.npz",
    "2.json",
    "evaluations.json",
    "README.md",
    "match_loss.png",
  ):
    names.append(name)
    result = call(TINY, f"--workdir={work}")
    assert (result.code, result.out) == (1, "")
    assert "Traceback" not in result.err
    complaint = result.err.splitlines()[-1]
    assert complaint.startswith("jdistill: ")
    for word in (name, "no space left", "run the same command again"):
      assert word in complaint
    assert not list(tmp_path.rglob("*.tmp"))
  names.append("")
  assert call(TINY, f"--workdir={work}").code == 0
  assert (work / "result" / "distilled.npz").read_bytes() == (done / "work" / "result" / "distilled.npz").read_bytes()


def test_a_disk_too_full_for_a_checkpoint_is_known_beforehand(again, copy, monkeypatch, same):
  _interrupt_after_distill(copy)
  shutil.rmtree(copy / "work" / "checkpoints")
  with monkeypatch.context() as patch:
    patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 100, 100))
    result = again()
  assert result.code == 1
  complaint = result.err.splitlines()[-1]
  assert f"jdistill: {copy / 'work' / 'checkpoints'}" in complaint
  assert "100 B free" in complaint
  assert again().code == 0
  same()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(call, tmp_path):
  work = tmp_path / "work"
  wild = [
    "--config.method.image_lr=1e30",
    "--config.steps=20",
    "--config.checkpoint_seconds=0",
    f"--workdir={work}",
  ]
  result = call(TINY, *wild)
  assert (result.code, result.out) == (1, "")
  assert "Traceback" not in result.err
  complaint = result.err.splitlines()[-1]
  assert complaint.startswith("jdistill: ")
  step = int(complaint.split("step ")[1].split(":")[0])
  assert 1 <= step < 20
  assert re.search(
    r"(match/loss|gradient/\w+|synthetic/lr|the updated state) is not finite; the last good state is saved",
    complaint,
  )
  assert complaint.startswith("jdistill: distill: step ") and "; lower method.image_lr or method." in complaint
  saved = sorted(int(path.stem) for path in (work / "checkpoints").glob("*.json"))
  assert saved[-1] == step
  losses = [row["match/loss"] for row in read_jsonl(work / "metrics.jsonl", "distill")]
  assert len(losses) == step
  assert np.isfinite(losses).all()
  assert not (work / "stages" / "distill.json").exists()
  assert not (work / "result").exists()
  again = call(TINY, *wild)  # it goes on from the good state, to the same end
  assert again.code == 1
  assert again.err.splitlines()[-1] == complaint


def test_an_interrupt_inside_a_destructor_is_told_to_nobody(tmp_path, monkeypatch):
  """Python can raise nothing there, and would print a traceback; other mistakes are told as ever."""
  told = []
  monkeypatch.setattr(sys, "unraisablehook", lambda lost: told.append(lost.exc_type))
  run = jdistill.run.make_run(datm.get_config("tiny"), tmp_path / "work", stream=io.StringIO())

  class Falls:
    def __init__(self, error):
      self.error = error

    def __del__(self):
      raise self.error

  with run.catch_signals():
    Falls(KeyboardInterrupt())
    Falls(ValueError())
  Falls(KeyboardInterrupt())
  assert told == [ValueError, KeyboardInterrupt]
