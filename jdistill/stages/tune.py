"""Stage `tune`: tries every combination of every arm's grid on held-out examples."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from jdistill.base import UserError
from jdistill.jobs import arms
from jdistill.jobs.arms import ARMS
from jdistill.runs import grid
from jdistill.runs.run import Run
from jdistill.stages.stage import Stage

_FILE = "tuned.json"
_FIRST_SEED = 10_000  # others than the students'


def _trials(run: Run) -> dict[str, list[tuple[dict[str, Any], dict]]]:
  """The combinations of every arm."""
  c = run.config
  return {label: ARMS.combinations(c["arms"][label], points) for label, points in c["tune"].items()}


def _run(run: Run) -> None:
  """Leaves a cell `"LABEL/NUMBER"` per combination."""
  found, trials = grid.Grid(run, "tune", _FILE), _trials(run)
  seeds = list(range(_FIRST_SEED, _FIRST_SEED + run.config["tune_seeds"]))

  def one(cell: str) -> dict[str, Any]:
    label, _, number = cell.rpartition("/")
    chosen, arm = trials[label][int(number)]
    task = run.task(arm["task"])
    words = ", ".join(f"{name.partition('/')[2]}={_text(value)}" for name, value in chosen.items())
    scores, _ = arms.train_arm(run, label, f" ({words})", arm, seeds, task.validation, "tune")
    return {"values": [one[task.metric] for one in scores]}

  found.work([f"{label}/{number}" for label in trials for number in range(len(trials[label]))], one)
  for label in trials:
    chosen, _ = best(run, label, found.cells, trials[label])
    run.log(f"tune: {label}: {', '.join(f'{key}={value}' for key, value in chosen.items())}")
  found.finish()


def _text(value: Any) -> str:
  return f"{value:g}" if isinstance(value, float) else str(value)


def best(run: Run, label: str, cells: Mapping[str, Any], trials: list) -> tuple[dict[str, Any], dict]:
  """The combination with the best mean on the validation examples, and the arm with it; of equals the first.

  Raises:
    UserError: every one of them diverged.
  """
  sign = 1 if run.task(run.config["arms"][label]["task"]).higher else -1
  whole = [number for number in range(len(trials)) if "failed" not in cells[f"{label}/{number}"]]
  if not whole:
    raise UserError(f"tune.{label}: no combination has a finite loss; lower train.lr, or change the grid")
  return trials[max(whole, key=lambda number: sign * np.mean(cells[f"{label}/{number}"]["values"]))]


def chosen(run: Run) -> tuple[dict[str, dict], dict[str, dict[str, Any]]]:
  """All arms with what this stage chose for them, and the choices themselves."""
  c = run.config
  tuned, choices = {label: copy.deepcopy(c["arms"][label]) for label in c["order"]}, {}
  if "tune" in c["stages"] and c["tune"]:
    cells = grid.load(run, _FILE)
    for label, trials in _trials(run).items():
      choices[label], tuned[label] = best(run, label, cells, trials)
  return tuned, choices


def _plan(run: Run) -> list[tuple[str, str]]:
  trials = sum(len(points) for points in _trials(run).values())
  return [(f"{trials} combinations with {run.config['tune_seeds']} seeds each, on held-out examples", "")]


STAGE = Stage("tune", _run, leaves=(f"stages/{_FILE}",), plan=_plan)
