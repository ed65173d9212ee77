"""One readable line where JAX's runtime ends a process because another one is gone.

The coordination client aborts the process (SIGABRT from one of its threads) as soon as it learns that a peer died,
after writing its own words and a stack to standard error; there is no option against it, and its Python callback cannot
be called. So the signal is caught below Python (`jdistill._compat.aborts`), and the runtime's words go through a pipe
that leaves just these out. Where the signal cannot be caught, the runtime's own words stay.
"""

import os
import re
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from jdistill._compat import aborts

_FATAL = b"Terminating process because the JAX distributed service"
_NOISE = (b"coordination_service", b"client.h:", b"add_port.cc")  # sources of its other words on the same matter


class _Watch:
  """What is installed in this process."""

  line: str | Callable[[], str] = ""
  status: int | None = None  # set once the process is about to end anyway
  stderr: int | None = None  # a copy of the descriptor that the user sees
  text: object = None  # `sys.stderr` as it was
  thread: threading.Thread | None = None
  fatal = threading.Event()
  ending = threading.Lock()


def watch(line: str | Callable[[], str]) -> None:
  """Prints `jdistill: LINE` and exits with status 1 where the runtime would abort; a second call replaces the line."""
  _Watch.line = line
  if _Watch.stderr is not None or os.name != "posix" or not aborts.on_abort(_on_abort):
    return
  _Watch.fatal.clear()
  _Watch.stderr, _Watch.text = os.dup(2), sys.stderr
  sys.stderr = open(_Watch.stderr, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
  read, write = os.pipe()
  os.dup2(write, 2)
  os.close(write)
  _Watch.thread = threading.Thread(target=_forward, args=(read, _Watch.stderr), daemon=True)
  _Watch.thread.start()


def unwatch() -> None:
  """Takes everything back."""
  if _Watch.stderr is None:
    return
  aborts.on_abort(None)
  sys.stderr.flush()
  os.dup2(_Watch.stderr, 2)  # closes the pipe, so the thread ends
  sys.stderr = _Watch.text
  _Watch.thread.join(timeout=2)
  os.close(_Watch.stderr)
  _Watch.stderr = None


def leaving(status: int) -> None:
  """From here on the process is about to end with `status`: losses are no longer reported."""
  _Watch.status = status


def end() -> NoReturn:
  """Prints the line, once, and ends the process."""
  with _Watch.ending:
    text = "" if _Watch.status is not None else f"jdistill: {_Watch.line() if callable(_Watch.line) else _Watch.line}\n"
    sys.stdout.flush()
    sys.stderr.write(text)
    sys.stderr.flush()
    os._exit(1 if _Watch.status is None else _Watch.status)


def _on_abort() -> None:
  """Runs in the aborting thread, which comes back to `abort` if the reason was another."""
  if _Watch.fatal.wait(timeout=2):
    end()
  aborts.on_abort(None)


def _forward(read: int, write: int) -> None:
  """Copies lines from the pipe, up to those with which the runtime announces its end."""
  rest = b""
  while chunk := os.read(read, 65536):
    *lines, rest = (rest + chunk).split(b"\n")
    noise = False  # with what follows in the same breath: the runtime's messages have several lines
    for line in lines:
      if _FATAL in line:
        _Watch.fatal.set()
      if re.match(rb"[IWEF]\d{4} ", line):
        noise = any(word in line for word in _NOISE)
      if not _Watch.fatal.is_set() and not noise:
        _write(write, line + b"\n")
  if rest and not _Watch.fatal.is_set():
    _write(write, rest)
  os.close(read)


def _write(descriptor: int, data: bytes) -> None:
  while data:
    data = data[os.write(descriptor, data) :]
