"""What a sample of a finished student costs: calls of its network, and time."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jdistill.base import Network, PyTree
from jdistill.jobs.train import Job, predictions
from jdistill.methods.knowledge.student import Trained, predictor
from jdistill.reporting import flops

_CALL = "network_evaluation"  # the name by which calls are found in the traced program
_TIMED = 1000  # draws at most


def costs(job: Job, trained: Trained, x: PyTree) -> dict[str, Any]:
  """Figures of the first student's sampler; nothing of students that are no samplers.

  Args:
    job: that trained it.
    trained: the finished students, with a leading axis.
    x: what samples are made of, `[n, ...]`.

  Returns:
    `evaluations`, how often a sample asks the network (its number of function evaluations, NFE), and `sample_seconds`,
    the time of 1,000 samples without compilation.
  """
  if job.recipe.sampler is None:
    return {}
  some = jax.tree.map(lambda leaf: np.asarray(leaf)[:_TIMED], x)
  own = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), trained)
  first = jax.tree.map(lambda leaf: leaf[:1], some)
  found = flops.calls(predictor(_named(job.network), job.recipe), _CALL, own, job.constants, first)
  sample, count = predictions(job, trained, 0), len(jax.tree.leaves(some)[0])
  return {"evaluations": found, "sample_seconds": _seconds(lambda: sample(some)) * 1000 / count}


def _seconds(work: Callable[[], Any]) -> float:
  work()  # compiles
  begin = time.perf_counter()
  work()
  return time.perf_counter() - begin


def _named(network: Network) -> Network:
  """The same network, each of whose calls is a program of a known name in what is traced."""

  def apply(params: PyTree, x: PyTree, **options: Any):
    def network_evaluation(params, x):
      return network.apply(params, x, **options)

    return jax.jit(network_evaluation)(params, x)

  return network._replace(apply=apply)
