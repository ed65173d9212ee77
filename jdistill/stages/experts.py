"""Stage `experts`: trains and stores expert trajectories, or finds that they are already there."""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import models
from jdistill.base import Variables
from jdistill.evaluation import accuracy
from jdistill.reporting import Progress
from jdistill.stages.context import Context
from jdistill.teachers import ExpertBuffer, ExpertRecipe, expert_epoch, record_expert


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
  if all(index in buffer for index in range(ctx.config["experts"]["count"])):
    return buffer
  run(ctx)
  return open_buffer(ctx)


def run(ctx: Context) -> None:
  """Records the experts that are missing."""
  begin, c = time.monotonic(), ctx.config["experts"]
  buffer = open_buffer(ctx)
  network = ctx.network()
  flat = models.flatten(network)
  recipe = ExpertRecipe(**{name: c[name] for name in ExpertRecipe._fields})
  epoch = jax.jit(expert_epoch(flat.apply, recipe, ctx.augmentation(c["augment"])), donate_argnums=(1,))
  init = jax.jit(lambda key: flat.ravel(network.init(key).params))
  missing = [index for index in range(c["count"]) if index not in buffer]
  if missing:
    x, y = jnp.asarray(ctx.train_x), jnp.asarray(ctx.dataset.train_y)
  progress = Progress("experts", c["count"] * c["epochs"], stream=ctx.stream)
  for index in missing:

    def on_epoch(number, theta, loss, index=index):
      del theta
      progress.update(index * c["epochs"] + number, {"loss": loss})
      if ctx.stop_requested:
        ctx.interrupt("experts", begin, f"{len(buffer)} of {c['count']} experts are saved")

    key = jax.random.fold_in(ctx.key("experts"), index)
    trajectory = record_expert(key, init, epoch, x, y, epochs=c["epochs"], on_epoch=on_epoch)
    final = Variables(flat.unravel(jnp.asarray(trajectory[-1])))
    buffer.add(index, trajectory, {"accuracy": accuracy(network, final, ctx.test_x, ctx.dataset.test_y)})
  if missing:
    progress.close()
  accuracies = [buffer.record(index)["accuracy"] for index in range(c["count"])]
  ctx.finish(
    "experts",
    begin,
    recorded=len(missing),
    accuracy_mean=float(np.mean(accuracies)),
    bytes=4 * flat.size * (c["epochs"] + 1) * c["count"],
    directory=directory(ctx).name,
  )
  ctx.say(
    f"experts: {c['count']} ({len(missing)} new), test accuracy {np.mean(accuracies):.3f} after {c['epochs']} epochs"
  )
