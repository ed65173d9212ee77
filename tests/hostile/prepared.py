"""Finished and interrupted tiny runs of every family, made once and copied for each damaged file."""

import contextlib
import io
import json
import multiprocessing
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jdistill import run
from tests.hostile import figures, settings
from tests.hostile.case import REPOSITORY

_STOPPED = ("datm", "mtt", "dm", "sre2l", "kd", "reviewkd", "lad", "rs2", "datm_difficulty")  # interrupted as well
FAMILIES = (*_STOPPED, "activekd", "fedlgd")
CHECKPOINT, EVALUATION = r"/checkpoints/(.*/)?\d+\.json$", r"/stages/(evaluations|results)\.json$"


class State(NamedTuple):
  """A run as it was left: `finished`, `interrupted` between checkpoints, or `judging` in the middle of its results."""

  name: str
  family: str

  def arguments(self, root: Path) -> list[str]:
    """The command that goes on with it."""
    file = f"--config={REPOSITORY}/experiments/{self.family}.py:tiny"
    return ["run", file, "--config.checkpoint_seconds=0", f"--workdir={root / 'work'}"]


STATES = (
  *(State("finished", family) for family in FAMILIES),
  *(State("interrupted", family) for family in _STOPPED),
  *(State("judging", family) for family in ("datm", "kd")),
)


def prepare(prepared: Path, families: tuple[str, ...], workers: int) -> None:
  """Makes the runs that are not there yet; figures of the finished ones lie beside them."""
  open_ones = [family for family in families if not (prepared / "finished" / f"{family}.json").exists()]
  if open_ones:
    with multiprocessing.get_context("spawn").Pool(min(workers, len(open_ones)), maxtasksperchild=3) as pool:
      pool.starmap(_family, [(prepared, family) for family in open_ones], chunksize=1)


def _family(prepared: Path, family: str) -> None:
  finished = prepared / "finished" / family
  written = [str(path) for path in _written(State("finished", family), finished)]
  for state in STATES:
    if state.family == family and state.name != "finished":
      _written(state, prepared / state.name / family, stop_after=_moment(state, written))
  settings.drop_programs_above(0.0)
  (prepared / "finished" / f"{family}.json").write_text(json.dumps(figures.figures(finished)))


def _moment(state: State, written: list[str]) -> int:
  """After how many files the run is stopped."""
  matching = [n for n, name in enumerate(written, 1) if re.search(CHECKPOINT, name)]
  if state.name == "judging":
    matching = [n for n, name in enumerate(written, 1) if re.search(EVALUATION, name)]
  return matching[-2] if len(matching) > 1 else matching[0]


def _written(state: State, root: Path, stop_after: int | None = None) -> list[str]:
  """Runs the command in this process; returns the files that it named, in order.

  Raises:
    RuntimeError: it ended in another way than it should.
  """
  names: list[str] = []
  replace, err = os.replace, io.StringIO()

  def counting(source, target, **options):
    replace(source, target, **options)
    names.append(str(target))
    if len(names) == stop_after:
      raise KeyboardInterrupt

  os.replace = counting
  try:
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
      status = run.main(state.arguments(root))
  finally:
    os.replace = replace
  if status != (0 if stop_after is None else 130):
    raise RuntimeError(f"{state}: exit status {status}: {err.getvalue()[-500:]}")
  return names


def files(prepared: Path, state: State) -> Iterator[tuple[str, Path]]:
  """The files of a state, with names that are the same in every preparation: Orbax calls its own at random."""
  root, counts = prepared / state.name / state.family, {}
  for path in sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".log"):
    below = path.relative_to(root)
    if below.parent.name == "d" and "checkpoints" in below.parts:
      counts[below.parent] = counts.get(below.parent, -1) + 1
      yield f"{below.parent}/{counts[below.parent]}", below
    else:
      yield str(below), below
