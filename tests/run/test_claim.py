"""Whose a work directory is: one process at a time, one set of data; and places that cannot be written."""

import json
import os
import shutil
import socket
import threading
import types

import numpy as np
import pytest

from jdistill import data
from jdistill.files import take
from jdistill.jobs import train
from jdistill.runs import claim, locked
from jdistill.teachers import ExpertBuffer

TINY = "--config=experiments/datm.py:tiny"
ME = f"process {os.getpid()} on {socket.gethostname()}"


def test_a_second_process_is_refused_by_name_and_touches_nothing(call, copy):
  work = copy / "work"
  lock = take(work)
  before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
  assert call(TINY, f"--workdir={work}").complaint == (
    f"--workdir={work}: {ME} is at work there; wait until it has ended, or choose another --workdir"
  )
  assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
  lock.release()
  assert call(TINY, f"--workdir={work}").code == 0
  assert not (work / ".lock").exists()


def test_a_sweep_has_its_directory_for_itself(call, tmp_path):
  lock = take(tmp_path / "work")
  complaint = call("--config=experiments/datm_difficulty.py:tiny", f"--workdir={tmp_path / 'work'}").complaint
  assert f"{ME} is at work there" in complaint
  assert [path.name for path in (tmp_path / "work").iterdir()] == [".lock"]
  lock.release()


def test_a_killed_run_left_its_lock(call, copy):
  (copy / "work" / ".lock").write_text("process 999999999 on elsewhere\n")
  assert call(TINY, f"--workdir={copy / 'work'}").code == 0


def test_a_run_waits_for_another_that_makes_the_same_teachers(call, copy, monkeypatch):
  """And then takes them."""
  monkeypatch.setattr(locked, "_POLL_SECONDS", 0.01)
  (trajectories,) = (copy / "artefacts" / "trajectories").iterdir()
  there = copy / "elsewhere"
  shutil.move(trajectories, there)
  lock = take(trajectories)
  warned, log = threading.Event(), locked.WorkDirectory.log

  def heard(self, line):
    log(self, line)
    if "waiting for it" in line:
      warned.set()

  def other():
    assert warned.wait(60)
    for path in there.iterdir():
      shutil.move(path, trajectories / path.name)
    lock.release()

  monkeypatch.setattr(locked.WorkDirectory, "log", heard)
  monkeypatch.setattr(ExpertBuffer, "add", lambda *args: pytest.fail("a trajectory was recorded twice"))
  thread = threading.Thread(target=other)
  thread.start()
  result = call(TINY, "--config.stages=teachers", f"--workdir={copy / 'second'}")
  thread.join()
  assert result.code == 0, result.err
  assert f"{trajectories}: {ME} is making this artefact for another run; waiting for it\n" in result.err
  assert "2 trajectories (0 new" in result.err


# -- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--workdir", "--artefacts"])
@pytest.mark.parametrize(("place", "reason"), [("file/x", "Not a directory"), ("/proc/x", "No such file or directory")])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(call, tmp_path, flag, place, reason):
  (tmp_path / "file").write_text("precious")
  flags = {"--workdir": tmp_path / "work", "--artefacts": tmp_path / "artefacts"} | {flag: tmp_path / place}
  complaint = call(TINY, *(f"{name}={path}" for name, path in flags.items())).complaint
  assert complaint == f"{flag}={tmp_path / place}: cannot be written ({reason}); choose another {flag}"
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_artefacts_that_cannot_be_written_are_refused_before_a_teacher_is_trained(call, copy, monkeypatch):
  """Those that are there may be only for reading; a missing one is not trained for nothing."""

  def forbidden(directory):
    if directory.is_relative_to(copy / "artefacts"):
      raise PermissionError(13, "Permission denied")
    return take(directory)

  monkeypatch.setattr(locked, "take", forbidden)
  assert call(TINY, "--config.stages=teachers", f"--workdir={copy / 'second'}").code == 0
  monkeypatch.setattr(train, "run", lambda *args, **options: pytest.fail("a teacher was trained"))
  result = call(TINY, "--config.stages=teachers", "--config.seed=1", f"--workdir={copy / 'third'}")
  assert result.code == 1 and "teachers" not in result.err.splitlines()[0]
  assert result.err.splitlines()[-1].startswith("jdistill: --artefacts=")
  assert "cannot be written (Permission denied); choose another --artefacts" in result.err


# -- data -------------------------------------------------------------------------------------------------------------


def _write_set(path, seed=0):
  digits = data.load("digits", train_size=100, test_size=50)
  arrays = {"train_images": digits.train_x, "train_labels": digits.train_y}
  arrays |= {"test_images": np.roll(digits.test_x, seed, axis=0), "test_labels": np.roll(digits.test_y, seed)}
  np.savez(path, **arrays)


@pytest.mark.parametrize("finished", [True, False])
def test_data_that_changed_are_refused_by_name(call, tmp_path, finished):
  """By a finished run, which would print figures of other data, and by one that would go on with them."""
  path, work = tmp_path / "set.npz", tmp_path / "work"
  _write_set(path)
  command = [TINY, f"--config.dataset={path}", "--config.train_size=None", "--config.test_size=None"]
  command += [f"--config.stages={'teachers' if finished else 'teachers,distill'}", f"--workdir={work}"]
  assert call(*command).code == 0
  if not finished:
    (work / "stages" / "distill.json").unlink()
  before = path.read_bytes()
  (there,) = json.loads((work / "claim.json").read_text())["data"].values()
  _write_set(path, seed=1)
  complaint = call(*command).complaint
  words = (
    f"dataset={str(path)!r}: its content has changed since --workdir={work} began (fingerprint {there[:12]} there, "
  )
  assert complaint.startswith(words)
  assert complaint.endswith(" now); put the former data back, or choose another --workdir")
  path.write_bytes(before)
  assert call(*command).code == 0


def test_runs_that_begin_together_do_not_refuse_each_other_over_new_artefacts(tmp_path):
  """Each looks whether it could write there, for which it takes the lock for a moment."""
  together, failed = threading.Barrier(4), []

  def look():
    try:
      for number in range(100):
        run = types.SimpleNamespace(config={"teachers": {}}, artefacts=tmp_path / str(number) / "new")
        together.wait()
        claim.check_artefacts(run)
    except Exception as error:
      failed.append(error)
      together.abort()

  threads = [threading.Thread(target=look) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not [error for error in failed if not isinstance(error, threading.BrokenBarrierError)]
