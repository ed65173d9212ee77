"""The command in a process of its own: uninterrupted, killed at a moment, or two of them side by side."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.hostile import settings
from tests.hostile.case import REPOSITORY

_SECONDS = 900.0  # after which a run that is not ended counts as hanging


class Ended(NamedTuple):
  """How a process ended: exit status (negative for a signal), standard error, seconds."""

  status: int
  err: str
  seconds: float


def start(experiment: str, root: Path, programs: Path) -> subprocess.Popen:
  """Starts an experiment's preset `tiny` in `root`, or goes on with it; programs are shared through `programs`."""
  return subprocess.Popen(
    [
      sys.executable,
      *("-m", "jdistill.run", f"--config=experiments/{experiment}.py:tiny"),
      *("--config.checkpoint_seconds=0", f"--workdir={root / 'work'}"),
    ],
    cwd=REPOSITORY,
    env=os.environ | settings.environment(programs) | {"PYTHONPATH": str(REPOSITORY)},
    stdin=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )


def wait(process: subprocess.Popen, begin: float) -> Ended:
  """Waits until a process has ended; one that hangs is killed, with status `-SIGKILL`."""
  try:
    err = process.communicate(timeout=_SECONDS)[1]
  except subprocess.TimeoutExpired:
    process.kill()
    err = process.communicate()[1] + f"\nstill running after {_SECONDS:.0f} s"
  return Ended(process.returncode, err, time.monotonic() - begin)


def finish(experiment: str, root: Path, programs: Path) -> Ended:
  """Runs the command to its end."""
  begin = time.monotonic()
  return wait(start(experiment, root, programs), begin)


def kill(experiment: str, root: Path, programs: Path, after: float, number: signal.Signals) -> Ended:
  """Starts the command and sends it a signal after so many seconds, if it is still running then."""
  begin = time.monotonic()
  process = start(experiment, root, programs)
  try:
    process.wait(timeout=after)
  except subprocess.TimeoutExpired:
    process.send_signal(number)
  return wait(process, begin)
