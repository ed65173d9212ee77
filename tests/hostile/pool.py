"""Processes that try many inputs each; one that does not answer is ended and replaced."""

import contextlib
import importlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from pathlib import Path

from jdistill.training import parallel
from tests.hostile import catalog, drive, settings
from tests.hostile.judge import TO_THE_END, Verdict

_GRACE = 25.0  # beyond what the watchdog inside allows: code that is not Python's cannot be interrupted from inside
_MOST_GIGABYTES = 2.5


def serve(pipe: connection.Connection, root: str) -> None:
  """A worker: receives names, answers with verdicts."""
  drive.bound_memory()
  parallel.use_cores()  # as a command does, before an input that uses a device leaves the next runs with one alone
  importlib.import_module("matplotlib.pyplot")  # an import that the watchdog interrupts leaves half a module behind
  known = catalog.every(Path(root) / "prepared")
  pipe.send(None)  # ready
  while (name := pipe.recv()) is not None:
    pipe.send(drive.drive(known[name], Path(root)))
    settings.drop_programs_above(_MOST_GIGABYTES)


class _Worker:
  def __init__(self, root: Path):
    context = multiprocessing.get_context("spawn")
    self.pipe, other = context.Pipe()
    self.process = context.Process(target=serve, args=(other, str(root)), daemon=True)
    self.process.start()
    other.close()
    self.name, self.since = "", time.monotonic()

  def give(self, name: str | None) -> None:
    self.name, self.since = name or "", time.monotonic()
    with contextlib.suppress(BrokenPipeError):
      self.pipe.send(name)

  def lost(self, why: str) -> Verdict:
    """The verdict on the input that a worker was lost with."""
    self.process.kill()
    self.process.join()
    kind = self.name.partition("/")[0]
    return Verdict(self.name, kind, "violation", (why,), "", time.monotonic() - self.since)


def verdicts(names: Sequence[str], root: Path, workers: int, told: Callable[[Verdict], None]) -> Iterator[Verdict]:
  """Tries inputs in several processes; `told` hears of each as it ends."""
  waiting = list(reversed(names))
  pool = [_Worker(root) for _ in range(max(1, min(workers, len(waiting))))]
  while pool:
    ready = connection.wait([worker.pipe for worker in pool], timeout=1.0)
    for worker in list(pool):
      found = None
      if worker.pipe in ready:
        try:
          found = worker.pipe.recv()
        except EOFError:
          worker.process.join()
          found = worker.lost(f"killed the process: exit status {worker.process.exitcode}")
      elif worker.name and time.monotonic() - worker.since > TO_THE_END + _GRACE:
        found = worker.lost(f"hang: {TO_THE_END + _GRACE:.0f} s, not to be interrupted")
      else:
        continue
      if found is not None:
        told(found)
        yield found
        if any(line.startswith("hang") for line in found.violations) and worker.process.is_alive():
          worker.process.kill()  # whatever was interrupted may be half done
          worker.process.join()
      if not worker.process.is_alive():
        pool.remove(worker)
        if waiting:
          pool.append(_Worker(root))
      elif waiting:
        worker.give(waiting.pop())
      else:
        worker.give(None)
        worker.process.join()
        pool.remove(worker)


def cores() -> int:
  """How many processors this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
