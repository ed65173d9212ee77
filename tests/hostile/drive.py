"""Tries one input in this process: output captured, a watchdog, and the files of before compared with those after."""

import contextlib
import io
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from jdistill.base import UserError
from tests.hostile.case import REPOSITORY, Action, Case
from tests.hostile.judge import Ended, Verdict, judge, limit
from tests.hostile.trees import tree


class _Hang(BaseException):
  """The watchdog's: no `except Exception` may swallow it."""


def drive(case: Case, root: Path) -> Verdict:
  """Tries an input in a fresh directory below `root`, which is removed afterwards."""
  place = Path(tempfile.mkdtemp(prefix="input-", dir=root))
  try:
    action = case.start(place)
    before = tree(place)
    with contextlib.chdir(place):
      ended = _call(action, limit(case))
    differences = case.differences(place) if ended.status == 0 and case.outcome != "refused" else []
    return judge(case, ended, before, tree(place), differences)
  finally:
    shutil.rmtree(place, ignore_errors=True)


def _call(action: Action, seconds: float) -> Ended:
  out, err, escaped, status = io.StringIO(), io.StringIO(), "", None
  before = signal.signal(signal.SIGALRM, _bark)
  signal.setitimer(signal.ITIMER_REAL, seconds)
  begin = time.monotonic()
  try:
    # a filter of its own for every input: else a warning is printed for the first of them alone
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
      status = action()
  except UserError as error:  # of calls from Python; the command prints it itself
    status = 1
    print(f"jdistill: {error}", file=err)
  except _Hang:
    escaped = "hang"
  except SystemExit as error:
    escaped = f"SystemExit({error.code})"
  except BaseException as error:  # of every kind: that one escapes is the finding
    escaped = _described(error)
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
  return Ended(status, out.getvalue(), err.getvalue(), escaped, time.monotonic() - begin)


def _bark(number, frame):
  del number, frame
  raise _Hang


def _described(error: BaseException) -> str:
  """An exception in one line, with the last place of this package that it passed."""
  frames = traceback.extract_tb(error.__traceback__)
  own = [frame for frame in frames if frame.filename.startswith(str(REPOSITORY / "jdistill"))]
  where = f" at {os.path.relpath(own[-1].filename, REPOSITORY)}:{own[-1].lineno}" if own else ""
  try:
    text = str(error)
  except Exception as second:
    text = f"(its text raises {type(second).__name__})"
  return f"{type(error).__name__}: {(text.splitlines() or [''])[0][:160]}{where}"


def bound_memory(gigabytes: float = 6.0) -> None:
  """An input that asks for far too much gets a MemoryError, and not this machine's last page."""
  if sys.platform == "linux":
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 1e9), hard))
