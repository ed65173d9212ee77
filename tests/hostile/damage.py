"""Damaged files of finished and interrupted runs: cut, flipped, emptied, deleted, or JSON of another form."""

import functools
import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jdistill import run
from jdistill.base import UserError
from tests.hostile import figures
from tests.hostile.case import Action, Case
from tests.hostile.prepared import STATES, State, files


def _flipped(data: bytes) -> bytes:
  middle = len(data) // 2
  return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


def _first_key_gone(data: bytes) -> bytes:
  value = json.loads(data)
  return json.dumps(dict(list(value.items())[1:]) if isinstance(value, dict) else value[1:]).encode()


def _nulls(data: bytes) -> bytes:
  value = json.loads(data)
  return json.dumps(dict.fromkeys(value) if isinstance(value, dict) else [None] * len(value)).encode()


ANY: dict[str, Callable[[bytes], bytes | None]] = {
  "half": lambda data: data[: len(data) // 2],
  "flipped": _flipped,
  "emptied": lambda data: b"",
  "deleted": lambda data: None,
}
_JSON: dict[str, Callable[[bytes], bytes | None]] = {
  "list": lambda data: b"[1, 2]",
  "number": lambda data: b"3",
  "no keys": lambda data: b"{}",
  "first key gone": _first_key_gone,
  "nulls": _nulls,
  "other bytes": lambda data: b"\xff\xfe\x00",
}
# left alone where a run no longer reads them; the figures must be right all the same
_SPENT = ("/checkpoints/", "/federation/", "/snapshots/", "artefacts/", "/curves/", "/images/")
_TWICE = ("datm", "kd")  # families whose finished files are damaged in two ways, and all of whose interrupted ones are
# files that say how a run was carried out, or are made anew
_REWRITTEN = (
  "config.json",
  "environment.json",
  "report.md",
  "report.html",
  "summary.json",
  "report.json",
  "figure.png",
)


def cases(prepared: Path, whole: bool) -> Iterator[Case]:
  """Every file of every state.

  Args:
    prepared: where the runs lie.
    whole: every damage of every file; else one or two in turn, of pictures, checkpoints and states of federations every
      sixth file, and of most interrupted runs, which train again, every second one.
  """
  for state in STATES:
    for name, below in files(prepared, state):
      if (prepared / state.name / state.family / below).stat().st_size == 0:
        continue
      known = ANY | (_JSON if below.suffix == ".json" else {})
      turn = zlib.crc32(f"{state} {name}".encode())
      ours = below.suffix in (".json", ".jsonl", ".npz", ".npy") and not re.search("/(checkpoints|federation)/", name)
      twice = state.family in _TWICE and state.name == "finished"
      if state.name == "interrupted" and state.family not in _TWICE and turn % 2 and not whole:
        continue
      count = (2 if twice else 1) if ours else turn % 6 == 0
      chosen = {list(known)[(turn + 3 * n) % len(known)] for n in range(count)}
      for what in known if whole else sorted(chosen):
        yield _case(prepared, state, name, below, what, known[what])


def _case(prepared: Path, state: State, name: str, below: Path, what: str, spoil: Callable) -> Case:
  return Case(
    f"{state.name}/{state.family}/{name}/{what}",
    state.name,
    functools.partial(_start, prepared, state, below, spoil),
    (_called(below),),
    "either",
    functools.partial(_differences, prepared, state, below, what),
    functools.partial(_may_change, str(below), state.name == "finished"),
    early=False,
  )


def _called(below: Path) -> tuple[str, ...]:
  """How a message may name a file: itself, or the directory that is one thing to the user."""
  parts = below.parts
  own = ["/".join(parts[n : n + 2]) for n, part in enumerate(parts) if part in ("checkpoints", "result")]
  kept = ["/".join(parts[1:3])] if parts[0] == "artefacts" else []
  return (below.name, *own, *kept, *(["--workdir"] if below.name == "config.json" else []))


def _start(prepared: Path, state: State, below: Path, spoil: Callable, place: Path) -> Action:
  shutil.copytree(prepared / state.name / state.family, place, dirs_exist_ok=True)
  data = spoil((place / below).read_bytes())
  if data is None:
    (place / below).unlink()
  else:
    (place / below).write_bytes(data)
  return lambda: run.main(state.arguments(place))


def _differences(prepared: Path, state: State, below: Path, what: str, place: Path) -> list[str]:
  """What is not as in the run that nobody damaged.

  Metrics that no stage reads any more, or not yet, cost the curves alone: deleted ones, those of a run that is still
  going on, and those of teachers.
  """
  expected = json.loads((prepared / "finished" / f"{state.family}.json").read_text())
  try:
    found: dict[str, Any] = json.loads(json.dumps(figures.figures(place)))
  except UserError as error:
    if (any(part in f"/{below}" for part in _SPENT) and state.name == "finished") or _is_curve(below):
      return []
    return [f"left damaged: {error}".replace(str(place), "...")]
  spent = state.name == "finished" and any(part in f"/{below}" for part in _SPENT)
  unread = what == "deleted" or state.name != "finished" or below.name.startswith("teacher_")
  spent = spent or (below.suffix == ".jsonl" and unread) or "/snapshots/" in f"/{below}"
  spent = spent or _is_curve(below)
  return list(figures.differences({k: v for k, v in expected.items() if not (spent and k == str(below))}, found))


def _is_curve(below: Path) -> bool:
  """Of an arm that is finished, whose curve is in its cell; of one that goes on it is refused by name."""
  return below.name.endswith(".curve.json")


def _may_change(damaged: str, finished: bool, name: str, refused: bool) -> bool:
  """A refused run leaves the damaged file to be looked at; one that goes on may first come further."""
  if refused:
    return name != damaged and name.startswith("work/") and (not finished or name.endswith((*_REWRITTEN, ".log")))
  return name.startswith("work/") or Path(name).parent == Path(damaged).parent
