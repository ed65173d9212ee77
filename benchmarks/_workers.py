"""Two processes timed in turn: each does its step when told to, so that both meet the same state of the machine."""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def serve(step: Callable[[], None], baseline: int, **facts) -> None:
  """The worker's side: one step per line read, its seconds as the answer; at the end what it took.

  Args:
    step: does one step and waits for it.
    baseline: `peak_rss()` right after importing the framework.
    **facts: printed with the last answer.
  """
  out = sys.stdout
  print("ready", file=out, flush=True)
  for line in sys.stdin:
    if line.strip() == "stop":
      break
    begin = time.perf_counter()
    step()
    print(json.dumps(time.perf_counter() - begin), file=out, flush=True)
  print(json.dumps({"peak_bytes": peak_rss() - baseline, **facts}), file=out, flush=True)


def peak_rss() -> int:
  """Highest resident memory of this process so far, in bytes."""
  try:
    with open("/proc/self/status", encoding="ascii") as status:
      return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
  except OSError:
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


class Worker:
  """The parent's side of one worker."""

  def __init__(self, arguments: list[str], threads: int, folder: Path | None = None):
    folder = folder or Path.cwd()
    env = os.environ | {
      "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]),
      "OMP_NUM_THREADS": str(threads),
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }
    self._process = subprocess.Popen(
      [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=folder
    )
    self.seconds: list[float] = []
    self._ready = False

  def _answer(self) -> str:
    line = self._process.stdout.readline()
    if not line:
      raise SystemExit(f"a worker ended early with status {self._process.wait()}")
    return line.strip()

  def wait(self) -> None:
    """Until it is set up; at once where it is known to be."""
    while not self._ready:
      self._ready = self._answer() == "ready"

  def step(self, keep: bool = True) -> float:
    """One step; its seconds."""
    print("go", file=self._process.stdin, flush=True)
    seconds = float(json.loads(self._answer()))
    if keep:
      self.seconds.append(seconds)
    return seconds

  def stop(self) -> dict:
    """Ends it; what it took."""
    print("stop", file=self._process.stdin, flush=True)
    facts = json.loads(self._answer())
    self._process.wait()
    return facts

  @property
  def median(self) -> float:
    return statistics.median(self.seconds)


def interleave(workers: list[Worker], repeats: int) -> None:
  """One step each that is not counted, then `repeats` rounds of one step each in turn."""
  for worker in workers:
    worker.wait()
    worker.step(keep=False)
  for _ in range(repeats):
    for worker in workers:
      worker.step()
