"""Kills tiny runs at random moments and compares what they end with: see `tests/kills/__init__.py`."""

import argparse
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.hostile.case import experiments
from tests.kills import command, compare, two

_MOST_KILLS = 3  # of one run, before it may finish


def main(argv: Sequence[str]) -> int:
  """The command; exit status 1 where a run ended with something else."""
  parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
  parser.add_argument("--count", type=int, default=100, help="number of the last run that is killed")
  parser.add_argument("--start", type=int, default=1, help="number of the first, to go on after a former call")
  parser.add_argument("--seed", type=int, default=0, help="decides moments and signals")
  parser.add_argument("--only", action="append", help="an experiment; all in turn if not given")
  parser.add_argument("--two", action="store_true", help="two runs in one directory, and nothing else")
  parser.add_argument("--root", type=Path, help="where to work; else a temporary directory")
  given = parser.parse_args(argv)
  root = given.root or Path(tempfile.mkdtemp(prefix="kills-"))
  root.mkdir(parents=True, exist_ok=True)
  root = root.resolve()
  try:
    if given.two:
      return _report_two(two.violations((given.only or ["kd"])[0], root))
    return _kills(given, root)
  finally:
    if given.root is None:
      shutil.rmtree(root, ignore_errors=True)


def _report_two(found: list[str]) -> int:
  print("\n".join(found) or "two runs in one directory: one went on, the other was refused")
  return 1 if found else 0


def _kills(given: argparse.Namespace, root: Path) -> int:
  known = given.only or experiments()
  right, undisturbed = 0, {}
  numbers = range(given.start - 1, given.count)
  for number in numbers:
    experiment = known[number % len(known)]
    if experiment not in undisturbed:
      undisturbed[experiment] = _undisturbed(experiment, root)
    expected, seconds = undisturbed[experiment]
    found = _killed(experiment, root, random.Random(f"{given.seed} {number}"), expected, seconds)
    right += not found
    print(f"{number + 1} {experiment}: {'the same' if not found else '; '.join(found)}", flush=True)
    if found:
      print(f"  python -m tests.kills --seed={given.seed} --start={number + 1} --count={number + 1}", flush=True)
  for experiment, (_, seconds) in undisturbed.items():
    print(f"{experiment}: {seconds:.1f} s uninterrupted")
  print(f"{right} of {len(numbers)}")
  return 0 if right == len(numbers) else 1


def _undisturbed(experiment: str, root: Path) -> tuple[dict, float]:
  """What the run ends with that nobody kills, and the seconds it takes when its programs are compiled."""
  place, timed = root / "undisturbed" / experiment, root / "timed"
  ended = command.finish(experiment, place, root)
  if ended.status != 0:
    raise SystemExit(f"{experiment}: the run that nobody kills ended with {ended.status}:\n{ended.err}")
  shutil.rmtree(timed, ignore_errors=True)
  seconds = command.finish(experiment, timed, root).seconds
  return compare.content(place), seconds


def _killed(experiment: str, root: Path, rng: random.Random, expected: dict, seconds: float) -> list[str]:
  """Kills a run one to three times, lets it finish, and says what is not as expected."""
  place = root / "killed"
  shutil.rmtree(place, ignore_errors=True)
  for _ in range(rng.randint(1, _MOST_KILLS)):
    number = signal.SIGTERM if rng.random() < 0.25 else signal.SIGKILL
    # the first second goes into imports, where nothing can be lost
    ended = command.kill(experiment, place, root, rng.uniform(min(1.0, 0.1 * seconds), seconds), number)
    if ended.status not in (0, 130, -number) or "Traceback" in ended.err:
      return [f"{number.name}: exit status {ended.status}: {ended.err[-300:]!r}"]
  ended = command.finish(experiment, place, root)
  if ended.status != 0:
    return [f"does not go on: exit status {ended.status}: {ended.err[-300:]!r}"]
  return compare.differences(expected, place)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
