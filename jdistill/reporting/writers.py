"""Where metrics go: one JSON line per call, or TensorBoard."""

import hashlib
import importlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.base import UserError
from jdistill.files import disk_errors, to_jsonable, write_bytes

_RESERVED = ("step", "stage", "time")


def _scalar(name: str, value: Any) -> float:
  array = np.asarray(value)
  if array.size != 1:
    raise UserError(f"metric {name!r} has shape {array.shape}: metrics are scalars, reduce it first")
  return float(array.item())


class JsonlWriter:
  """Appends one line `{"step": .., "stage": .., "time": .., name: value, ...}` to a file at every call.

  JSON has no NaN or infinity, so they are written as the strings `"nan"`, `"inf"`, `"-inf"`; `read_jsonl` gives them
  back as numbers. Each line reaches the operating system in one piece before `write` returns, so a crash costs at most
  a torn last line, which the next writer removes. One writer at a time may have the file open.
  """

  def __init__(
    self,
    path: str | os.PathLike,
    stage: str,
    *,
    resume_step: int | None = None,
    noted: str = "",
    clock: Callable[[], float] = time.time,
  ):
    """Opens the file for appending; makes it, and its directory, if needed.

    Args:
      path: the `.jsonl` file; may already hold lines of this and of other stages.
      stage: what the lines are labelled with.
      resume_step: the last step whose results were kept: later lines of this stage are dropped, since the resumed run
        writes them again. A negative number drops all of the stage; `None` keeps everything.
      noted: the `digest` that the file had when those results were kept; empty if that is not known.
      clock: seconds since 1970.

    Raises:
      UserError: the file is damaged elsewhere than in its last line, has not the lines that were noted, or cannot be
        written; it is left as it is.
    """
    self._path, self._stage, self._clock = Path(path), stage, clock
    self._digest = hashlib.sha256()
    self._repair(resume_step, noted)
    with disk_errors(self._path):
      self._path.parent.mkdir(parents=True, exist_ok=True)
      self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 - open until `close`

  def _repair(self, resume_step: int | None, noted: str) -> None:
    old = self._path.read_bytes() if self._path.exists() else b""
    kept = []
    for line, record in _parse(self._path, old):
      stale = resume_step is not None and record.get("stage") == self._stage and record.get("step", -1) > resume_step
      if not stale:
        kept.append(line + b"\n")
        self._digest.update(kept[-1] if record.get("stage") == self._stage else b"")
    new = b"".join(kept)
    if noted and noted != self.digest:
      raise UserError(
        f"{self._path} is damaged or lost lines of before step {resume_step}: put it back as it was, or delete the "
        "checkpoints of this training to begin it anew"
      )
    if new != old:
      write_bytes(self._path, new)

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Appends one line.

    Raises:
      UserError: a metric is not a scalar or is called `step`, `stage` or `time`; or the disk is full.
    """
    record: dict[str, Any] = {"step": int(step), "stage": self._stage, "time": round(self._clock(), 3)}
    for name, value in metrics.items():
      if name in _RESERVED:
        raise UserError(f"metric {name!r} has a reserved name: call it 'family/{name}'")
      record[name] = to_jsonable(_scalar(name, value))
    line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
    with disk_errors(self._path, len(line)):
      self._append(line)
    self._digest.update(line)

  @property
  def digest(self) -> str:
    """The SHA-256 of all lines of this stage in the file: a checkpoint notes it, so that lost lines are found."""
    return self._digest.hexdigest()

  def _append(self, line: bytes) -> None:
    start = self._file.seek(0, os.SEEK_END)
    try:
      rest = memoryview(line)
      while rest:  # a nearly full disk takes a part first and refuses at the next call
        rest = rest[self._file.write(rest) :]
    except OSError:
      self._file.truncate(start)
      raise

  def close(self) -> None:
    """Closes the file; a second call does nothing."""
    self._file.close()


def _parse(path: Path, data: bytes) -> list[tuple[bytes, dict[str, Any]]]:
  """Splits into (line, record) pairs, leaving out a torn last line."""
  lines = data.split(b"\n")
  if not lines[-1]:
    lines.pop()
  records = []
  for number, line in enumerate(lines, start=1):
    try:
      record = json.loads(line)
      if not isinstance(record, dict):
        raise ValueError("not an object")
    except ValueError as error:
      if number == len(lines):
        break
      raise UserError(f"{path}: line {number} is damaged ({error}): remove that line and run again") from error
    records.append((line, record))
  return records


def read_jsonl(path: str | os.PathLike, stage: str | None = None) -> list[dict[str, Any]]:
  """Reads what `JsonlWriter` wrote; non-finite values are floats again and a torn last line is left out.

  Args:
    path: the `.jsonl` file.
    stage: only lines of this stage; all when `None`.

  Returns:
    One dict per line, in the order of the file.

  Raises:
    UserError: the file is missing, or damaged elsewhere than in its last line.
  """
  path = Path(path)
  if not path.is_file():
    raise UserError(f"{path} does not exist: check the path")
  records = [record for _, record in _parse(path, path.read_bytes())]
  return [
    {name: value if name in _RESERVED else _number(value) for name, value in record.items()}
    for record in records
    if stage is None or record.get("stage") == stage
  ]


def _number(value: Any) -> Any:
  return float(value) if value in ("nan", "inf", "-inf") else value


class TensorBoardWriter:
  """Writes scalars as TensorBoard events; needs the extra `tensorboard`."""

  def __init__(self, directory: str | os.PathLike, *, resume_step: int | None = None):
    """Opens a new event file in a directory.

    Args:
      directory: TensorBoard's `--logdir`, or below it; one per stage, since steps start anew in each.
      resume_step: the last step whose results were kept; TensorBoard is told to hide later ones of earlier files.

    Raises:
      UserError: `tensorboardX` is not installed.
    """
    try:
      library = importlib.import_module("tensorboardX")
    except ImportError as error:
      raise UserError("TensorBoard events need tensorboardX: pip install 'jdistill[tensorboard]'") from error
    purge = None if resume_step is None else resume_step + 1
    with disk_errors(directory):
      self._writer = library.SummaryWriter(str(directory), purge_step=purge)

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds one point per metric.

    Raises:
      UserError: a metric is not a scalar.
    """
    for name, value in metrics.items():
      self._writer.add_scalar(name, _scalar(name, value), int(step))

  def close(self) -> None:
    """Flushes and closes the event file."""
    self._writer.close()
