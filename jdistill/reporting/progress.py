"""One line that says how far a stage is, how fast it goes and when it will be done."""

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import numpy as np

_TTY_INTERVAL, _LOG_INTERVAL = 0.1, 5.0  # seconds between lines
_SHOWN = 3  # metrics a line has room for


def duration(seconds: float) -> str:
  """Says a duration as a clock would: `26 -> "0:26"`, `3723 -> "1:02:03"`, `90000 -> "1d 01:00:00"`."""
  minutes, second = divmod(max(0, round(seconds)), 60)
  hours, minute = divmod(minutes, 60)
  days, hour = divmod(hours, 24)
  if days:
    return f"{days}d {hour:02d}:{minute:02d}:{second:02d}"
  return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def _value(value: Any) -> str:
  return f"{float(np.asarray(value).item()):#.4g}".rstrip(".")


class Progress:
  """A progress line, rewritten in place on a terminal and printed now and then elsewhere.

  `distill 120/600 loss 0.8312 18.4 steps/s ETA 0:26`. The speed is the average since the first update, so the time that
  compilation takes before it spoils neither speed nor ETA; the last line says how long it took since construction
  instead (`in 0:33`). Metric values are only looked at when a line is printed: updates in between never wait for a
  device.
  """

  def __init__(
    self,
    stage: str,
    total: int,
    *,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Prints nothing yet.

    Args:
      stage: the first word of the line.
      total: the step at which the stage is done.
      stream: where to print; standard error when `None`.
      clock: seconds, from any start.
    """
    self._stage, self._total, self._clock = stage, total, clock
    self._stream = sys.stderr if stream is None else stream
    self._tty = self._stream.isatty()
    self._interval = _TTY_INTERVAL if self._tty else _LOG_INTERVAL
    self._first: tuple[float, int] | None = None  # time and step of the first update
    self._latest: tuple[float, int, Mapping[str, Any]] | None = None
    self._printed: tuple[float, int] | None = None  # time and step of the last line
    self._width = 0
    self._closed = False
    self._start = clock()

  def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
    """Notes that `step` steps are done; prints if enough time has passed since the last line.

    Args:
      step: steps done so far, of `total`.
      metrics: scalars by name; the first three are shown.
    """
    now = self._clock()
    self._latest = (now, step, {} if metrics is None else metrics)
    if self._first is None:
      self._first = (now, step)
    if self._printed is None or now - self._printed[0] >= self._interval:
      self._print()

  def close(self) -> None:
    """Prints the last update if that was not shown yet, and ends the line; a second call does nothing."""
    if self._closed:
      return
    self._closed = True
    if self._latest is not None and (self._printed is None or self._printed[1] != self._latest[1]):
      self._print()
    if self._tty and self._printed is not None:
      self._stream.write("\n")
      self._stream.flush()

  def _line(self) -> str:
    now, step, metrics = self._latest
    words = [f"{self._stage} {step}/{self._total}"]
    words += [f"{name} {_value(value)}" for name, value in list(metrics.items())[:_SHOWN]]
    elapsed, done = now - self._first[0], step - self._first[1]
    if elapsed > 0 and done > 0:
      rate = done / elapsed
      words.append(f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / rate:.1f} s/step")
      if step < self._total:
        words.append(f"ETA {duration((self._total - step) / rate)}")
    if step >= self._total:
      words.append(f"in {duration(now - self._start)}")
    return " ".join(words)

  def _print(self) -> None:
    line = self._line()
    if self._tty:
      line = line[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be rewritten
      self._stream.write("\r" + line.ljust(self._width))
      self._width = len(line)
    else:
      self._stream.write(line + "\n")
    self._stream.flush()
    self._printed = self._latest[:2]
