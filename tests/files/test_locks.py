"""One process at a time in a directory, whatever became of the one before."""

import errno
import os
import signal
import socket
import subprocess
import sys

import pytest

from jdistill.files import locks

TAKE = """
import sys, time
from jdistill.files import take
lock = take(sys.argv[1])
print("taken", flush=True)
time.sleep(60)
"""


@pytest.fixture(params=["flock", "files alone", "a filesystem without"])
def way(request, monkeypatch):
  """How the lock is kept: with the operating system's locks, or without."""
  if request.param == "files alone":
    monkeypatch.setattr(locks, "fcntl", None)
  if request.param == "a filesystem without":
    monkeypatch.setattr(locks.fcntl, "flock", lambda *args: (_ for _ in ()).throw(OSError(errno.ENOTSUP, "no")))
  return request.param


def test_the_second_learns_who_the_first_is(tmp_path, way):
  lock = locks.take(tmp_path)
  holder = f"process {os.getpid()} on {socket.gethostname()}"
  assert (tmp_path / ".lock").read_text() == f"{holder}\n"
  with pytest.raises(locks.Held, match=f"^{holder}"):
    locks.take(tmp_path)
  assert (tmp_path / ".lock").read_text() == f"{holder}\n"
  lock.release()
  assert not list(tmp_path.iterdir())
  locks.take(tmp_path).release()


def test_directories_that_were_made_for_nothing_go_again(tmp_path):
  locks.take(tmp_path / "a" / "b").release()
  assert not list(tmp_path.iterdir())
  lock = locks.take(tmp_path / "a" / "b")
  (tmp_path / "a" / "kept").touch()
  lock.release()
  assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, way):
  gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
  (tmp_path / ".lock").write_text(f"process {gone.stdout.strip()} on {socket.gethostname()}\n")
  lock = locks.take(tmp_path)
  assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
  lock.release()


def test_without_locks_of_the_system_another_host_may_still_be_at_it(tmp_path, monkeypatch):
  monkeypatch.setattr(locks, "fcntl", None)
  for holder in ("process 7 on elsewhere", ""):
    (tmp_path / ".lock").write_text(holder)
    with pytest.raises(locks.Held, match=rf"^{holder or 'another process'} \(if it is gone, delete .*\.lock\)$"):
      locks.take(tmp_path)


def test_a_killed_process_gives_the_lock_back(tmp_path):
  with subprocess.Popen([sys.executable, "-c", TAKE, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
    try:
      assert other.stdout.readline() == "taken\n"
      with pytest.raises(locks.Held, match=f"^process {other.pid} on "):
        locks.take(tmp_path)
    finally:
      os.kill(other.pid, signal.SIGKILL)
  assert (tmp_path / ".lock").exists()
  locks.take(tmp_path).release()


def test_whoever_opened_the_file_before_its_end_opens_it_again(tmp_path, monkeypatch):
  """Between its opening and its lock another process gives up, with the file."""
  first, flock, calls = locks.take(tmp_path), locks.fcntl.flock, []

  def late(descriptor, how):
    if not calls:
      calls.append(first.release())
    flock(descriptor, how)

  monkeypatch.setattr(locks.fcntl, "flock", late)
  second = locks.take(tmp_path)
  with pytest.raises(locks.Held):
    locks.take(tmp_path)
  second.release()
