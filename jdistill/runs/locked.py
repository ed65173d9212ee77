"""One process at a time: directories that a run holds while it writes into them."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jdistill.base import UserError
from jdistill.files import LOCK, Held, Lock, is_leftover, remove_leftovers, take
from jdistill.runs.workdir import Interrupted, WorkDirectory, on_first

_POLL_SECONDS = 0.5


def writable(flag: str, path: Path, write: Callable[[], Any]) -> Any:
  """What `write` gives; a directory in which it cannot write is refused by the name of its flag."""
  try:
    return write()
  except OSError as error:
    raise UserError(f"{flag}={path}: cannot be written ({error.strerror}); choose another {flag}") from error


def is_new(workdir: Path) -> bool:
  """Whether nobody has used a work directory, but for somebody who locked it or was killed at the very beginning."""
  return not workdir.exists() or all(path.name == LOCK or is_leftover(path.name) for path in workdir.iterdir())


@contextlib.contextmanager
def directory(workdir: Path) -> Iterator[None]:
  """Keeps other processes out of a work directory.

  Raises:
    UserError: another process is at work in it, or it cannot be written.
  """
  with _released(lambda: _take(workdir)):
    yield


def _take(path: Path) -> Lock:
  try:
    return writable("--workdir", path, lambda: take(path))
  except Held as error:
    raise UserError(
      f"--workdir={path}: {error} is at work there; wait until it has ended, or choose another --workdir"
    ) from error


@contextlib.contextmanager
def artefact(run: WorkDirectory, path: Path) -> Iterator[None]:
  """Keeps other runs from making an artefact while this one does; waits for one that is at it."""
  with _released(lambda: wait_for(run, path)):
    yield


@contextlib.contextmanager
def _released(acquire: Callable[[], Lock]) -> Iterator[None]:
  """Process 0 has the lock for all that act together."""
  locks: list[Lock] = []
  on_first(lambda: locks.append(acquire()))
  try:
    yield
  finally:
    for lock in locks:
      lock.release()


def wait_for(run: WorkDirectory, path: Path) -> Lock:
  """The lock of a directory of artefacts, as soon as no other run has it.

  Raises:
    UserError: it cannot be written.
    Interrupted: the user asked to stop meanwhile.
  """
  told = False
  while True:
    try:
      lock = writable("--artefacts", path, lambda: take(path))
      remove_leftovers(path)
      return lock
    except Held as error:
      if not told:
        run.log(f"{path}: {error} is making this artefact for another run; waiting for it")
      told = True
    if run.stops():
      raise Interrupted(f"stopped while another run made {path}")
    time.sleep(_POLL_SECONDS)
