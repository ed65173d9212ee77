"""The page and the claims of `experiments/compare_matching.py`, from a finished sweep.

  python -m jdistill.run --config=experiments/compare_matching.py ... --workdir=runs/matching
  python -m benchmarks.matching_table --workdir=runs/matching --command="python -m jdistill.run ..."

Writes the tables of `docs/results/compare_matching.md`, of which the text below them stays, and all of
`compare_matching.json`.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from docs import ledger
from docs.claims import Claim, write_claims
from experiments import compare_matching
from jdistill.files import read_json, write_text
from jdistill.reporting.comparison import paired_difference
from jdistill.stages.sweep import file_name

RESULTS = Path("docs/results")
GROUPS = {"IPC 1": (1, "one image per class"), "IPC 10": (10, "ten images per class")}
METHODS = {"DSA": "dc", "FYI on DM": "fyi"}  # catalog rows of series that have other names
PAIRS = (
  ("AST", "MTT"),
  ("FTD", "MTT"),
  ("TESLA", "MTT"),
  ("DATM", "MTT"),
  ("DataDAM", "DM"),
  ("FYI on DM", "DM"),
  ("DSA", "DC"),
  ("RCIG", "FRePo"),
)
_END = "<!-- end of the tables -->\n"


def runs_of(workdir: Path) -> dict[tuple[str, str], dict[int, Mapping[str, Any]]]:
  """What every run came to: `(group, series) -> seed -> summary`."""
  found: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
  names = {file_name(f"{g}-{s}"): (g, s) for g in GROUPS for s in compare_matching.series()}
  for path in sorted((workdir / "cells").glob("*/summary.json")):
    name, _, seed = path.parent.name.rpartition("-seed")
    found.setdefault(names[name], {})[int(seed)] = read_json(path)
  return found


def means(runs: Mapping[int, Mapping[str, Any]], arm: str) -> dict[int, float]:
  """The mean of a set by repetition; empty where the runs have no such set."""
  return {seed: one["arms"][arm]["mean"] for seed, one in runs.items() if "mean" in one["arms"].get(arm, {})}


def claims_of(runs: Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]], command: str, commit: str | None):
  """Every method against random images of its loss, and methods against the ones they build on, by name."""
  series, found = compare_matching.series(), {}

  def add(name: str, method: str, statement: str, sides: dict[str, dict[int, float]], ipc: int, note: str) -> None:
    (arm, one), (reference, other) = sides.items()
    shared = sorted(one.keys() & other.keys())
    arms = {label: {"scores": {"accuracy": [side[seed] for seed in shared]}} for label, side in sides.items()}
    summary = {"metric": "accuracy", "method": METHODS.get(method, method.lower()), "dataset": "digits", "ipc": ipc}
    words = {"statement": statement, "command": command, "arm": arm, "reference": reference}
    found[name] = ledger.claim_of(summary | {"arms": arms}, name=name, commit=commit, note=note, **words)

  for group, (ipc, words) in GROUPS.items():
    own = {name: means(runs[group, name], "distilled") for name in series}
    for name in series:
      random = means(runs[group, name], "random_hard") or means(runs[group, series[0]], "random_hard")
      add(
        f"compare_{file_name(name)}_ipc{ipc}",
        name,
        f"At {words} the set of {name} trains networks better than random real images, with the same protocol.",
        {name: own[name], "random_hard": random},
        ipc,
        "Means of five networks for each of three distillations; random images are drawn anew for each network.",
      )
    for name, other in PAIRS:
      add(
        f"compare_{file_name(name)}_{file_name(other)}_ipc{ipc}",
        name,
        f"At {words} {name} is above {other}, with the same protocol.",
        {name: own[name], other: own[other]},
        ipc,
        "Three distillations of each; with teachers, these are shared.",
      )
  return found


def _interval(value: float, half_width: float) -> str:
  return f"{value:+.3f} ± {half_width:.3f}"


def _sets(summary: Mapping[str, Any], claims: Mapping[str, Claim], group: str) -> str:
  """The sets of one group, in Markdown."""
  scores, more = summary["groups"][group], summary["more"][group]
  real = [name for name in scores if name not in more and name != "full_data"]
  best = max(real, key=lambda name: np.mean(scores[name]))
  heads = ["set", "accuracy", "against random images (95%)", "against the best real images (95%)", "LRS", "ARS"]
  rows = [[*heads, "distillation", "stored"], ["---", *["---:"] * 7]]
  for name, values in scores.items():
    gap = "" if name == best else _interval(*paired_difference(values, scores[best]))
    row = [name, f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}", "", gap, "", "", "", ""]
    if name in more:
      own, effect = more[name], claims[f"compare_{file_name(name)}_ipc{GROUPS[group][0]}"].effect
      minutes, seconds = divmod(round(own["distill seconds"]), 60)
      ranking = [f"{np.mean(own[key]):.3f}" for key in ("label_robust_score", "augmentation_robust_score")]
      row[2] = _interval(effect.value, effect.half_width)
      row[4:] = [*ranking, f"{minutes}:{seconds:02d}", f"{own['stored_bytes'] / 1000:.1f} kB"]
    rows.append(row)
  return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def _pairs(claims: Mapping[str, Claim]) -> str:
  rows = [["at", "difference", "accuracy (95%)", ""], ["---", "---", "---:", "---"]]
  for claim in claims.values():
    if claim.reference != "random_hard":
      effect = _interval(claim.effect.value, claim.effect.half_width)
      rows.append([f"IPC {claim.name.rpartition('ipc')[2]}", f"{claim.arm} - {claim.reference}", effect, claim.verdict])
  return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", type=Path, required=True)
  parser.add_argument("--command", required=True, help="that made the work directory")
  given = parser.parse_args()
  runs, summary = runs_of(given.workdir), read_json(given.workdir / "summary.json")
  first = read_json(next(iter(sorted((given.workdir / "cells").glob("*/environment.json")))))
  claims = claims_of(runs, given.command, first.get("git_commit"))
  write_claims(RESULTS / "compare_matching.json", claims.values())
  page = RESULTS / "compare_matching.md"
  text = page.read_text(encoding="utf-8").partition(_END)[2]
  head = f"""# All methods of matching and regression in one table

    {given.command}

scikit-learn's digits, 1,297 training and 500 test images, ConvNet of depth 2 and width 32. Three repetitions, each with
its own teachers and distillation, and five fresh networks for each set. Mean and standard deviation are over the means
of the repetitions; differences are paired by repetition, with Student's 95% interval, which with three repetitions is
wide. Learning rates were chosen on real training images that are in no set. The tables and the claims are written by
`python -m benchmarks.matching_table`.
"""
  tables = [f"## {words[0].upper()}{words[1:]}\n\n{_sets(summary, claims, g)}\n" for g, (_, words) in GROUPS.items()]
  tables.append(f"## Methods against the ones they build on\n\n{_pairs(claims)}\n")
  write_text(page, "\n".join([head, *tables]) + f"\n{_END}{text}")
  write_text(RESULTS / "README.md", ledger.text_of(RESULTS))
  return 0


if __name__ == "__main__":
  sys.exit(main())
