"""Stage `warm_up`: moves the initial images by another method before the run's own.

Trajectory matching with many images per class takes many costly steps before it gains anything. A method without inner
steps, such as distribution matching, brings the images a good part of the way in a small share of the time. The other
method is a run of its own in `warm_up/` of the work directory; it shares data, log and stop with this one.
"""

import time
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np

from jdistill import catalog, schema
from jdistill.base import UserError
from jdistill.config import Declared
from jdistill.config.sections import Named
from jdistill.files import write_npz
from jdistill.jobs import trajectories
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.schema import Range
from jdistill.stages import build, distill
from jdistill.stages.stage import Part, Stage
from jdistill.synthetic import SyntheticSet, expert_label_logits, to_arrays

_LEAVES = (distill.WARM,)


class Keys(NamedTuple):
  """Keys at the top."""

  warm_up_steps: Annotated[int, Range(0)] = 0


def names() -> list[str]:
  """Methods that can come first: those without teachers whose images keep the labels of their classes."""
  rows = (catalog.row(name) for name in catalog.names("distill"))
  return [row.name for row in rows if "teachers" not in row.stages and _keeps_labels(row)]


def _keeps_labels(row: catalog.Row) -> bool:
  return row.values.get("labels") == "hard" and not any(key.startswith("label_") for key in row.fields())


def _opened(untouched: Mapping[str, Any], out: dict[str, Any]) -> None:
  """The stage is there where it has something to do."""
  if "warm_up" not in out["stages"] and untouched.get("warm_up_steps") is None:
    out["warm_up_steps"] = 0  # of a table, for a run whose stages are fewer
  if out["warm_up_steps"] == 0:
    out["stages"] = [name for name in out["stages"] if name != "warm_up"]
    if not out["stages"]:
      raise UserError("stages=('warm_up',): there is nothing to do with warm_up_steps=0; set warm_up_steps=100")
  elif "warm_up" not in out["stages"] and "distill" in out["stages"]:
    raise UserError(
      f"warm_up_steps={out['warm_up_steps']}: is the work of the stage warm_up; add it to config.stages before distill"
    )


def first(run: Run) -> Run:
  """The run of the other method."""
  steps = run.config["warm_up_steps"]
  own = {"method": run.config["warm_up"], "stages": ["distill"], "steps": steps, "snapshot_every": None, "keep": "last"}
  return run.within("warm_up", {**run.config, **own})


def _check(run: Run) -> None:
  try:
    distill.STAGE.check(first(run))
  except UserError as error:
    raise UserError(f"warm_up: {error}") from error


def _run(run: Run) -> None:
  begin = time.monotonic()
  initial, other = distill.begin_with(run), first(run)
  run.log(f"warm_up: {run.config['warm_up_steps']} steps of {other.config['method']['name']}")
  on_first(lambda: write_npz(other.workdir / distill.INITIAL, to_arrays(initial._replace(labels=_classes(run)))))
  if other.finished("distill", distill.STAGE.leaves) is None:
    distill.STAGE.run(other)
  images = distill.load(other, "distilled").images
  on_first(lambda: write_npz(run.workdir / distill.WARM, to_arrays(_labelled(run, initial, images))))
  run.finish("warm_up", begin, _LEAVES, method=other.config["method"]["name"], steps=run.config["warm_up_steps"])


def _classes(run: Run) -> np.ndarray:
  """The class of every synthetic image, as all sets are sorted."""
  return np.arange(build.count(run), dtype=np.int32) // run.config["ipc"]


def _labelled(run: Run, initial: SyntheticSet, images: np.ndarray) -> SyntheticSet:
  """The moved images with what experts now say of them, or with their classes where labels are hard."""
  if initial.labels.ndim == 1:
    return initial._replace(images=images)
  buffer = trajectories.ready(run)
  logits = trajectories.logits(run, buffer, images, range(run.config["teachers"]["count"]))
  return initial._replace(images=images, labels=expert_label_logits(logits, _classes(run)))


def _plan(run: Run) -> list[tuple[str, ...]]:
  return [] if run.config["warm_up_steps"] == 0 else distill.STAGE.plan(first(run))


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  line = f"the initial images were first moved by {record['steps']} steps of {record['method']}"
  return Part({"warm_up": record["method"]}, lines=[line])


STAGE = Stage(
  "warm_up",
  _run,
  Declared(
    schema.fields(Keys),
    {"warm_up": Named(names, lambda name: catalog.row(name).fields(), {"name": names()[0]})},
    opened=_opened,
  ),
  _LEAVES,
  _check,
  plan=_plan,
  report=_report,
)
