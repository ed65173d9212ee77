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

from benchmarks._tables import Runs, claim, commit_of, figures, interval, markdown, runs_of, write_page
from docs.claims import Claim
from experiments import compare_matching
from jdistill.files import read_json
from jdistill.reporting.comparison import paired_difference
from jdistill.stages.sweep import file_name

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


def claims_of(runs: Runs, command: str, commit: str | None) -> dict[str, Claim]:
  """Every method against random images of its loss, and methods against the ones they build on, by name."""
  series, found = compare_matching.series(), {}

  def add(name: str, method: str, statement: str, sides: dict[str, dict[int, float]], ipc: int, note: str) -> None:
    words = {"name": name, "statement": statement, "command": command, "commit": commit, "note": note}
    found[name] = claim(sides, method=METHODS.get(method, method.lower()), ipc=ipc, **words)

  for group, (ipc, words) in GROUPS.items():
    own = {name: figures(runs[group, name], "distilled") for name in series}
    for name in series:
      random = figures(runs[group, name], "random_hard") or figures(runs[group, series[0]], "random_hard")
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


def _sets(summary: Mapping[str, Any], claims: Mapping[str, Claim], group: str) -> str:
  """The sets of one group, in Markdown."""
  scores, more = summary["groups"][group], summary["more"][group]
  real = [name for name in scores if name not in more and name != "full_data"]
  best = max(real, key=lambda name: np.mean(scores[name]))
  heads = ["set", "accuracy", "against random images (95%)", "against the best real images (95%)", "LRS", "ARS"]
  rows = []
  for name, values in scores.items():
    gap = "" if name == best else interval(*paired_difference(values, scores[best]))
    row = [name, f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}", "", gap, "", "", "", ""]
    if name in more:
      own, effect = more[name], claims[f"compare_{file_name(name)}_ipc{GROUPS[group][0]}"].effect
      minutes, seconds = divmod(round(own["distill seconds"]), 60)
      ranking = [f"{np.mean(own[key]):.3f}" for key in ("label_robust_score", "augmentation_robust_score")]
      row[2] = interval(effect.value, effect.half_width)
      row[4:] = [*ranking, f"{minutes}:{seconds:02d}", f"{own['stored_bytes'] / 1000:.1f} kB"]
    rows.append(row)
  return markdown([*heads, "distillation", "stored"], rows)


def _pairs(claims: Mapping[str, Claim]) -> str:
  rows = []
  for one in claims.values():
    if one.reference != "random_hard":
      effect = interval(one.effect.value, one.effect.half_width)
      rows.append([f"IPC {one.name.rpartition('ipc')[2]}", f"{one.arm} - {one.reference}", effect, one.verdict])
  return markdown(["at", "difference", "accuracy (95%)", ""], rows, text=2)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--workdir", type=Path, required=True)
  parser.add_argument("--command", required=True, help="that made the work directory")
  given = parser.parse_args()
  runs = runs_of(given.workdir, GROUPS, compare_matching.series())
  summary = read_json(given.workdir / "summary.json")
  claims = claims_of(runs, given.command, commit_of(given.workdir))
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
  write_page("compare_matching", head, tables, claims.values())
  return 0


if __name__ == "__main__":
  sys.exit(main())
