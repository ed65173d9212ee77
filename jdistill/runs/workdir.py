"""The work directory of a run: which stages are finished, what they left, and how to stop."""

import contextlib
import io
import itertools
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jdistill import config as config_lib
from jdistill.base import Diverged, UserError
from jdistill.files import Damaged, read_record, sha256_file, write_record
from jdistill.reporting import peak_memory_bytes
from jdistill.training import distributed


class Interrupted(Exception):
  """The user asked the run to stop; what was done is saved."""


class _Silence(io.TextIOBase):
  """Where processes print that do not write."""

  def write(self, text: str) -> int:
    return len(text)


def on_first(work: Callable[[], Any]) -> Any:
  """`distributed.on_first` for stages: process 0 does something and the others wait for it, its refusals included."""
  return distributed.on_first(work, (Diverged, UserError, Interrupted))


class WorkDirectory:
  """A resolved configuration and the directory that belongs to it."""

  def __init__(self, config: Mapping[str, Any], workdir: Path, stream=None):
    self.config = config
    self.workdir = Path(workdir)
    self.stream = stream if stream is not None else sys.stderr
    if not distributed.is_writer():
      self.stream = _Silence()
    self._asked = [False]  # whether to stop; shared with runs inside this one
    self.hash = config_lib.config_hash(config)
    self._digests: dict[tuple, str] = {}
    self._told: set[Path] = set()

  @property
  def stop_requested(self) -> bool:
    """Whether this process was asked to stop."""
    return self._asked[0]

  @stop_requested.setter
  def stop_requested(self, value: bool) -> None:
    self._asked[0] = value

  def log(self, line: str) -> None:
    """Prints one line about what happens."""
    print(line, file=self.stream, flush=True)

  def tell(self, stage: str, flaw: Damaged) -> None:
    """Says, once, that a file of a stage is gone or damaged and is made again."""
    if flaw.path not in self._told:
      self.log(f"{stage}: {flaw}; it is made again")
    self._told.add(flaw.path)

  # -- stages that are done -------------------------------------------------------------------------------------------

  def record_of(self, stage: str) -> Path:
    """Where a finished stage leaves its figures."""
    return self.workdir / "stages" / f"{stage}.json"

  def finished(self, stage: str, leaves: tuple[str, ...] = ()) -> dict[str, Any] | None:
    """What a finished stage left, or `None`; a stage of which something is gone or damaged is not finished."""
    return None if self.flaws(stage, leaves) else read_record(self.record_of(stage))

  def flaws(self, stage: str, leaves: tuple[str, ...] = ()) -> list[Damaged]:
    """What keeps a stage from being finished: its record, the files that it left, the files that it was made of."""
    try:
      record = read_record(self.record_of(stage))
    except Damaged as error:
      return [error]
    inputs, now = record["inputs"], self._files_before(stage)
    changed = [name for name, digest in inputs.items() if now.get(name, digest) != digest]
    found = [Damaged(self.workdir / name, "is not the one that the stage was made of") for name in changed]
    found += [Damaged(self.workdir / name, "is missing") for name in leaves if not (self.workdir / name).exists()]
    for name, digest in record["files"].items():
      if (self.workdir / name).exists() and self._sha256(self.workdir / name) != digest:
        found.append(Damaged(self.workdir / name))
    return found

  def reopen(self, stage: str, leaves: tuple[str, ...] = ()) -> None:
    """Makes a stage that was finished, and is not any more, ready to be made again; tells why."""
    path = self.record_of(stage)
    if not path.exists():
      return  # it was never finished, and goes on where it stopped
    flaws = self.flaws(stage, leaves)
    for flaw in flaws:
      self.tell(stage, flaw)
    with contextlib.suppress(Damaged):
      record, touched = read_record(path), {flaw.path for flaw in flaws}
      left = {self.workdir / name for name in record["files"]}
      stale = any(self.workdir / name in touched for name in record["inputs"])
      for file in left if stale else left & touched:
        file.unlink(missing_ok=True)
    path.unlink()

  def finish(self, stage: str, begin: float, leaves: tuple[str, ...] = (), **record: Any) -> None:
    """Marks a stage as finished, with the seconds it took, what later stages want to know, and checksums.

    Args:
      stage: its name.
      begin: when this attempt at it began, by `time.monotonic`.
      leaves: files that it left in the work directory, of which every change is found.
      **record: what later stages want to know.
    """

    def write():
      usual = {
        "seconds": time.monotonic() - begin + self.spent(stage),
        "peak_memory_bytes": peak_memory_bytes(),
        "inputs": self._files_before(stage),
        "files": {name: self._sha256(self.workdir / name) for name in leaves},
      }
      write_record(self.record_of(stage), usual | record)

    on_first(write)

  def _files_before(self, stage: str) -> dict[str, str]:
    """Files with checksums that the finished stages before this one have left."""
    found = {}
    for name in itertools.takewhile(lambda name: name != stage, self.config["stages"]):
      with contextlib.suppress(Damaged):
        found |= read_record(self.record_of(name))["files"]
    return found

  def _sha256(self, path: Path) -> str:
    """The checksum of a file; computed once, for as long as nobody touches it."""
    stat = path.stat()
    key = (path, stat.st_mtime_ns, stat.st_size, stat.st_ino)
    if key not in self._digests:
      self._digests[key] = sha256_file(path)
    return self._digests[key]

  def checksums(self, *paths: Path) -> dict[str, str]:
    """Checksums of those of some files that are there, by their names in the work directory."""
    return {str(path.relative_to(self.workdir)): self._sha256(path) for path in paths if path.exists()}

  def check_metrics(self, files: Mapping[str, str]) -> None:
    """Refuses metrics of a finished training that were changed; they cannot be made again without training.

    Raises:
      UserError: the first file whose checksum, from `checksums`, differs.
    """
    for name, digest in files.items():
      path = self.workdir / name
      if not path.exists():
        self.log(f"{path} is missing: the report comes without its curves")
      elif self._sha256(path) != digest:
        raise UserError(
          f"{path} is damaged or was edited (its checksum differs): put it back as it was, or delete it and run the "
          "same command again for a report without its curves"
        )

  def spent(self, stage: str) -> float:
    """Seconds that earlier, interrupted attempts at a stage took."""
    path = self._partial(stage)
    try:
      return float(read_record(path)["seconds"]) if path.exists() else 0.0
    except Damaged as error:
      self.log(f"{stage}: {error}; the seconds before the interruption are not counted")
      return 0.0

  def _partial(self, stage: str) -> Path:
    return self.workdir / "stages" / f"{stage}.partial.json"

  # -- stopping -------------------------------------------------------------------------------------------------------

  def stops(self) -> bool:
    """Whether to stop now; the same on all processes."""
    return distributed.stop_requested(self.stop_requested)

  def interrupt(self, stage: str, begin: float, what: str) -> None:
    """Notes the time spent and raises `Interrupted`."""

    def write():
      write_record(self._partial(stage), {"seconds": time.monotonic() - begin + self.spent(stage)})

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

    def lost(unraisable, former=sys.unraisablehook):
      # one that Python raised where nothing can be raised, as in a destructor: the run stops at the next safe point
      if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        former(unraisable)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    hook, sys.unraisablehook = sys.unraisablehook, lost
    try:
      yield
    finally:
      sys.unraisablehook = hook
      for number, former in before.items():
        signal.signal(number, former)
