"""Keeps the ledger of claims: `python -m jdistill.ledger write`, or `add` for a run.

    python -m jdistill.ledger add --workdir=runs/pld --name=pld_over_ce --arm=pld --reference=ce \
      --statement="PLD is above plain training." --command="python -m jdistill.run --config=experiments/pld.py"

`add` takes the figures of a finished run, computes effect and verdict, and writes `docs/results/NAME.json` and the
page.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdistill import catalog
from jdistill.base import UserError
from jdistill.evaluation.paired import paired_difference
from jdistill.files import read_json, write_text
from jdistill.reporting.ledger import Arm, Claim, Effect, page, read_claims, verdict_of, write_claims


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
  direction: str | None = None,
  seeds: int | None = None,
  commit: str | None = None,
  note: str = "",
) -> Claim:
  """A claim from the figures of a run.

  Arms whose scores are known seed by seed are compared by their paired differences (Student's 95% interval). Where only
  means and standard deviations are known, `2 sqrt(s_1^2 / n + s_2^2 / n)` is the half width of the interval.

  Args:
    summary: what a run left in `summary.json`.
    name, statement, command, commit, note: see `Claim`.
    arm, reference: labels of arms, controls or series; the method's name or `"distilled"` for the distilled set.
    group: which of several comparisons, for sweeps.
    metric: the run's own one by default.
    direction: the sign that the paper claims; by default the one that is better in the run's metric.
    seeds: how many runs are behind a mean, where the summary does not say so.

  Raises:
    UserError: an arm that the summary does not have.
  """
  metric = metric or summary.get("metric", "accuracy")
  direction = direction or ("higher" if summary.get("higher_is_better", True) else "lower")
  sides = {label: _arm(summary, label, metric, group) for label in (arm, reference)}
  one, other = sides[arm], sides[reference]
  if one.scores and len(one.scores) == len(other.scores):
    seeds = len(one.scores)
    value, half_width = paired_difference(one.scores, other.scores)
    kind, level = "paired difference", 0.95
  else:
    seeds = min((len(side.scores) for side in (one, other) if side.scores), default=seeds or 1)
    value = one.mean - other.mean
    half_width = math.nan if None in (one.std, other.std) else 2 * math.sqrt((one.std**2 + other.std**2) / seeds)
    kind, level = "2 standard errors", None
  if seeds < 2 or not math.isfinite(half_width):
    half_width, kind, level = None, "no interval", None
  effect = Effect(round(value, 6), None if half_width is None else round(half_width, 6), kind, level)
  data = ", ".join(str(part) for part in (summary.get("dataset"), group) if part)
  if "ipc" in summary:
    data += f", {summary['ipc']} image{'s' if summary['ipc'] > 1 else ''} per class"
  return Claim(
    name=name,
    method=summary.get("method", name.partition("_")[0]),
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
  """One side of a comparison, wherever a summary keeps it: arms, a sweep's groups, or a set and its controls."""
  inner = summary.get("groups", {}).get(group, {}) if group else {}
  arms = inner.get("arms") or summary.get("arms") or {}
  sweep = summary.get("accuracies", {}).get(group, {})
  controls = inner.get("controls") or summary.get("controls") or {}
  known = [*arms, *sweep, *controls]
  if label in arms:
    found = arms[label]
    found = found.get("scores", found) if isinstance(found, Mapping) else found
  elif label in sweep:
    found = sweep[label]
  elif label in controls:
    found = controls[label]
  elif label in ("distilled", summary.get("method")):
    found = summary
  else:
    raise UserError(f"--arm or --reference={label}: the run has none of that name{catalog.near_matches(label, known)}")
  if isinstance(found, Mapping):
    for key in (metric, "scores", "accuracies", group):
      if isinstance(found.get(key), Sequence | np.ndarray):
        found = found[key]
        break
  if not isinstance(found, Mapping):
    scores = tuple(float(value) for value in found)
    std = round(float(np.std(scores, ddof=1)), 6) if len(scores) > 1 else None
    return Arm(round(float(np.mean(scores)), 6), std, scores)
  mean = found.get("mean", found.get("accuracy_mean", found.get(f"{metric}_mean")))
  if mean is None:
    raise UserError(f"{label}: the run has no {metric} of it; choose another --metric")
  std = found.get("std", found.get("accuracy_std", found.get(f"{metric}_std")))
  return Arm(round(float(mean), 6), None if std is None else round(float(std), 6))


def text_of(directory: Path) -> str:
  """The page of the claims in a directory.

  Raises:
    UserError: a damaged file, or a method that the catalog does not have.
  """
  ledger = read_claims(directory)
  for file, claims in ledger.items():
    for claim in claims:
      if claim.method not in catalog.names():
        known = catalog.near_matches(claim.method, catalog.names())
        raise UserError(f"{file}.json: method={claim.method!r} of {claim.name}: unknown{known}")
  papers = {row.name: row.arxiv for row in catalog.rows()}
  return page(ledger, papers, (path.stem for path in directory.glob("*.md")))


def add(directory: Path, file: str, claim: Claim) -> None:
  """Records a claim in one file of the ledger, in place of an earlier one of the same name."""
  claims = [old for old in read_claims(directory).get(file, []) if old.name != claim.name]
  write_claims(directory / f"{file}.json", [*claims, claim])


def _recorded(workdir: Path, keys: Sequence[str], file: str) -> Any:
  """A value of one of the run's files, or `None`."""
  value = read_json(workdir / file) if (workdir / file).exists() else None
  for key in keys:
    value = value.get(key) if isinstance(value, dict) else None
  return value


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser("python -m jdistill.ledger", description="Keeps the ledger of claims.")
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
      seeds = _recorded(workdir, ("eval", "seeds"), "config.json")
      commit = _recorded(workdir, ("git_commit",), "environment.json")
      claim = claim_of(read_json(workdir / "summary.json"), seeds=seeds, commit=commit, **values)
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
