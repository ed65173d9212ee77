"""Tries hostile inputs and prints a table by kind and every violation: see `tests/hostile/__init__.py`."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.hostile import catalog, pool, prepared, settings
from tests.hostile.judge import Verdict


def main(argv: Sequence[str]) -> int:
  """The command; exit status 1 where an input got through."""
  parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
  parser.add_argument("--only", action="append", default=[], help="only inputs whose name contains this")
  parser.add_argument("--sample", type=int, help="only so many, drawn at random")
  parser.add_argument("--seed", type=int, default=0, help="of the sample")
  parser.add_argument("--workers", type=int, default=pool.cores(), help="processes; one per processor if not given")
  parser.add_argument("--root", type=Path, help="where to work, and to find prepared runs again; else a temporary one")
  parser.add_argument("--list", action="store_true", help="print the names and stop")
  parser.add_argument("--whole", action="store_true", help="every damage of every file; more than an hour")
  parser.add_argument("--quiet", action="store_true", help="no line for each violation as it is found")
  given = parser.parse_args(argv)
  root = given.root or Path(tempfile.mkdtemp(prefix="hostile-"))
  root.mkdir(parents=True, exist_ok=True)
  root = root.resolve()
  try:
    return _run(given, root)
  finally:
    if given.root is None:
      shutil.rmtree(root, ignore_errors=True)


def _run(given: argparse.Namespace, root: Path) -> int:
  os.environ.update(settings.environment(root))
  begin = time.monotonic()
  prepared.prepare(root / "prepared", _families(given.only), given.workers)
  known = catalog.every(root / "prepared", whole=given.whole)
  names = [name for name in known if all(part in name for part in given.only)]
  if given.sample is not None:
    names = catalog.sample(names, given.sample, given.seed)
    print(f"a sample of {len(names)}, --seed={given.seed}")
  if given.list or not names:
    print("\n".join(names) if names else f"no input is called {given.only}")
    return 0 if names else 1
  show = _silent if given.quiet else _told if len(names) > 20 else _told_all
  found = list(pool.verdicts(names, root, given.workers, show))
  report(found, time.monotonic() - begin)
  return 1 if any(one.violations for one in found) else 0


def _families(only: Sequence[str]) -> tuple[str, ...]:
  """The families whose runs the inputs of these names need."""
  if any(part.startswith(tuple(f"{kind}/" for kind in catalog.KINDS)) for part in only):
    return ()
  if any(part.startswith("set/") for part in only):
    return ("datm",)
  named = {part.split("/")[1] for part in only if part.count("/") > 1}
  return tuple(family for family in prepared.FAMILIES if family in named) or prepared.FAMILIES


def _silent(verdict: Verdict) -> None:
  del verdict


def _told(verdict: Verdict) -> None:
  if verdict.violations:
    print(f"{verdict.name!r}: {' | '.join(verdict.violations)}", flush=True)


def _told_all(verdict: Verdict) -> None:
  print(f"{verdict.name!r}: {verdict.outcome} in {verdict.seconds:.1f} s: {verdict.message[:400]!r}", flush=True)
  _told(verdict)


def report(found: Sequence[Verdict], seconds: float) -> None:
  """Prints the table and the violations, each with the command that repeats it."""
  print(f"\n{'kind':<12} {'tried':>6} {'refused':>8} {'repaired':>9} {'worked':>7} {'violations':>11} {'seconds':>8}")
  for kind in [*dict.fromkeys(one.kind for one in found), "all"]:
    counts = Counter(one.outcome for one in found if kind in (one.kind, "all"))
    row = [counts[outcome] for outcome in ("refused", "repaired", "worked", "violation")]
    spent = sum(one.seconds for one in found if kind in (one.kind, "all"))
    print(f"{kind:<12} {sum(row):>6} {row[0]:>8} {row[1]:>9} {row[2]:>7} {row[3]:>11} {spent:>8.0f}")
  kinds = Counter(line.partition(":")[0] for one in found for line in one.violations)
  for kind in ("traceback", "accepted", "hang", "changed files", "message"):
    print(f"{kind}: {kinds.pop(kind, 0)}")
  for kind, count in kinds.items():
    print(f"{kind}: {count}")
  print(f"{len(found)} inputs in {seconds:.0f} s")
  for one in found:
    for line in one.violations:
      print(f"\n{line}\n  python -m tests.hostile --only={one.name!r}")


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
