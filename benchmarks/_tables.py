"""What pages of comparisons are made of: the runs of a finished sweep, means by repetition, claims and Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docs import ledger
from docs.claims import Claim, write_claims
from jdistill.files import read_json, write_text
from jdistill.stages.sweep import file_name

RESULTS = Path("docs/results")
Runs = Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]]  # (group, series) -> seed -> what a run came to
_END = "<!-- end of the tables -->\n"


def runs_of(workdir: Path, groups: Iterable[str], series: Sequence[str]) -> Runs:
  """What every run of a sweep came to."""
  found: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
  names = {file_name(f"{g}-{s}"): (g, s) for g in groups for s in series}
  for path in sorted((workdir / "cells").glob("*/summary.json")):
    name, _, seed = path.parent.name.rpartition("-seed")
    found.setdefault(names[name], {})[int(seed)] = read_json(path)
  return found


def commit_of(workdir: Path) -> str | None:
  """The commit that a sweep ran with."""
  return read_json(next(iter(sorted((workdir / "cells").glob("*/environment.json"))))).get("git_commit")


def figures(runs: Mapping[int, Mapping[str, Any]], arm: str, key: str = "mean") -> dict[int, float]:
  """A figure of a set by repetition; empty where the runs have no such set."""
  return {seed: one["arms"][arm][key] for seed, one in runs.items() if one["arms"].get(arm, {}).get(key) is not None}


def claim(sides: Mapping[str, Mapping[int, float]], *, method: str, ipc: int, **words: Any) -> Claim:
  """A claim about two sets, by what both came to in the same repetitions.

  Args:
    sides: `{arm: figures, reference: figures}`.
    method, ipc: of the arm.
    **words: as `docs.ledger.claim_of` takes them.
  """
  (arm, one), (reference, other) = sides.items()
  shared = sorted(one.keys() & other.keys())
  arms = {label: {"scores": {"accuracy": [side[seed] for seed in shared]}} for label, side in sides.items()}
  summary = {"metric": "accuracy", "method": method, "dataset": "digits", "ipc": ipc, "arms": arms}
  return ledger.claim_of(summary, arm=arm, reference=reference, **words)


def interval(value: float, half_width: float) -> str:
  """`+0.012 ± 0.003`."""
  return f"{value:+.3f} ± {half_width:.3f}"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]], *, text: int = 1) -> str:
  """A table whose first `text` columns are words and whose others are numbers."""
  marks = ["---"] * text + ["---:"] * (len(headings) - text)
  return "\n".join("| " + " | ".join(cells) + " |" for cells in [headings, marks, *rows])


def write_page(name: str, head: str, tables: Sequence[str], claims: Iterable[Claim]) -> None:
  """Writes the tables of a page, of which the text below them stays, its claims, and the list of all claims."""
  write_claims(RESULTS / f"{name}.json", claims)
  page = RESULTS / f"{name}.md"
  text = page.read_text(encoding="utf-8").partition(_END)[2] if page.exists() else ""
  write_text(page, "\n".join([head, *tables]) + f"\n{_END}{text}")
  write_text(RESULTS / "README.md", ledger.text_of(RESULTS))
