"""Two runs in one directory at the same time: one goes on untouched, the other is refused by one line."""

import shutil
import time
from pathlib import Path

from tests.hostile.judge import PREFIX, has_cure
from tests.kills import command, compare


def violations(experiment: str, root: Path) -> list[str]:
  """What is wrong with how the two ended."""
  place, alone = root / "two", root / "alone"
  for path in (place, alone):
    shutil.rmtree(path, ignore_errors=True)
  command.finish(experiment, alone, root)
  begin = time.monotonic()
  first = command.start(experiment, place, root)
  while not (place / "work" / "config.json").exists() and first.poll() is None:
    time.sleep(0.01)
  second = command.start(experiment, place, root)
  refused, done = command.wait(second, begin), command.wait(first, begin)
  found = []
  if done.status != 0:
    found.append(f"the run that was there first: exit status {done.status}: {done.err[-300:]!r}")
  if refused.status != 1:
    found.append(f"the run that came second was not refused: exit status {refused.status}")
  else:
    lines = refused.err.splitlines()
    if len(lines) != 1 or not lines[0].startswith(PREFIX):
      found.append(f"the refusal is not one line: {refused.err[-300:]!r}")
    if str(first.pid) not in refused.err:
      found.append(f"the refusal does not name the process {first.pid}: {refused.err[-300:]!r}")
    if not has_cure(refused.err):
      found.append(f"the refusal has no cure: {refused.err[-300:]!r}")
  return found + compare.differences(compare.content(alone), place)
