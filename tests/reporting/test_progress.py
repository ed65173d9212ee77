"""The progress line, with a clock of our own."""

import io
import os
import shutil

import numpy as np
import pytest

from jdistill.reporting.progress import Progress, duration


class _Terminal(io.StringIO):
  def isatty(self):
    return True


class _Clock:
  now = 100.0

  def __call__(self):
    return self.now


class _NotYet:
  """A metric whose value may not be asked for."""

  def __array__(self, dtype=None, copy=None):
    raise AssertionError("looked at a value that is not shown")


@pytest.mark.parametrize(
  ("seconds", "text"),
  [(0, "0:00"), (26.4, "0:26"), (599.6, "10:00"), (3723, "1:02:03"), (90_000, "1d 01:00:00"), (-1, "0:00")],
)
def test_duration(seconds, text):
  assert duration(seconds) == text


def test_log_golden():
  clock, stream = _Clock(), io.StringIO()
  progress = Progress("distill", 600, stream=stream, clock=clock)
  clock.now += 60  # compiling
  progress.update(20, {"loss": 1.0})
  clock.now += 4
  progress.update(90, {"loss": _NotYet()})
  clock.now += 1.4348
  progress.update(120, {"loss": np.float32(0.83124), "lr": 0.01, "grad/norm": 12345.6, "fourth": _NotYet()})
  clock.now += 26.09
  progress.update(599, {"loss": 0.5})
  clock.now += 0.05
  progress.update(600, {"loss": float("nan")})
  progress.close()
  progress.close()
  assert stream.getvalue().splitlines() == [
    "distill 20/600 loss 1.000",
    "distill 120/600 loss 0.8312 lr 0.01000 grad/norm 1.235e+04 18.4 steps/s ETA 0:26",
    "distill 599/600 loss 0.5000 18.4 steps/s ETA 0:00",
    "distill 600/600 loss nan 18.4 steps/s in 1:32",
  ]


def test_slow_steps_and_resumed_runs():
  """The speed counts only the steps of this run: 10 of 110 done in 40 s."""
  clock, stream = _Clock(), io.StringIO()
  progress = Progress("experts", 200, stream=stream, clock=clock)
  progress.update(100)
  clock.now += 40
  progress.update(110)
  assert stream.getvalue().splitlines()[-1] == "experts 110/200 4.0 s/step ETA 6:00"


def test_terminal_rewrites_in_place(monkeypatch):
  monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((30, 24)))
  clock, stream = _Clock(), _Terminal()
  progress = Progress("a", 9, stream=stream, clock=clock)
  progress.update(1, {"a long name of a metric": 2.0, "loss": 1.0})
  clock.now += 0.05
  progress.update(2, {"loss": _NotYet()})  # too soon
  clock.now += 0.05
  progress.update(3, {"loss": 12.5})
  progress.close()
  first, second, third = stream.getvalue().split("\r")
  assert first == ""
  assert second == "a 1/9 a long name of a metric 2.000"[:29]
  assert third == "a 3/9 loss 12.50 20.0 steps/s ETA 0:00"[:29] + "\n"


def test_a_shorter_line_erases_a_longer_one():
  clock, stream = _Clock(), _Terminal()
  progress = Progress("a", 9, stream=stream, clock=clock)
  progress.update(1, {"loss": 1.0})
  clock.now += 1
  progress.update(1)
  assert stream.getvalue() == "\ra 1/9 loss 1.000\r" + "a 1/9".ljust(len("a 1/9 loss 1.000"))


def test_nothing_happened_prints_nothing():
  stream = _Terminal()
  Progress("a", 9, stream=stream).close()
  assert stream.getvalue() == ""


def test_goes_to_standard_error(capsys):
  progress = Progress("a", 1)
  progress.update(1)
  progress.close()
  out, err = capsys.readouterr()
  assert (out, err) == ("", "a 1/1 in 0:00\n")
