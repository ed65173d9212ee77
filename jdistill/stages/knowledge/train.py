"""One arm: networks of one recipe, trained side by side and resumable, as teachers and students are."""

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jdistill.base import Batch, Network, PyTree, Teacher, UserError, Variables
from jdistill.methods.knowledge import Epoch, Recipe, Trained, predictor, student_method
from jdistill.methods.optimizers import make_optimizer, schedule
from jdistill.reporting import JsonlWriter, Progress, peak_memory_bytes, read_jsonl
from jdistill.stages.context import lead
from jdistill.stages.knowledge.context import Context
from jdistill.training import Checkpoints, Hooks, parallel, run_loop
from jdistill.training.side_by_side import side_by_side


class Job(NamedTuple):
  """What is trained.

  Attributes:
    label: what the user reads, and the name of the metrics.
    network, recipe: of every seed.
    train: a section `train`.
    data: examples, shared by all seeds.
    members: `[seeds, n]` positions in `data`.
    seeds: numbers of the seeds.
    teacher, constants, held_out: as `Epoch` has them.
    start: `Variables` of all seeds, stacked, that they start from; `None` draws new ones.
    options: numbers of the method that are searched: arguments of the compiled program where that is possible.
    rebuild: `(options) -> recipe` with these numbers, which may be traced.
  """

  label: str
  network: Network
  recipe: Recipe
  train: Mapping[str, Any]
  data: Batch
  members: np.ndarray
  seeds: list[int]
  teacher: Teacher | None = None
  constants: PyTree = ()
  held_out: Batch | None = None
  start: Variables | None = None
  options: Mapping[str, float] = {}
  rebuild: Callable[[Mapping[str, Any]], Recipe] | None = None


def device(data: Batch | None) -> Batch | None:
  """Examples as device arrays."""
  return None if data is None else jax.tree.map(jnp.asarray, data)


