"""Paths as users write them."""

import os
from pathlib import Path

from jdistill.base import UserError

_LONGEST = 255  # bytes of a file name that every common filesystem takes


def _is_text(text: str) -> bool:
  """Whether a path is text, and not bytes that no encoding explains."""
  try:
    return bool(text.encode())
  except UnicodeEncodeError:
    return False


def user_path(path: str | os.PathLike, key: str) -> Path:
  """A path with `~` written out.

  Args:
    path: what the user gave.
    key: what messages call it, such as `"--workdir"`.

  Raises:
    UserError: empty, with characters that no path has, with a name that is too long, or the home of an unknown user.
  """
  text = os.fspath(path)
  if not text or any(character in text for character in "\0\n\r") or not _is_text(text):
    raise UserError(f"{key}={text!r}: is no path; give one without line breaks")
  if max(len(part.encode()) for part in Path(text).parts or ("",)) > _LONGEST:
    raise UserError(f"{key}={text[:40]!r}...: a name in it is longer than {_LONGEST} bytes; choose a shorter one")
  try:
    return Path(text).expanduser()
  except RuntimeError as error:
    raise UserError(f"{key}={text!r}: there is no such user; write the path out") from error
