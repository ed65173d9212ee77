"""Stage `keep`: of the sets on the way of a distillation, the one that networks learn most from.

Matching losses say how well a set does what it is asked to, not what it is worth. With `keep="best"` the sets of all
snapshots, the initial one among them and the real images before a warm-up, are compared on real training images, and
later stages see the best, with the learning rate at which it was.
"""

import functools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from jdistill import augment
from jdistill.base import Diverged, UserError
from jdistill.config import Declared
from jdistill.files import read_npz, write_npz
from jdistill.reporting import Section
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.stages import distill, sets, validation
from jdistill.stages.stage import Part, Stage
from jdistill.synthetic import SyntheticSet, to_arrays

_LEAVES = (distill.KEPT,)
_SEEDS = 2  # networks of a set and a rate
_BEFORE = -1  # in the place of the step: the images before stage `warm_up`


def _opened(untouched: Mapping[str, Any], out: dict[str, Any]) -> None:
  """The stage is there where it has something to do."""
  if out["keep"] == "last":
    out["stages"] = [name for name in out["stages"] if name != "keep"]
    if not out["stages"]:
      raise UserError("stages=('keep',): there is nothing to choose from with keep='last'; set keep='best'")
  elif "keep" not in out["stages"] and "evaluate" in out["stages"]:
    raise UserError("keep='best': is the work of the stage keep; add it to config.stages before evaluate")


def _run(run: Run) -> None:
  begin = time.monotonic()
  found = on_first(lambda: _choose(run))
  run.finish("keep", begin, _LEAVES, **found)


def _choose(run: Run) -> dict[str, Any]:
  """Compares the sets, writes the best, and gives their accuracies by step."""
  known = {int(path.stem): SyntheticSet(**read_npz(path)) for path in distill.on_the_way(run)}
  if not known:
    raise UserError(f"keep='best': no set is left in {run.workdir / distill.SETS}; run again in another --workdir")
  if distill.starts_from(run) == "warm_up":
    known[_BEFORE] = distill.load(run, "initial")
  first, last = min(known), max(known)
  rates = [float(rate) for rate in run.config["eval"]["control_lrs"]]
  accuracies = functools.partial(_accuracies, run, sets.started_from(run))
  of_last = accuracies(known[last], [*rates, float(known[last].lr)])
  _, rate = _best(of_last)
  own = rate == float(known[last].lr)  # then those before it are trained on at their own, too
  best = {last: (of_last[rate], rate)}
  if first != last:  # the start knows nothing of the rates that were learned
    best[first] = _best(accuracies(known[first], rates))
  for step in sorted(known.keys() - {first, last}):
    best[step] = _best(accuracies(known[step], [float(known[step].lr) if own else rate]))
  found = {step: accuracy for step, (accuracy, _) in sorted(best.items())}
  step = max(found, key=lambda step: (found[step], step))
  if not found[step] > -1:
    raise Diverged(f"keep: training diverges on every set at rates {rates}; add lower ones to eval.control_lrs")
  shown = ", ".join(f"{_name(step)}: {value:.3f}" for step, value in found.items())
  run.log(f"keep: the set of step {_name(step)} of {last}; accuracy on real training images by step: {shown}")
  kept = known[step]._replace(lr=np.float32(best[step][1]))
  write_npz(run.workdir / distill.KEPT, to_arrays(kept))
  return {"step": step, "last": last, "accuracies": {str(step): value for step, value in found.items()}}


def _name(step: int | str) -> str:
  return "before warm_up" if int(step) == _BEFORE else str(step)


def _best(accuracies: dict[float, float]) -> tuple[float, float]:
  """The highest accuracy and its rate."""
  rate = max(accuracies, key=accuracies.get)
  return accuracies[rate], rate


def _accuracies(run: Run, used: np.ndarray, one: SyntheticSet, rates: list[float]) -> dict[float, float]:
  """Accuracy by learning rate, below all others where training diverges."""
  e = run.config["eval"]
  given = sets.Set(
    one.images, one.labels, sets.protocol(e, cells=e["cells"]), used=used, view=augment.view(e["view"]).view
  )
  found = validation.accuracies(run, run.network(e["models"][0]), given, rates, seeds=_SEEDS)
  return {rate: value if np.isfinite(value) else -1.0 for rate, value in found.items()}


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  rows = [[_name(step), f"{value:.3f}"] for step, value in record["accuracies"].items()]
  text = (
    f"Networks learn most from the set of step {_name(record['step'])} of {record['last']}: mean accuracy of {_SEEDS} "
    "on real training images, at the best of a few rates. This set is the result."
  )
  line = f"the set of step {_name(record['step'])} of {record['last']} was kept"
  section = Section("Kept set", text, (("step", "accuracy"), rows))
  return Part({"kept_step": record["step"]}, lines=[line], sections=[section])


def _plan(run: Run) -> list[tuple[str, ...]]:
  return [("compares the sets of all snapshots by networks trained on them", "")]


STAGE = Stage("keep", _run, Declared(opened=_opened), _LEAVES, plan=_plan, report=_report)
