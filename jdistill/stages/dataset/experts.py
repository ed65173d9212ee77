"""Stage `experts`: trains and stores expert trajectories, or finds that they are already there."""

import functools
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import models
from jdistill.base import Network, Pool, Variables
from jdistill.evaluation import accuracy
from jdistill.reporting import Progress
from jdistill.stages.context import lead
from jdistill.stages.dataset.context import Context
from jdistill.teachers import ExpertBuffer, ExpertRecipe, expert_epoch, record_expert, record_experts
from jdistill.training import distributed


def identity(ctx: Context) -> dict:
  """The part of a run that determines its experts."""
  recipe = {name: value for name, value in ctx.config["experts"].items() if name != "count"}
  return {
    "dataset": ctx.dataset.fingerprint,
    "preprocessing": ctx.config["preprocessing"],
    "model": ctx.config["model"],
    "experts": recipe,
    "seed": ctx.config["seed"],
  }


def directory(ctx: Context) -> Path:
  """Where the buffer lies: shared by all runs that want the same experts."""
  return ctx.artefacts / "experts" / ctx.key_of(**identity(ctx))


def open_buffer(ctx: Context) -> ExpertBuffer:
  """Opens the buffer of this run; see `ExpertBuffer` for what is refused."""
  size = models.flatten(ctx.network()).size
  return ExpertBuffer(directory(ctx), identity(ctx), epochs=ctx.config["experts"]["epochs"], size=size)


def ready(ctx: Context) -> ExpertBuffer:
  """The buffer with all experts of this run in it; those that are missing are recorded first."""
  buffer = open_buffer(ctx)
  if lead(lambda: all(index in buffer for index in range(ctx.config["experts"]["count"]))):
    return open_buffer(ctx) if distributed.count() > 1 else buffer  # process 0 may have looked later than this one
  run(ctx)
  return open_buffer(ctx)


def run(ctx: Context) -> None:
  """Records the experts that are missing, `parallel.pool` at once."""
  ctx.together("pool", lambda: _run(ctx))


def _run(ctx: Context) -> None:
  begin, c = time.monotonic(), ctx.config["experts"]
  buffer = open_buffer(ctx)
  missing = lead(lambda: [index for index in range(c["count"]) if index not in buffer])
  if missing:
    pool = ctx.pool()
    progress = Progress("experts", c["count"] * c["epochs"], stream=ctx.stream)
    record = _one_by_one if pool is None else functools.partial(_pooled, pool)
    record(ctx, buffer, missing, progress, begin)
    progress.close()
  lead(lambda: _finish(ctx, buffer, len(missing), begin))


def _one_by_one(ctx: Context, buffer: ExpertBuffer, missing: list[int], progress: Progress, begin: float) -> None:
  c, network = ctx.config["experts"], ctx.network()
  train, start = _functions(ctx)
  epoch, init = jax.jit(train, donate_argnums=(1,)), jax.jit(start)
  x, y = jnp.asarray(ctx.train_x), jnp.asarray(ctx.dataset.train_y)
  for index in missing:

    def on_epoch(number, theta, loss, index=index):
      del theta
      progress.update(index * c["epochs"] + number, {"loss": loss})
      if ctx.stops():
        ctx.interrupt("experts", begin, f"{len(buffer)} of {c['count']} experts are saved")

    trajectory = record_expert(_key(ctx, index), init, epoch, x, y, epochs=c["epochs"], on_epoch=on_epoch)
    _add(ctx, network, buffer, index, trajectory)


def _pooled(
  pool: Pool, ctx: Context, buffer: ExpertBuffer, missing: list[int], progress: Progress, begin: float
) -> None:
  c, network, keep = ctx.config["experts"], ctx.network(), distributed.is_writer()
  train, start = _functions(ctx)
  epoch, init = pool.spread(train, (True, True, False, False), (1,)), pool.spread(start, (True,))
  x, y = pool.share((jnp.asarray(ctx.train_x), jnp.asarray(ctx.dataset.train_y)))
  for first in range(0, len(missing), pool.size):
    group = missing[first : first + pool.size]
    done = c["count"] - len(missing) + first

    def on_epoch(number, thetas, loss, group=group, done=done):
      del thetas
      progress.update(done * c["epochs"] + number * len(group), {"loss": loss})
      if ctx.stops():
        ctx.interrupt("experts", begin, f"{done} of {c['count']} experts are saved")

    filled = group + group[-1:] * (pool.size - len(group))
    keys = jnp.stack([_key(ctx, index) for index in filled])
    found = record_experts(keys, init, epoch, x, y, epochs=c["epochs"], pool=pool, keep=keep, on_epoch=on_epoch)

    def add(group=group, found=found):
      for index, trajectory in zip(group, found, strict=False):  # what filled up the pool is left out
        _add(ctx, network, buffer, index, trajectory)

    lead(add)


def _functions(ctx: Context) -> tuple[Callable, Callable]:
  """One epoch of an expert, and its start."""
  c, network = ctx.config["experts"], ctx.network()
  flat = models.flatten(network)
  recipe = ExpertRecipe(**{name: c[name] for name in ExpertRecipe._fields})
  train = expert_epoch(flat.apply, recipe, ctx.augmentation(c["augment"]))
  return train, lambda key: flat.ravel(network.init(key).params)


def _key(ctx: Context, index: int) -> jax.Array:
  return jax.random.fold_in(ctx.key("experts"), index)


def _add(ctx: Context, network: Network, buffer: ExpertBuffer, index: int, trajectory: np.ndarray) -> None:
  final = Variables(models.flatten(network).unravel(jnp.asarray(trajectory[-1])))
  buffer.add(index, trajectory, {"accuracy": accuracy(network, final, ctx.test_x, ctx.dataset.test_y)})


def _finish(ctx: Context, buffer: ExpertBuffer, recorded: int, begin: float) -> None:
  c = ctx.config["experts"]
  accuracies = [buffer.record(index)["accuracy"] for index in range(c["count"])]
  ctx.finish(
    "experts",
    begin,
    recorded=recorded,
    accuracy_mean=float(np.mean(accuracies)),
    bytes=4 * models.flatten(ctx.network()).size * (c["epochs"] + 1) * c["count"],
    directory=directory(ctx).name,
  )
  ctx.say(f"experts: {c['count']} ({recorded} new), test accuracy {np.mean(accuracies):.3f} after {c['epochs']} epochs")
