"""Trajectories of teachers (experts): recorded once, stored after every epoch, shared by runs that want the same."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import models
from jdistill.base import Diverged, Network, Variables
from jdistill.files import Damaged, format_bytes
from jdistill.jobs import networks, train
from jdistill.models.predict import predict
from jdistill.runs import locked
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.teachers import ExpertBuffer
from jdistill.training import distributed


@functools.lru_cache(maxsize=8)
def flat_network(network: Network) -> Network:
  """A network over one parameter vector: what is recorded is then one matrix per teacher."""
  flat = models.flatten(network)
  return Network(lambda key: Variables(flat.ravel(network.init(key).params)), flat.apply)


def _identity(run: Run) -> dict[str, Any]:
  (one,) = networks.specs(run)
  return networks.identity(run, one._replace(count=1))  # more of the same are added to it


def open_buffer(run: Run) -> ExpertBuffer:
  """Opens the buffer of this run; see `ExpertBuffer` for what is refused."""
  identity, size = _identity(run), models.flatten(run.network(run.config["teacher"])).size
  directory = run.artefact("trajectories", **identity)
  return ExpertBuffer(directory, identity, epochs=run.config["teacher_train"]["epochs"], size=size)


def ready(run: Run) -> ExpertBuffer:
  """The buffer with all trajectories of this run in it; those that are missing are recorded first."""
  buffer = open_buffer(run)
  if not on_first(lambda: _missing(run, buffer)):
    return open_buffer(run) if distributed.count() > 1 else buffer  # process 0 may have looked later than this one
  record(run)
  return open_buffer(run)


def verify(run: Run) -> None:
  """Looks at the trajectories of a finished stage.

  Raises:
    Damaged: some are gone or not as they were recorded.
  """
  buffer = open_buffer(run)
  if missing := _missing(run, buffer):
    raise buffer.flaws[0] if buffer.flaws else Damaged(buffer.file(missing[0]), "is missing")


def _missing(run: Run, buffer: ExpertBuffer) -> list[int]:
  return [index for index in range(run.config["teachers"]["count"]) if index not in buffer]


def record(run: Run) -> None:
  """Stage `teachers` of a run whose teachers leave trajectories: records the missing ones, several at once."""
  begin, buffer, recorded = time.monotonic(), open_buffer(run), 0
  if on_first(lambda: _missing(run, buffer)):
    with locked.artefact(run, run.artefact("trajectories", **_identity(run))):
      buffer = open_buffer(run)  # another run may have recorded some meanwhile
      recorded = _record_missing(run, buffer, begin)
  on_first(lambda: _finish(run, buffer, recorded, begin))


def _record_missing(run: Run, buffer: ExpertBuffer, begin: float) -> int:
  count, missing = run.config["teachers"]["count"], on_first(lambda: _missing(run, buffer))
  for flaw in buffer.flaws:
    run.tell("teachers", flaw)
  mesh = run.mesh("pool", count)
  size = 1 if mesh is None else mesh.size
  for first in range(0, len(missing), size):
    if run.stops():
      run.interrupt("teachers", begin, f"{count - len(missing) + first} of {count} trajectories are saved")
    group = missing[first : first + size]
    run.together(mesh, lambda group=group: _record(run, buffer, group))
  return len(missing)


def _record(run: Run, buffer: ExpertBuffer, group: list[int]) -> None:
  (one,) = networks.specs(run)
  network, snapshots = flat_network(run.network(one.sections["teacher"])), []
  label = f"teachers {group[0]}" + (f" to {group[-1]}" if len(group) > 1 else "")
  job = networks.job_of(run, one, group, network)._replace(label=label)

  keep = lambda epoch, trained: snapshots.append(jax.device_get(trained.variables["student"].params))  # noqa: E731
  train.run(run, job, run.key("teacher"), None, stage="teachers", on_epoch=keep)

  def add() -> None:
    task = run.task(one.sections["task"])
    for position, index in enumerate(group):
      trajectory = np.stack([np.asarray(snapshot[position]) for snapshot in snapshots])
      if not np.isfinite(trajectory).all():
        raise Diverged(f"teacher {index}: its parameters are not finite; lower teacher_train.lr")
      final = Variables(jnp.asarray(trajectory[-1]))
      scores = task.score(lambda x, final=final: predict(network, final, x), task.test)
      buffer.add(index, trajectory, dict(scores))

  on_first(add)


def _finish(run: Run, buffer: ExpertBuffer, recorded: int, begin: float) -> None:
  task, count = run.task(), run.config["teachers"]["count"]
  name, epochs = run.config["teacher"]["name"], run.config["teacher_train"]["epochs"]
  mean = float(np.mean([buffer.record(index)[task.metric] for index in range(count)]))
  size = 4 * models.flatten(run.network(run.config["teacher"])).size * (epochs + 1) * count
  record = {"name": "teacher", "model": name, "hash": run.key_of(**_identity(run)), "scores": [{task.metric: mean}]}
  run.finish("teachers", begin, teachers=[record], recorded=recorded, bytes=size)
  run.log(
    f"teachers: {count} trajectories ({recorded} new, {format_bytes(size)} in all), test {task.metric} {mean:.3f} "
    f"after {epochs} epochs"
  )


def logits(run: Run, buffer: ExpertBuffer, images: np.ndarray, experts) -> np.ndarray:
  """Logits `[experts, n, classes]` of the given experts' last snapshots on images in network space."""
  network = flat_network(run.network(run.config["teacher"]))
  found = [Variables(jnp.asarray(buffer.snapshot(index, -1))) for index in experts]
  return np.stack([predict(network, variables, images) for variables in found])
