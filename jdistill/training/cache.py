"""The compilation cache on disk: the second run of a program starts at once.

A program on a CPU holds either oneDNN's convolutions (`jdistill.ops.onednn`) or can be kept. Who asks for a cache gets
it; who does not gets the convolutions, and what needs none of them is kept.
"""

import hashlib
import os
import platform
from pathlib import Path

import jax
import platformdirs

from jdistill.base import UserError
from jdistill.ops import onednn

VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def directory(choice: str | None) -> Path | None:
  """Where compiled programs are kept: the user's choice, JAX's own variable, or the user's cache folder.

  Args:
    choice: a directory, `"off"` for none, or `None` for the default.
  """
  if choice == "off":
    return None
  chosen = choice or os.environ.get(VARIABLE)
  if chosen:
    return Path(chosen).expanduser()
  return Path(platformdirs.user_cache_dir("jdistill", appauthor=False)) / f"xla-{_processor()}"


def _processor() -> str:
  """A name for what this machine's processor can do: programs of one CPU can be wrong on another with the same home."""
  try:
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    features = next(line for line in lines if line.startswith(("flags", "Features")))
  except (OSError, StopIteration):
    features = platform.processor()
  return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:8]


def enable(choice: str | None = None) -> Path | None:
  """Turns the cache on, before anything is compiled; gives its directory, or `None` where it is off.

  Where the user has set JAX's own variable, JAX has read it with all that belongs to it (it may be no directory but an
  address of a bucket) and is left alone.

  Only programs that took half a second or more are kept. Where nobody chose a cache, fast convolutions on CPUs come
  before it. A cache folder that cannot be written costs nothing but its use; one that the user named must work.

  Raises:
    UserError: a named directory that cannot be made or written.
  """
  path = directory(choice)
  if choice is None and VARIABLE in os.environ:
    return path
  if choice is None:
    onednn.come_before_cache()
  if path is not None:
    try:
      path.mkdir(parents=True, exist_ok=True)
      if not os.access(path, os.W_OK):
        raise PermissionError(13, "not writable")
    except OSError as error:
      if choice:
        reason = error.strerror or error
        raise UserError(
          f"--compilation_cache={choice}: {reason}; give a directory that can be written, or 'off'"
        ) from error
      path = None
  jax.config.update("jax_compilation_cache_dir", None if path is None else str(path))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  return path
