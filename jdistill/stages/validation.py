"""What a set is worth on real training images that are not in it: for choices, which never look at test images."""

from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from jdistill.base import Batch, Network
from jdistill.data.subset import balanced_indices
from jdistill.evaluation import evaluate_seeds, examples_of
from jdistill.runs.run import Run
from jdistill.stages.sets import Set

_IMAGES = 1000
_CLEARLY = 0.03  # a difference of accuracies that is more than the noise of a network or two


def examples(run: Run, one: Set) -> Batch:
  """Small sets have labels of the same form, so that they share their programs."""
  small, loss = len(one.labels) < len(run.task().teacher.y), one.protocol.loss
  classes = run.task().num_classes if small or loss == "mse" else None
  return examples_of(one.images, one.labels, num_classes=classes, loss=loss, view=one.view)


def held_out(run: Run, used: Sequence[int]) -> np.ndarray:
  """Positions of up to 1,000 training images, equally many of each class, without those of a set; may be none."""
  task = run.task()
  free = np.setdiff1d(np.arange(len(task.teacher.y)), used)
  labels = task.teacher.y[free]
  least = int(np.bincount(labels, minlength=task.num_classes).min())
  count = min(_IMAGES, least * task.num_classes)
  if count >= task.num_classes:
    free = free[balanced_indices(labels, count, task.num_classes, seed=run.config["seed"], key="validation")]
  return free


def accuracy(run: Run, network: Network, one: Set, rate: float, *, seeds: int, mesh: Mesh | None = None) -> float:
  """Mean accuracy of networks trained on a set at a learning rate; NaN where one diverges, 0 without images."""
  task, rows = run.task(), held_out(run, one.used)
  if not len(rows):
    return 0.0
  x, y = task.teacher.x[rows], task.teacher.y[rows]
  options = {"key": run.key("validation"), "seeds": seeds, "mesh": mesh}
  return float(np.mean(evaluate_seeds(network, one.protocol, examples(run, one), rate, x, y, **options)))


def accuracies(
  run: Run, network: Network, one: Set, rates: Sequence[float], *, seeds: int, mesh: Mesh | None = None
) -> dict[float, float]:
  """`rate -> accuracy` from the largest rate downwards, until it is clearly less than at a larger one.

  Smaller rates than the best only train less far, so the rest need not be tried.
  """
  found: dict[float, float] = {}
  for rate in sorted(set(map(float, rates)))[::-1]:
    found[rate] = accuracy(run, network, one, rate, seeds=seeds, mesh=mesh)
    if np.nanmax([*found.values(), -1.0]) - found[rate] > _CLEARLY:
      break
  return found
