"""One process at a time in a directory: a lock that goes with the process that holds it."""

import contextlib
import os
import re
import socket
from pathlib import Path

try:
  import fcntl
except ImportError:  # not a POSIX system
  fcntl = None

LOCK = ".lock"
_ATTEMPTS = 100  # a file that others remove just now is opened again


class Held(Exception):
  """Another process has the lock; the text names it."""


class Lock:
  """A lock of this process; see `take`."""

  def __init__(self, path: Path, descriptor: int, made: list[Path]):
    self._path, self._descriptor, self._made = path, descriptor, made

  def release(self) -> None:
    """Gives the lock back, with the directories that were made for it if nothing else came into them."""
    self._path.unlink(missing_ok=True)  # before the close: whoever waits for this file sees that it is not the lock
    os.close(self._descriptor)
    with contextlib.suppress(OSError):
      for path in self._made:
        path.rmdir()


def take(directory: str | os.PathLike) -> Lock:
  """Takes the lock of a directory, which is made if missing.

  The file `.lock` names process and host. The operating system gives the lock back when the process ends in any way;
  where it knows no such locks, a file of a process that is gone on this host counts for nothing.

  Raises:
    Held: another process has it.
    OSError: the directory cannot be made or written.
  """
  directory = Path(directory)
  made = [path for path in (directory, *directory.parents) if not path.exists()]
  path = directory / LOCK
  failure: Exception = Held("another process")
  for _ in range(_ATTEMPTS):
    try:
      directory.mkdir(parents=True, exist_ok=True)
      descriptor = _exclusive(path) if fcntl is None else _flock(path)
    except (FileNotFoundError, FileExistsError) as error:  # of directories, which others may remove just now
      failure = error
      continue
    if descriptor is not None:
      os.ftruncate(descriptor, 0)
      os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
      return Lock(path, descriptor, made)
  raise failure


def _flock(path: Path) -> int | None:
  """An open file with the lock; `None` where it was removed meanwhile."""
  descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.path.samestat(os.fstat(descriptor), os.stat(path)):
      return descriptor
  except BlockingIOError as error:
    holder = os.read(descriptor, 200).decode(errors="replace").strip()
    os.close(descriptor)
    raise Held(holder or "another process") from error
  except FileNotFoundError:
    pass
  except OSError:  # a filesystem without such locks
    if not os.fstat(descriptor).st_size:
      path.unlink(missing_ok=True)  # made by the line above
    os.close(descriptor)
    return _exclusive(path)
  os.close(descriptor)
  return None


def _exclusive(path: Path) -> int | None:
  """The same where there is nothing but files; `None` where one of a dead process was removed."""
  try:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
  except FileExistsError as error:
    holder = path.read_text(errors="replace").strip()
    if not _is_gone(holder):
      raise Held(f"{holder or 'another process'} (if it is gone, delete {path})") from error
  path.unlink(missing_ok=True)
  return None


def _is_gone(holder: str) -> bool:
  """Whether the process named in a lock file does not exist any more, as far as this host knows."""
  found = re.fullmatch(r"process (\d+) on (.+)", holder)
  if found is None or found[2] != socket.gethostname() or os.name != "posix":
    return False
  try:
    os.kill(int(found[1]), 0)
  except ProcessLookupError:
    return True
  except (PermissionError, OverflowError):
    return False
  return False
