"""The work directory of a run: who it belongs to, which stages are finished, and how to stop."""

import contextlib
import io
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jdistill import config as config_lib
from jdistill.base import UserError
from jdistill.files import read_json, remove_leftovers, write_json
from jdistill.reporting import environment, peak_memory_bytes
from jdistill.training import distributed


class Interrupted(Exception):
  """The user asked the run to stop; what was done is saved."""


class _Silence(io.TextIOBase):
  """Where processes print that do not write."""

  def write(self, text: str) -> int:
    return len(text)


def on_first(work: Callable[[], Any]) -> Any:
  """`distributed.on_first` for stages: process 0 does something and the others wait for it, its refusals included."""
  return distributed.on_first(work, (UserError, Interrupted))


class WorkDirectory:
  """A resolved configuration and the directory that belongs to it."""

  def __init__(self, config: Mapping[str, Any], workdir: Path, stream=None):
    self.config = config
    self.workdir = Path(workdir)
    self.stream = stream if stream is not None else sys.stderr
    if not distributed.is_writer():
      self.stream = _Silence()
    self.stop_requested = False
    self.hash = config_lib.config_hash(config)

  def log(self, line: str) -> None:
    """Prints one line about what happens."""
    print(line, file=self.stream, flush=True)

  def check_workdir(self) -> None:
    """Refuses a work directory that is not this run's; writes nothing.

    Raises:
      UserError: it belongs to another configuration, or is a file or a directory with other things in it.
    """
    path = self.workdir / "config.json"
    if self.workdir.exists() and not self.workdir.is_dir():
      raise UserError(f"--workdir={self.workdir} is a file; choose another")
    if not path.exists():
      if self.workdir.exists() and any(self.workdir.iterdir()):
        raise UserError(f"--workdir={self.workdir} is not empty and not a work directory; choose another")
      return
    try:
      found = read_json(path)
    except UserError as error:
      raise UserError(f"{path} is damaged, so --workdir={self.workdir} cannot be told; choose another") from error
    found = found if isinstance(found, dict) else {}
    differing = config_lib.difference(config_lib.determining(found), config_lib.determining(self.config))
    if differing:
      raise UserError(
        f"--workdir={self.workdir} belongs to another configuration: {'; '.join(differing[:3])}"
        f"{f' and {len(differing) - 3} more' if len(differing) > 3 else ''}; choose another --workdir"
      )

  def check_alike(self) -> None:
    """Refuses a process that was started with another configuration than process 0."""
    differing = config_lib.difference(on_first(lambda: self.config), self.config)
    if differing:
      there = differing[0].replace("(there)", "(process 0)").replace("(now)", "(this process)")
      raise UserError(f"{there}: give all processes of a run the same flags, but for --process_id")

  def open_workdir(self) -> None:
    """Claims the work directory for this configuration and clears what a killed run left; after the checks."""

    def write():
      remove_leftovers(self.workdir)
      write_json(self.workdir / "config.json", self.config)
      write_json(self.workdir / "environment.json", environment())

    on_first(write)
    if not (self.workdir / "config.json").is_file():
      raise UserError(
        f"--workdir={self.workdir}: process 0 wrote into it and this process cannot see it; all processes need it, and "
        "--artefacts, on a filesystem that they share"
      )
    self.log(f"work directory: {self.workdir} (config {self.hash})")

  # -- stages that are done -------------------------------------------------------------------------------------------

  def record_of(self, stage: str) -> Path:
    """Where a finished stage leaves its figures."""
    return self.workdir / "stages" / f"{stage}.json"

  def finished(self, stage: str, leaves: tuple[str, ...] = ()) -> dict[str, Any] | None:
    """What a finished stage left, or `None`; a stage whose files were removed is not finished."""
    path = self.record_of(stage)
    whole = path.exists() and all((self.workdir / name).exists() for name in leaves)
    return read_json(path) if whole else None

  def finish(self, stage: str, begin: float, **record: Any) -> None:
    """Marks a stage as finished, with the seconds it took and what later stages want to know."""

    def write():
      spent = time.monotonic() - begin + self.spent(stage)
      write_json(self.record_of(stage), {"seconds": spent, "peak_memory_bytes": peak_memory_bytes(), **record})

    on_first(write)

  def spent(self, stage: str) -> float:
    """Seconds that earlier, interrupted attempts at a stage took."""
    path = self.workdir / "stages" / f"{stage}.partial.json"
    return float(read_json(path)["seconds"]) if path.exists() else 0.0

  # -- stopping -------------------------------------------------------------------------------------------------------

  def stops(self) -> bool:
    """Whether to stop now; the same on all processes."""
    return distributed.stop_requested(self.stop_requested)

  def interrupt(self, stage: str, begin: float, what: str) -> None:
    """Notes the time spent and raises `Interrupted`."""

    def write():
      spent = time.monotonic() - begin + self.spent(stage)
      write_json(self.workdir / "stages" / f"{stage}.partial.json", {"seconds": spent})

    on_first(write)
    raise Interrupted(what)

  @contextlib.contextmanager
  def catch_signals(self) -> Iterator[None]:
    """Makes Ctrl-C and a termination request stop all processes at the next safe point; a second one stops at once."""

    def handler(number, frame):
      del number, frame
      if self.stop_requested:
        raise KeyboardInterrupt
      self.stop_requested = True
      print(
        "\nstopping at the next safe point; press Ctrl-C again to stop at once",
        file=self.stream if distributed.is_writer() else sys.stderr,
        flush=True,
      )
      distributed.request_stop()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
      yield
    finally:
      for number, former in before.items():
        signal.signal(number, former)
