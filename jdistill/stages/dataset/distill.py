"""Stage `distill`: builds the method of the configuration and runs it through the loop."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jdistill import catalog
from jdistill.base import PyTree, UserError
from jdistill.data import preprocess
from jdistill.files import read_npz, write_npz
from jdistill.methods.dataset import Segment
from jdistill.reporting import JsonlWriter, MultiWriter, Progress, TensorBoardWriter
from jdistill.stages.context import lead
from jdistill.stages.dataset import experts, gradient
from jdistill.stages.dataset.build import Way, build
from jdistill.stages.dataset.context import Context
from jdistill.stages.dataset.initial import initial_set
from jdistill.synthetic import SyntheticSet
from jdistill.teachers import ExpertBuffer, expert_order, segment_bounds, start_epoch
from jdistill.training import Checkpoints, Hooks, distributed, run_loop


def segments(ctx: Context, buffer: ExpertBuffer) -> Callable[[int], Segment]:
  """The stream of expert segments: which expert and which start epoch is a function of seed and step."""
  m, seed, count = ctx.config["method"], ctx.config["seed"], ctx.config["experts"]["count"]
  bounds = functools.partial(
    segment_bounds,
    min_start_epoch=m["min_start_epoch"],
    current_start_epoch=m["current_start_epoch"],
    max_start_epoch=m["max_start_epoch"],
    schedule_steps=m["schedule_steps"],
  )

  def stream(step: int) -> Segment:
    epoch = start_epoch(seed, step, *bounds(step))
    return Segment(*buffer.segment(expert_order(seed, step, count), epoch, m["expert_epochs"]))

  return stream


# What a catalog row's `stream` stands for: `(context, expert buffer) -> (step -> batch)`.
_STREAMS = {"expert_segments": segments}


def pixels(ctx: Context, images: np.ndarray) -> np.ndarray:
  """Images in network space back in [0, 1], clipped."""
  return np.clip(np.asarray(preprocess.invert(ctx.preprocessing, np.asarray(images))), 0, 1)


def run(ctx: Context) -> None:
  """Distils, writes metrics and snapshots on the way, and leaves `stages/distilled.npz`."""
  begin = time.monotonic()
  buffer = experts.ready(ctx)  # a run without that stage still needs them
  lead(lambda: write_npz(ctx.workdir / "stages" / "initial.npz", initial_set(ctx, buffer)._asdict()))
  ctx.together("data", lambda: _run(ctx, buffer, begin))


def _run(ctx: Context, buffer: ExpertBuffer, begin: float) -> None:
  c, mesh = ctx.config, ctx.mesh("data")
  method = build(ctx, load(ctx, "initial"), mesh, Way(*lead(lambda: list(gradient.choose(ctx, mesh)))))
  checkpoints = Checkpoints(ctx.workdir / "checkpoints", {"config": ctx.hash})
  progress = Progress("distill", c["steps"], stream=ctx.stream)
  writers: list[Any] = []

  def on_resume(step: int) -> None:
    resume = step if step else -1
    writers.append(JsonlWriter(ctx.workdir / "metrics.jsonl", "distill", resume_step=resume))
    if c["tensorboard"]:
      writers.append(TensorBoardWriter(ctx.workdir / "tensorboard", resume_step=step or None))
    if step:
      ctx.say(f"distill: going on after step {step} of {c['steps']}")

  def on_metrics(step: int, metrics) -> None:
    MultiWriter(*writers).write(step, metrics)
    progress.update(step, {"loss": metrics["match/loss"], "accepted": metrics["match/accepted"]})

  def on_snapshot(step: int, result: PyTree) -> None:
    shown = first_images(ctx, jax.device_get(result.images))
    write_npz(ctx.workdir / "snapshots" / f"{step:07d}.npz", {"pixels": shown})

  hooks = Hooks(on_resume, on_metrics, on_snapshot, lambda: ctx.stop_requested)
  if not distributed.is_writer():
    hooks = Hooks(stop=hooks.stop)
  try:
    outcome = run_loop(
      method,
      _STREAMS[catalog.row(c["method"]["name"]).stream](ctx, buffer),
      key=ctx.key("distill"),
      steps=c["steps"],
      checkpoints=checkpoints,
      checkpoint_seconds=c["checkpoint_seconds"],
      log_every=c["log_every"],
      snapshot_every=c["snapshot_every"],
      hooks=hooks,
      mesh=mesh,
      route=c["parallel"]["route"],
    )
  finally:
    progress.close()
    MultiWriter(*writers).close()
    checkpoints.close()
  if outcome.stopped:
    ctx.interrupt("distill", begin, f"step {outcome.steps} of {c['steps']} is saved")
  result = jax.device_get(method.result(outcome.state))
  if not result.lr > 0:
    raise UserError(
      f"learned learning rate {float(result.lr):.3g}: not positive, so nothing can be trained on the set; lower "
      f"method.lr_lr={c['method']['lr_lr']:g}"
    )
  lead(lambda: write_npz(ctx.workdir / "stages" / "distilled.npz", result._asdict()))
  accepted = int(outcome.state.accepted)
  ctx.finish(
    "distill",
    begin,
    accepted_share=accepted / c["steps"],
    seconds_per_step=outcome.step_seconds,
    first_step_seconds=outcome.first_step_seconds,
    learned_lr=float(result.lr),
  )
  ctx.say(
    f"distill: {c['steps']} steps, {100 * accepted / c['steps']:.0f}% accepted, learned rate {float(result.lr):.4g}"
  )


def first_images(ctx: Context, images: np.ndarray, most: int = 10) -> np.ndarray:
  """The pixels of the first image of each class, up to `most` classes: what the timeline shows."""
  return pixels(ctx, images[:: ctx.config["ipc"]][:most])


def load(ctx: Context, name: str) -> SyntheticSet:
  """`"initial"` or `"distilled"`, as left by this stage."""
  return SyntheticSet(**read_npz(ctx.workdir / "stages" / f"{name}.npz"))
