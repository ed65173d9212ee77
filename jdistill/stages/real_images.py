"""The real images that a set is made of: all that there are, or a few of each class that were chosen before."""

from typing import Any

import numpy as np

from jdistill import catalog
from jdistill.config.arms import SELECT_SECTIONS, SELECTED
from jdistill.jobs import choices
from jdistill.runs.run import Run
from jdistill.synthetic import random_real

SEEDS = (0,)  # one choice for the run; another is that of another `seed`


def kept(run: Run) -> int | None:
  """How many real images of each class the run's method is given; `None` for all."""
  row = catalog.row(run.config["method"]["name"])
  keeps = row.build("start")(**row.options_of(run.config["method"], "start")).keeps
  return None if keeps is None else keeps(run.config["ipc"])


def arm_of(run: Run) -> dict[str, Any]:
  """The choice of a run's real images as that of an arm (`jdistill.jobs.subset`)."""
  c = run.config
  own = {name: c[name] for name in SELECT_SECTIONS}
  own["select"] = c["select"] | {"per_class": kept(run), "fraction": None}
  return {"task": c["task"], "data_policy": {"name": SELECTED}, **own}


def choice(run: Run) -> choices.Found:
  """What stage `prune` chose, made first where it is missing."""
  return choices.ready(run, run.subject, arm_of(run), SEEDS, "prune")


def positions(run: Run, *, ahead: bool = False) -> np.ndarray | None:
  """Positions of the real images that the method is given, class by class in the order of their choice.

  Args:
    run: the run.
    ahead: asks for as many of each class as there will be, before anything is chosen.

  Returns:
    `[classes * kept]`, random ones where nothing chooses; `None` where it is given all.
  """
  count, task = kept(run), run.task()
  if count is None:
    return None
  if ahead or "prune" not in run.config["stages"]:
    return random_real(np.random.default_rng((run.config["seed"], 6)), task.teacher.y, count, task.num_classes)
  return choice(run).chosen.positions[0]


def images(run: Run, *, ahead: bool = False) -> tuple[np.ndarray, np.ndarray]:
  """The real images that the method is given, in network space, and their labels; see `positions`."""
  real, chosen = run.task().teacher, positions(run, ahead=ahead)
  return (real.x, real.y) if chosen is None else (real.x[chosen], real.y[chosen])
