"""What lies below a directory, by content: what may not change when an input is refused."""

import hashlib
import stat
from pathlib import Path


def tree(root: Path) -> dict[str, str]:
  """Path below `root` -> SHA-256 of a regular file, the kind of anything else; directories are left out."""
  found = {}
  for path in sorted(root.rglob("*")):
    mode = path.lstat().st_mode
    if stat.S_ISREG(mode):
      found[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    elif not stat.S_ISDIR(mode):
      found[str(path.relative_to(root))] = f"of kind {stat.S_IFMT(mode):o}"
  return found


def gone_or_changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
  """The files of before that are not what they were."""
  return [name for name, content in before.items() if after.get(name) != content]


def added(before: dict[str, str], after: dict[str, str]) -> list[str]:
  """The files that were not there before."""
  return [name for name in after if name not in before]
