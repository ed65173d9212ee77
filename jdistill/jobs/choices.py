"""What a selector chose for the students of some seeds: an artefact that all runs share."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jdistill.base import UserError
from jdistill.data.policies import Chosen
from jdistill.files import read_npz, sha256_arrays, write_npz
from jdistill.jobs import proxies, rollouts, scoring, subset
from jdistill.runs import artefacts
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.selection.select import Choice, Evidence, select

_RECORD, _ARRAYS = "choice.json", "choice.npz"


class Found(NamedTuple):
  """What was chosen for the students of some seeds.

  Attributes:
    chosen: positions and weights.
    proxy_seconds: of training the proxies of all seeds and asking them, without compilation.
    select_seconds: of the choices of all seeds.
    about: figures for reports.
  """

  chosen: Chosen
  proxy_seconds: float
  select_seconds: float
  about: Mapping[str, Any]


def _identity(run: Run, arm: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
  if scoring.is_scored(arm):
    evidence = [scoring.identity_of(run, arm, kind) for kind in scoring.kinds(arm)]
  elif rollouts.is_asked(arm):
    evidence = rollouts.identity_of(run, arm)
  elif subset.has_proxies(arm):
    evidence = proxies.identity_of(run, arm, seeds)
  else:
    task = run.task(arm["task"])
    members = sha256_arrays({"members": subset.members(run, arm, seeds)})
    evidence = {"data": run.fingerprint(task.data), "members": members}
  own = dict(arm["select"]) | subset.budget(arm) | {"fraction": subset.budget(arm).get("fraction")}
  return {"evidence": evidence, "select": own, "seeds": list(seeds), "seed": run.config["seed"]}


def ready(run: Run, label: str, arm: Mapping[str, Any], seeds: Sequence[int], stage: str) -> Found | None:
  """What students of some seeds train on, chosen first where it is missing; `None` for arms that select nothing.

  Args:
    run: the run.
    label: of the arm, for messages.
    arm: its sections.
    seeds: of the students.
    stage: that asks, for messages.
  """
  if not subset.is_selected(arm):
    return None
  identity = _identity(run, arm, seeds)
  path = run.artefact("choices", **identity)
  make = lambda: _choose(run, label, arm, seeds, stage, path, identity)  # noqa: E731
  record = artefacts.ready(run, "select", path, _RECORD, identity, make)
  found = read_npz(path / _ARRAYS)
  return Found(
    Chosen(found["positions"], found["weights"]), record["proxy_seconds"], record["select_seconds"], record["about"]
  )


def verify(run: Run, arm: Mapping[str, Any], seeds: Sequence[int]) -> None:
  """Looks at what was chosen.

  Raises:
    Damaged: a file is missing or is not as it was written.
  """
  identity = _identity(run, arm, seeds)
  artefacts.checked(run.artefact("choices", **identity), _RECORD, identity)


def _choose(run, label, arm, seeds, stage: str, path: Path, identity: Mapping[str, Any]) -> None:
  found, asked, scores, seconds = None, {}, {}, 0.0
  if scoring.is_scored(arm):
    scores = scoring.ready(run, label, arm, stage)
    seconds = sum(record["seconds"] for record in scores.values())
  elif rollouts.is_asked(arm):
    asked = rollouts.ready(run, label, arm, stage)
    seconds = asked["seconds"]
  elif subset.has_proxies(arm):
    found, record = proxies.ready(run, label, arm, seeds, stage)
    seconds = record["seconds"]

  def write() -> None:
    rows, took = [], 0.0
    for place, seed in enumerate(seeds):
      evidence = _evidence(run, arm, seed, place, found)
      if not place:
        _select(run, label, arm, seed, evidence)  # compiles what a selector compiles, which no time here counts
      begin = time.monotonic()
      rows.append(_select(run, label, arm, seed, evidence))
      took += time.monotonic() - begin
    chosen = _together(rows)
    values = {} if any(row.value is None for row in rows) else {"values": _filled(rows, chosen)}
    write_npz(path / _ARRAYS, chosen._asdict() | values)
    notes = {name: [row.notes.get(name, 0) for row in rows] for name in sorted({n for row in rows for n in row.notes})}
    about = _about(run, arm, seeds, chosen) | ({"notes": notes} if notes else {})
    about |= scoring.about(run, arm, scores) if scores else {}
    about |= dict(asked["about"]) | {"smoke_flops": asked["flops"]} if asked else {}
    artefacts.write(path, _RECORD, identity, (_ARRAYS,), proxy_seconds=seconds, select_seconds=took, about=about)
    count = chosen.positions.shape[1]
    run.log(f"{stage}: {label}: {arm['select']['name']} keeps {count} of {len(evidence.labels)} examples, {took:.2f} s")
    for name, counts in notes.items():
      run.log(f"{stage}: {label}: {name}: {np.mean(counts):g} on average over seeds, {max(counts)} at most")

  on_first(write)


def _select(run: Run, label: str, arm: Mapping[str, Any], seed: int, evidence: Evidence) -> Choice:
  rng = np.random.default_rng((run.config["seed"], 41, seed))
  try:
    found = select(rng, arm["select"]["name"], evidence, **subset.options_for(run, arm))
  except UserError as error:
    raise UserError(f"{label}: {error}") from error
  if not subset.has_chunks(run, arm):
    return found
  order = np.argsort(found.index)  # that of the corpus
  value = None if found.value is None else found.value[order]
  return Choice(subset.pool(run, arm)[found.index[order]], value=value)


def _evidence(run: Run, arm: Mapping[str, Any], seed: int, place: int, found: Path | None) -> Evidence:
  """What is known of the examples that the student of a seed may keep."""
  if scoring.is_scored(arm):
    return scoring.evidence(run, arm)
  if rollouts.is_asked(arm):
    return rollouts.evidence(run, arm)
  return proxies.evidence(run, arm, seed, place, found)


def _together(rows: Sequence[Choice]) -> Chosen:
  """The choices of all seeds as arrays; shorter ones are filled up with their first example at weight zero."""
  size = max(len(row.index) for row in rows)
  positions, weights = np.zeros((len(rows), size), np.int32), np.zeros((len(rows), size), np.float32)
  for place, row in enumerate(rows):
    positions[place] = row.index[0]
    positions[place, : len(row.index)] = row.index
    weights[place, : len(row.index)] = 1.0 if row.weight is None else row.weight
  return Chosen(positions, weights)


def _filled(rows: Sequence[Choice], chosen: Chosen) -> np.ndarray:
  """By what each was chosen, beside its position; NaN where a row is only filled up."""
  found = np.full(chosen.positions.shape, np.nan, np.float32)
  for place, row in enumerate(rows):
    found[place, : len(row.index)] = row.value
  return found


def _about(run: Run, arm: Mapping[str, Any], seeds: Sequence[int], chosen: Chosen) -> dict[str, Any]:
  """How many examples there are and are kept, the range of the weights, and the share of wrong labels where known."""
  data, members = run.task(arm["task"]).data, subset.members(run, arm, seeds)
  used = [weights > 0 for weights in chosen.weights]
  places = [row[own[here]] for row, own, here in zip(members, chosen.positions, used, strict=True)]
  weights = np.concatenate([row[here] for row, here in zip(chosen.weights, used, strict=True)])
  found = {
    "examples": members.shape[1],
    "kept": [len(own) for own in places],
    "weights": [float(weights.min()), float(weights.max())],
  }
  if (domain := data.extra.get("domain")) is not None:
    names = run.task(arm["task"]).domains
    found["domains"] = {name: [float(np.mean(domain[own] == i)) for own in places] for i, name in enumerate(names)}
  if (clean := data.extra.get("clean_labels")) is not None:
    found["wrong_labels"] = [float(np.mean(np.asarray(clean)[own] != np.asarray(data.y)[own])) for own in places]
  return found
