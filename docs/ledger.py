"""Keeps the ledger of claims: `python -m docs.ledger write`, or `add` for a run.

    python -m docs.ledger add --workdir=runs/pld --name=pld_over_ce --arm=pld --reference=ce \
      --statement="PLD is above plain training." --command="python -m jdistill.run --config=experiments/pld.py"

`add` takes the figures of a finished run, computes effect and verdict, and writes `docs/results/NAME.json` and the
page. Of a sweep it takes two series of a group: `--group="IPC 1" --arm=early --reference=late`.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from docs.claims import Arm, Claim, Effect, page, read_claims, verdict_of, write_claims
from jdistill import catalog
from jdistill.base import UserError
from jdistill.evaluation import time_to_accuracy
from jdistill.files import read_json, write_text
from jdistill.reporting.comparison import paired_difference
from jdistill.schema import near_matches


def claim_of(
  summary: Mapping[str, Any],
  *,
  name: str,
  statement: str,
  command: str,
  arm: str,
  reference: str,
  group: str | None = None,
  metric: str | None = None,
  target: float | None = None,
  direction: str | None = None,
  commit: str | None = None,
  note: str = "",
) -> Claim:
  """A claim from the figures of a run.

  Arms are compared by the paired differences of their seeds (Student's 95% interval).

  Args:
    summary: what a run left in `summary.json`.
    name, statement, command, commit, note: see `Claim`.
    arm, reference: labels of arms or sets, or series of a sweep.
    group: which comparison of a sweep.
    metric: the run's own one by default.
    target: a score on held-out examples; what is compared are then updates until each seed is there.
    direction: the sign that the paper claims; by default the one that is better in the run's metric, fewer updates.

  Raises:
    UserError: an arm that the summary does not have, or arms with other seeds; a target that a seed does not reach.
  """
  metric = metric or summary.get("metric", "accuracy")
  better = summary.get("higher_is_better", True)
  direction = direction or ("higher" if better and target is None else "lower")
  if target is None:
    sides = {label: _arm(summary, label, metric, group) for label in (arm, reference)}
  else:
    sides = {label: _updates(summary, label, metric, target, better) for label in (arm, reference)}
    metric = f"updates to {target:g} {metric}"
  one, other = sides[arm], sides[reference]
  if len(one.scores) != len(other.scores):
    raise UserError(
      f"{arm}, {reference}: {len(one.scores)} and {len(other.scores)} scores; they are not paired by seed"
    )
  seeds, (value, half_width) = len(one.scores), paired_difference(one.scores, other.scores)
  kind, level = "paired difference", 0.95
  if not math.isfinite(half_width) or half_width == 0:  # one seed, or seeds that share one network and its noise
    half_width, kind, level = None, "no interval", None
  effect = Effect(round(value, 6), None if half_width is None else round(half_width, 6), kind, level)
  data = ", ".join(dict.fromkeys(str(part) for part in (summary.get("dataset"), group) if part))
  if "ipc" in summary:
    data += f", {summary['ipc']} image{'s' if summary['ipc'] > 1 else ''} per class"
  return Claim(
    name=name,
    method=summary.get("system") or summary.get("method", name.partition("_")[0]),
    statement=statement,
    command=command,
    config_hash=summary.get("config_hash"),
    data=data,
    metric=metric,
    direction=direction,
    arm=arm,
    reference=reference,
    arms=sides,
    seeds=seeds,
    effect=effect,
    verdict=verdict_of(effect, direction),
    commit=commit,
    note=note,
  )


def _arm(summary: Mapping[str, Any], label: str, metric: str, group: str | None) -> Arm:
  """One side of a comparison: an arm, or a series of a sweep's group."""
  found = summary["groups"].get(group, {}) if group else summary.get("arms", {})
  if label not in found:
    raise UserError(f"--arm or --reference={label}: the run has none of that name{near_matches(label, found)}")
  scores = found[label] if group else found[label].get("scores", {}).get(metric)
  if not scores:
    raise UserError(f"{label}: the run has no {metric} of it; choose another --metric")
  return _side(scores)


def _updates(summary: Mapping[str, Any], label: str, metric: str, target: float, higher: bool) -> Arm:
  """Updates until the held-out score of each seed of an arm is at a target."""
  found = summary.get("arms", {})
  if label not in found:
    raise UserError(f"--arm or --reference={label}: the run has none of that name{near_matches(label, found)}")
  curve = found[label].get("curve")
  if not curve or metric not in curve[0]["scores"][0]:
    raise UserError(f"{label}: the run has no curve of {metric}; set score_every, or choose another --metric")
  steps = [point["step"] for point in curve]
  seeds = range(len(curve[0]["scores"]))
  scores = [[point["scores"][seed][metric] for point in curve] for seed in seeds]
  updates = [time_to_accuracy(steps, one, target, higher=higher) for one in scores]
  if not all(map(math.isfinite, updates)):
    raise UserError(f"--target={target:g}: a seed of {label} is never there; choose one that all reach")
  return _side(updates)


def _side(scores: Sequence[float]) -> Arm:
  std = round(float(np.std(scores, ddof=1)), 6) if len(scores) > 1 else None
  return Arm(round(float(np.mean(scores)), 6), std, tuple(float(value) for value in scores))


def text_of(directory: Path) -> str:
  """The page of the claims in a directory.

  Raises:
    UserError: a damaged file, or a method that the catalog does not have.
  """
  ledger = read_claims(directory)
  for file, claims in ledger.items():
    for claim in claims:
      if claim.method not in [row.name for row in catalog.rows()]:
        known = near_matches(claim.method, [row.name for row in catalog.rows()])
        raise UserError(f"{file}.json: method={claim.method!r} of {claim.name}: unknown{known}")
  papers = {row.name: row.paper for row in catalog.rows()}
  return page(ledger, papers, (path.stem for path in directory.glob("*.md")))


def recorded(workdir: Path) -> tuple[dict[str, Any], str | None]:
  """What a finished run or sweep came to, and the commit that it ran with; a sweep's method and data are its runs'.

  Raises:
    UserError: the run left no such files.
  """
  summary = read_json(workdir / "summary.json")
  cells = sorted((workdir / "cells").glob("*/summary.json")) if "groups" in summary else []
  for cell in cells[:1]:
    workdir, own = cell.parent, read_json(cell)
    summary = {key: own[key] for key in ("system", "method", "dataset", "higher_is_better") if key in own} | summary
  return summary, read_json(workdir / "environment.json").get("git_commit")


def add(directory: Path, file: str, claim: Claim) -> None:
  """Records a claim in one file of the ledger, in place of an earlier one of the same name."""
  claims = [old for old in read_claims(directory).get(file, []) if old.name != claim.name]
  write_claims(directory / f"{file}.json", [*claims, claim])


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser("python -m docs.ledger", description="Keeps the ledger of claims.")
  parser.add_argument("--directory", type=Path, default=Path("docs/results"), help="where the ledger lies")
  actions = parser.add_subparsers(dest="action", required=True)
  actions.add_parser("write", help="make README.md of the JSON files")
  run = actions.add_parser("add", help="record a run's figures and make README.md")
  run.add_argument("--workdir", type=Path, required=True, help="of the finished run")
  run.add_argument("--name", required=True, help="of the claim, unique in the ledger")
  run.add_argument("--statement", required=True, help="what the paper says, one sentence")
  run.add_argument("--command", required=True, help="the command of the run")
  run.add_argument("--arm", required=True, help="label of the side that the claim is about")
  run.add_argument("--reference", required=True, help="label of the side that it is compared with")
  run.add_argument("--file", help="NAME of docs/results/NAME.json; by default the method's name")
  run.add_argument("--group", help="which comparison of a sweep")
  run.add_argument("--metric", help="by default the run's own one")
  run.add_argument("--target", type=float, help="a held-out score: compare updates until each seed is there")
  run.add_argument("--direction", choices=("higher", "lower"), help="of the claimed effect; by default the better one")
  run.add_argument("--note", default="", help="what a reader must know")
  return parser


def main(arguments: Sequence[str]) -> int:
  """The command; returns the exit status."""
  values = vars(_parser().parse_args(arguments))
  directory, action = values.pop("directory"), values.pop("action")
  try:
    if action == "add":
      workdir, file = values.pop("workdir"), values.pop("file")
      summary, commit = recorded(workdir)
      claim = claim_of(summary, commit=commit, **values)
      add(directory, file or claim.method, claim)
      print(f"{claim.name}: {claim.effect}: {claim.verdict}")
    text = text_of(directory)
    write_text(directory / "README.md", text)
    print(text.splitlines()[2])
  except UserError as error:
    print(f"jdistill: {error}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
