"""Writing so that a file is either whole or absent.

Every writer fills a temporary file beside its target, flushes it to the disk and renames it over the target, so a crash
or a full disk leaves the earlier file as it was. A killed process can leave a hidden `.<name>.<hex>.tmp` behind, which
is safe to delete.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from jdistill.base import UserError
from jdistill.files.amounts import format_bytes

_FULL = {errno.ENOSPC: "no space left", errno.EDQUOT: "disk quota exceeded", errno.EFBIG: "file size limit reached"}
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike, needed: int | None = None) -> Iterator[None]:
  """Turns a full or forbidden disk inside the `with` block into one readable line.

  Args:
    path: the file being written; the message names it.
    needed: how many bytes are to be written, if known.

  Raises:
    UserError: on "no space left", "quota exceeded", "file too large", "permission denied" or "read-only file system".
  """
  try:
    yield
  except OSError as error:
    # NumPy counts the items of a file that could not be written to its end, without a number of the error
    torn = error.errno is None and re.search(r"\d+ requested and \d+ written", str(error))
    if torn or error.errno in _FULL:
      wanted = f"about {format_bytes(needed)} needed, " if needed is not None else ""
      reason = _FULL.get(error.errno, "no space left")
      raise UserError(
        f"{path}: {reason}: {wanted}{_free(Path(path))} free; nothing was lost, what was written before is untouched: "
        "free some space or choose another directory, then run the same command again"
      ) from error
    if error.errno in _FORBIDDEN:
      raise UserError(f"{path}: cannot be written ({error.strerror}): choose a writable directory") from error
    raise


def _free(path: Path) -> str:
  for parent in path.absolute().parents:
    if parent.is_dir():
      return format_bytes(shutil.disk_usage(parent).free)
  return "an unknown amount"


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], None], needed: int | None = None) -> None:
  """Writes a file so that readers see the old bytes or the new ones and never a mixture; makes missing directories.

  Args:
    path: the target.
    write: fills the open binary file.
    needed: bytes to be written, for the message on a full disk.

  Raises:
    UserError: the disk is full or not writable; the earlier file is untouched.
  """
  path = Path(path)
  temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
  with disk_errors(path, needed):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      with open(temporary, "xb") as file:  # not `tempfile`: its files are private, and these are meant to be shared
        write(file)
        file.flush()
        os.fsync(file.fileno())
      os.replace(temporary, path)
    except BaseException:
      temporary.unlink(missing_ok=True)
      raise


def remove_leftovers(directory: str | os.PathLike) -> None:
  """Deletes what killed writers left below a directory: hidden files named `.<name>.<8 hex digits>.tmp`."""
  for path in Path(directory).rglob(".*.tmp"):
    if path.is_file() and is_leftover(path.name):
      path.unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
  """Whether a file has the name that writers give to what is not finished."""
  return re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", name) is not None


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Writes bytes atomically; see `atomic_write`."""
  atomic_write(path, lambda file: file.write(data), len(data))


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes UTF-8 text atomically, with the line ends as given; see `atomic_write`."""
  write_bytes(path, text.encode())


def must_exist(path: str | os.PathLike) -> None:
  if not Path(path).is_file():
    raise UserError(f"{path} does not exist: check the path")