def steps_per_epoch(job: Job) -> int:
  """Optimiser steps of an epoch."""
  count = job.members.shape[1]
  size = min(job.train["batch_size"], count)
  return -(-count // size) if job.recipe.order is not None else count // size


def optimizer_of(train: Mapping[str, Any], steps: int):
  """The optimiser of a section `train` for epochs of so many steps."""
  rate = schedule(
    train["schedule"],
    train["lr"],
    epochs=train["epochs"],
    steps_per_epoch=steps,
    warmup_epochs=train["warmup_epochs"],
    milestones=train["milestones"],
    final_lr=train["final_lr"],
  )
  names = ("momentum", "nesterov", "weight_decay", "decay_all", "clip")
  return make_optimizer(train["optimizer"], rate, **{name: train[name] for name in names})


def run(ctx: Context, job: Job, key: jax.Array, directory: Path, *, stage: str) -> tuple[Trained, dict[str, Any]]:
  """Trains all seeds of a job; a call that was interrupted goes on.

  Args:
    ctx: the run.
    job: what is trained.
    key: the root of all its random numbers.
    directory: for checkpoints; its name must belong to this job alone.
    stage: for messages and metrics.

  Returns:
    `(Trained with a leading axis of seeds, figures)`.

  Raises:
    UserError: what the losses refuse, a loss that is not finite, or an order that left nothing to train on.
  """
  begin = time.monotonic()
  shared = _row_devices(ctx, job)
  method = student_method(
    job.network,
    job.recipe,
    optimizer=optimizer_of(job.train, steps_per_epoch(job)),
    batch_size=job.train["batch_size"],
    teacher=job.teacher.outputs if job.teacher else None,
    augment=ctx.augmentation(job.train["augment"]),
    ema_decay=job.train["ema_decay"],
    precision=job.train["precision"],
    rebuild=job.rebuild if job.options else None,
    constrain=functools.partial(parallel.constrain_rows, shared) if shared else lambda batch: batch,
  )
  epoch = Epoch(
    jnp.int32(0),
    device(job.data),
    jnp.asarray(job.members, jnp.int32),
    job.teacher.arrays if job.teacher else (),
    job.constants,
    device(job.held_out),
    None if job.start is None else jax.tree.map(jnp.asarray, job.start),
    {name: jnp.float32(value) for name, value in job.options.items()},
  )
  if shared:
    epoch = parallel.replicate(epoch, shared)
  stacked = side_by_side(
    method,
    job.seeds,
    divide=lambda epoch: ((epoch.members, epoch.start), epoch._replace(members=None, start=None)),
    join=lambda own, epoch: epoch._replace(members=own[0], start=own[1]),
    at_once=_at_once(job),
    mesh=ctx.mesh("pool") if len(job.seeds) > 1 else None,
  )
  outcome = _loop(ctx, job, stacked, lambda n: epoch._replace(number=np.int32(n)), key, directory, stage)
  if outcome.stopped:
    ctx.interrupt(stage, begin, f"{job.label}: epoch {outcome.steps} of {job.train['epochs']} is saved")
  trained = jax.device_get(stacked.result(outcome.state))
  sizes = {
    name: _size(role.params) // len(jax.tree.leaves(role.params)[0])
    for name, role in outcome.state.roles.items()
    if jax.tree.leaves(role.params)
  }
  figures = {
    "seconds": time.monotonic() - begin,
    "seconds_per_step": _per_step(outcome.step_seconds, job),
    "parameters": sizes.pop("student"),
    "extra_parameters": sum(sizes.values()),
    "step_bytes": outcome.step_bytes,
    "peak_memory_bytes": peak_memory_bytes(),
    "last": _last_metrics(ctx.workdir / "metrics" / f"{directory.name}.jsonl", f"{stage}/{job.label}"),
  }
  return trained, figures


def _loop(ctx, job: Job, method, stream: Callable[[int], Epoch], key: jax.Array, directory: Path, stage: str):
  checkpoints = Checkpoints(directory, {"config": ctx.hash, "job": job.label})
  shown = job.label if job.label.startswith(stage) else f"{stage} {job.label}"
  progress = Progress(shown, job.train["epochs"], stream=ctx.stream)
  writers: list[JsonlWriter] = []

  def on_resume(done: int) -> None:
    name = f"{stage}/{job.label}"
    writers.append(JsonlWriter(ctx.workdir / "metrics" / f"{directory.name}.jsonl", name, resume_step=done or -1))

  def on_metrics(done: int, metrics: Mapping[str, float]) -> None:
    if metrics.get("order/selected", 1.0) <= 0 or metrics.get("order/empty", 0.0) > 0:
      start = "order/confidence_"
      found = [f"{k.removeprefix(start)} {v:.3g}" for k, v in metrics.items() if k.startswith(start)]
      shares = f" (confidence: {', '.join(found)})" if found else ""
      raise UserError(
        f"{job.label}: epoch {done}: no example was selected{shares}; "
        "lower method.cutoff, or give a pool the teacher knows"
      )
    writers[0].write(done, metrics)
    terms = {name.removeprefix("loss/"): value for name, value in metrics.items() if name.startswith("loss/")}
    progress.update(done, terms)

  try:
    return run_loop(
      method,
      stream,
      key=key,
      steps=job.train["epochs"],
      checkpoints=checkpoints,
      checkpoint_seconds=ctx.config["checkpoint_seconds"],
      log_every=ctx.config["log_every"],
      hooks=Hooks(on_resume, on_metrics, stop=lambda: ctx.stop_requested),
      mesh=_row_devices(ctx, job),
      route="jit",
    )
  except ValueError as error:  # what losses and connectors refuse while they are traced
    raise error if isinstance(error, UserError) else UserError(f"{job.label}: {error}") from error
  finally:
    progress.close()
    for writer in writers:
      writer.close()
    checkpoints.close()


def _last_metrics(path: Path, name: str) -> dict[str, float]:
  """What the last epoch reported, means over seeds."""
  rows = lead(lambda: read_jsonl(path, name) if path.exists() else [])
  return {key: float(value) for key, value in rows[-1].items() if "/" in key} if rows else {}


def _row_devices(ctx: Context, job: Job) -> Mesh | None:
  """The devices that share every batch of one seed (`parallel.data`); several seeds go to devices of their own.

  Raises:
    UserError: they cannot divide the batch.
  """
  mesh = ctx.mesh("data") if len(job.seeds) == 1 else None
  size = min(job.train["batch_size"], job.members.shape[1])
  if mesh is not None and size % mesh.shape[parallel.DATA]:
    raise UserError(
      f"parallel.data={mesh.shape[parallel.DATA]}: does not divide the {size} examples of a step of {job.label}; "
      "change it or train.batch_size"
    )
  return mesh


def _at_once(job: Job) -> bool:
  """Whether seeds train stacked: not where that makes grouped convolutions on a CPU."""
  if jax.default_backend() != "cpu":
    return True
  kernels = jax.tree.leaves(jax.eval_shape(job.network.init, jax.random.key(0)).params)
  return all(leaf.ndim < 3 for leaf in kernels)


def _size(tree: PyTree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _per_step(seconds_per_epoch: float | None, job: Job) -> float | None:
  """Seconds of one optimiser step of one seed."""
  return None if seconds_per_epoch is None else seconds_per_epoch / steps_per_epoch(job) / len(job.seeds)


def predictions(job: Job, trained: Trained, index: int) -> Callable[[np.ndarray], np.ndarray]:
  """One finished network as `(x) -> logits`, batch by batch."""
  predict = jax.jit(predictor(job.network, job.recipe))
  own = jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), trained)

  def call(x: np.ndarray, batch_size: int = 500) -> np.ndarray:
    size, out = min(batch_size, len(x)), []
    for begin in range(0, len(x), size):
      rows = x[begin : begin + size]
      filled = np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), 0)])
      out.append(np.asarray(predict(own, job.constants, filled))[: len(rows)])
    return np.concatenate(out)

  return call
