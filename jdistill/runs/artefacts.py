"""Artefacts that runs share: a directory of files and a record with their checksums, made once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jdistill.files import Damaged, read_record, sha256_file, to_jsonable, write_record
from jdistill.runs import locked
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first


def checked(path: Path, record: str, wanted: Mapping[str, Any] | None, what: str = "artefact") -> dict[str, Any]:
  """The record of an artefact.

  Args:
    path: its directory.
    record: the name of its record, with `identity` and the checksums of its `files`.
    wanted: what determines it; `None` for any.
    what: it is, for messages.

  Raises:
    Damaged: it, or one of its files, is missing or is not as it was written.
  """
  found = read_record(path / record)
  if wanted is not None and found["identity"] != to_jsonable(wanted):
    raise Damaged(path / record, f"is that of another {what}")
  for name, digest in found["files"].items():
    if not (path / name).is_file():
      raise Damaged(path / name, "is missing")
    if sha256_file(path / name) != digest:
      raise Damaged(path / name)
  return found


def is_whole(run: Run, stage: str, path: Path, record: str, wanted: Mapping[str, Any]) -> bool:
  """Whether an artefact is there; tells, in the name of a stage, of one that is damaged."""

  def look() -> bool:
    try:
      checked(path, record, wanted)
    except Damaged as error:
      if (path / record).exists():
        run.tell(stage, error)
      return False
    return True

  return on_first(look)


def ready(
  run: Run, stage: str, path: Path, record: str, wanted: Mapping[str, Any], make: Callable[[], None]
) -> dict[str, Any]:
  """The record of an artefact, which is made first where it is missing, by one run at a time."""
  if not is_whole(run, stage, path, record, wanted):
    with locked.artefact(run, path):
      if not is_whole(run, stage, path, record, wanted):  # another run may have made it meanwhile
        make()
  return on_first(lambda: checked(path, record, wanted))


def write(path: Path, record: str, wanted: Mapping[str, Any], files: tuple[str, ...], **figures: Any) -> None:
  """Leaves the record of an artefact whose files are written: what is recorded is whole."""
  digests = {name: sha256_file(path / name) for name in files}
  write_record(path / record, {"identity": wanted, **figures, "files": digests})
