"""Stage `distill`: builds the method of the configuration and runs it through the loop."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np

from jdistill import augment, catalog, export, schema
from jdistill.base import Diverged, Method, PyTree, UserError
from jdistill.bilevel import ROUTES
from jdistill.config import Declared, Plain, sections
from jdistill.files import Damaged, format_bytes, read_npz, write_npz
from jdistill.jobs import networks, trajectories
from jdistill.reporting import (
  Progress,
  Section,
  TensorBoardWriter,
  can_be_shown,
  curves,
  flops,
  image_grid,
  read_jsonl,
  save_png,
  timeline,
  timeline_steps,
)
from jdistill.runs import lines
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.schema import Range
from jdistill.stages import build, distill_check, gradient, plan, real_images
from jdistill.stages import stuck as stuck_lib
from jdistill.stages.build import Route
from jdistill.stages.stage import Part, Stage
from jdistill.synthetic import SyntheticSet, compensated, to_arrays
from jdistill.training import Checkpoints, Hooks, NotFinite, distributed, run_loop

SETS, KEPT = "sets", "stages/kept.npz"  # sets on the way, by step, and the one that stage `keep` chose of them
INITIAL, WARM = "stages/initial.npz", "stages/warm_up.npz"  # before the first step, and as stage `warm_up` left it
_LEAVES, _METRICS = (INITIAL, "stages/distilled.npz"), "metrics.jsonl"


class Keys(NamedTuple):
  """Keys at the top."""

  steps: Annotated[int, Range(1)] | None = None
  ipc: Annotated[int, Range(1)] = 1
  snapshot_every: Annotated[int, Range(1)] | None = None
  stop_if_stuck: bool = True
  keep: Literal["last", "best"] = "last"


class Unroll(NamedTuple):
  """How the gradient through inner steps is taken, for methods that have some; the method's own route where open."""

  gradient: Literal[("auto", *ROUTES)] | None = None
  window: Annotated[int, Range(1)] | None = None
  chunk_size: Annotated[int, Range(1)] | None = None


def _complete(given: Mapping[str, Any], out: dict[str, Any]) -> None:
  row, how = catalog.row(out["method"]["name"]), out["unroll"]
  how["gradient"] = how["gradient"] or row.gradient
  data, route = out["parallel"]["data"] or 1, out["parallel"]["route"]
  if data > 1 and route != "jit" and how["gradient"] in ("full", "remat"):
    raise UserError(
      f"unroll.gradient={how['gradient']!r}: cannot spread a batch over parallel.data={data} devices with "
      f"parallel.route={route!r}; set unroll.gradient='mixed', or parallel.route='jit'"
    )
  if how["gradient"] == "truncated" and how["window"] is None:
    raise UserError("unroll.window=None: gradient 'truncated' needs how many of the inner steps it goes back")
  if row.takes("pixel_range") and out["preprocessing"] == "zca":
    raise UserError(
      f"preprocessing='zca': whitened pixels have no range, to which {row.name} clips its images; use 'channel'"
    )
  experts = out.get("teacher_train") if row.keep == "trajectory" else None
  for name in row.parts:
    row.build(name)(**row.options_of(out["method"], name)).check(out["method"], experts)


def initial_set(run: Run) -> SyntheticSet:
  """The synthetic set before the first step, on the host."""
  task, (images, classes) = run.task(), real_images.images(run)
  buffer = trajectories.ready(run) if build.row_of(run).keep == "trajectory" else None
  return build.part(run, "start").make(
    images,
    classes,
    ipc=build.budget(run).start,
    num_classes=task.num_classes,
    seed=run.config["seed"],
    expert_logits=None if buffer is None else lambda images, experts: trajectories.logits(run, buffer, images, experts),
    experts=networks.count(run),
    embed=build.embed(run),
    teacher_logits=build.teacher_logits(run),
    class_maps=build.class_maps(run),
  )


def _run(run: Run) -> None:
  """Distils, writes metrics and snapshots on the way, and leaves `stages/distilled.npz`."""
  begin, c = time.monotonic(), run.config
  if told := augment.caution(c["method"].get("view", "none"), c["dataset"]):
    run.log(f"distill: method.view={c['method']['view']!r} on dataset={c['dataset']!r}: {told}")
  # a run without the stage `teachers` still needs them
  feed = build.part(run, "stream").stream(build.materials(run))
  begin_with(run)
  mesh = run.mesh("data", build.data_devices(run))
  run.together(mesh, lambda: _loop(run, feed, mesh, begin))


def begin_with(run: Run) -> SyntheticSet:
  """The initial set, which is written where it is not there yet."""
  path = run.workdir / INITIAL
  on_first(lambda: None if _is_whole(run, path) else write_npz(path, to_arrays(initial_set(run))))
  return load(run, "initial")


def _is_whole(run: Run, path: Path) -> bool:
  """Whether a set of this stage is there and can be read."""
  try:
    return path.exists() and read_npz(path).keys() >= {"images", "labels", "lr"}
  except UserError:
    run.tell("distill", Damaged(path, "is damaged"))
    return False


@contextlib.contextmanager
def _named(run: Run, method: Method) -> Iterator[None]:
  """Divergence in the words of the configuration."""
  try:
    yield
  except NotFinite as error:
    raise Diverged(f"distill: {error.finding}; {method.cure or _cure(run)}") from error


def _cure(run: Run) -> str:
  rates = [f"method.{name}" for name in run.config["method"] if name == "lr" or name.endswith("_lr")]
  return f"lower {' or '.join(rates)}" if rates else "lower the learning rates of the section method"


def _loop(run: Run, feed, mesh, begin: float) -> None:
  c, steps = run.config, build.steps(run)
  chosen = on_first(lambda: (found := gradient.choose(run, mesh)) and list(found))
  method = build.build(run, load(run, starts_from(run)), mesh, Route(*chosen) if chosen else None)
  checkpoints = Checkpoints(run.workdir / "checkpoints", {"config": run.hash}, log=run.log)
  progress = Progress("distill", steps, stream=run.stream)
  with _named(run, method), contextlib.ExitStack() as stack:
    stack.callback(checkpoints.close)
    stack.callback(progress.close)
    outcome = run_loop(
      method,
      feed,
      key=run.key("distill"),
      steps=steps,
      checkpoints=checkpoints,
      checkpoint_seconds=c["checkpoint_seconds"],
      log_every=c["log_every"],
      snapshot_every=c["snapshot_every"],
      hooks=_hooks(run, checkpoints, stack, progress, method.stuck),
      mesh=mesh,
      route=c["parallel"]["route"],
    )
  if outcome.stopped:
    run.interrupt("distill", begin, f"step {outcome.steps} of {steps} is saved")
  result = jax.device_get(method.result(outcome.state))
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result)):
    raise Diverged(f"distill: the learned set is not finite; {method.cure or _cure(run)}")
  if not result.lr > 0:
    raise UserError(
      f"learned learning rate {float(result.lr):.3g}: not positive, so nothing can be trained on the set; lower the "
      "rate at which method learns it"
    )
  on_first(lambda: write_npz(run.workdir / "stages" / "distilled.npz", to_arrays(result)))
  figures = {name: float(value) for name, value in method.figures(outcome.state, steps).items()}
  run.finish(
    "distill",
    begin,
    (*_LEAVES, *(str(path.relative_to(run.workdir)) for path in on_the_way(run))),
    metrics=on_first(lambda: run.checksums(run.workdir / _METRICS)),
    steps=steps,
    seconds_per_step=outcome.step_seconds,
    first_step_seconds=outcome.first_step_seconds,
    figures=figures,
  )
  shown = "".join(f", {name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
  run.log(f"distill: {steps} steps{shown}")


def _hooks(
  run: Run, checkpoints: Checkpoints, stack: contextlib.ExitStack, progress: Progress, stuck: Callable
) -> Hooks:
  """What the loop tells: metrics to files that `stack` closes, images to snapshots."""
  c, writers, look = run.config, [], stuck_lib.watch(run, stuck)
  if not distributed.is_writer():
    return Hooks(on_metrics=lambda step, metrics: look(metrics), stop=lambda: run.stop_requested)

  def on_resume(step: int) -> None:
    metrics = lines.writer(run.workdir / _METRICS, "distill", step, checkpoints)
    writers.append(stack.enter_context(contextlib.closing(metrics)))
    if c["tensorboard"]:
      events = TensorBoardWriter(run.workdir / "tensorboard", resume_step=step or None)
      writers.append(stack.enter_context(contextlib.closing(events)))
    if step:
      run.log(f"distill: going on after step {step} of {build.steps(run)}")

  def on_metrics(step: int, metrics) -> None:
    for writer in writers:
      writer.write(step, metrics)
    shown = {name.partition("/")[2]: value for name, value in metrics.items()}
    progress.update(step, {name: shown[name] for name in ("loss", "accepted") if name in shown})
    look(metrics)

  def on_snapshot(step: int, result: PyTree) -> None:
    images = jax.device_get(result.images)
    images = images[:: max(1, len(images) // run.task().num_classes)][:10]  # the first of each class, for the timeline
    write_npz(run.workdir / "snapshots" / f"{step:07d}.npz", {"pixels": run.task().pixels(images)})
    if c["keep"] == "best":
      write_npz(run.workdir / SETS / f"{step:07d}.npz", to_arrays(jax.device_get(result)))

  return Hooks(on_resume, on_metrics, on_snapshot, stop=lambda: run.stop_requested)


def load(run: Run, name: str) -> SyntheticSet:
  """What networks are trained on: the images that the stored set stands for."""
  found = stored(run, name)
  return compensated(found, build.pixel_range(run)) if np.size(found.compensators) else found


def stored(run: Run, name: str) -> SyntheticSet:
  """`"initial"`, `"warm_up"` or `"distilled"`, as left by stages, or the set that stage `keep` chose of the last."""
  path = run.workdir / "stages" / f"{name}.npz"
  kept = run.workdir / KEPT
  return SyntheticSet(**read_npz(kept if name == "distilled" and "keep" in run.config["stages"] else path))


def starts_from(run: Run) -> str:
  """The name of the set before the first step."""
  return "warm_up" if "warm_up" in run.config["stages"] else "initial"


def on_the_way(run: Run) -> list[Path]:
  """The sets of the snapshots, where they are compared."""
  return sorted((run.workdir / SETS).glob("*.npz")) if run.config["keep"] == "best" else []


def _progress(run: Run) -> str:
  """From the newest checkpoint."""
  saved = [int(path.stem) for path in (run.workdir / "checkpoints").glob("*.json") if path.stem.isdigit()]
  return f"step {max(saved, default=0)} of "


def _plan(run: Run) -> list[tuple[str, ...]]:
  images, shape, classes = build.count(run), run.task().input_shape, run.task().num_classes
  held = 4 * images * (int(np.prod(shape)) + classes)
  step = plan.distill_step(run)
  what = f"{build.steps(run):,} steps on {images} images of {shape} ({format_bytes(held)})"
  return [
    (
      what + (f", gradient {step.route.gradient}" if step.route else ""),
      flops.text(step.flops, build.steps(run)),
      step.held(),
    )
  ]


def _report(run: Run, record: Mapping[str, Any]) -> Part:
  result = stored(run, "distilled")
  digest = export.artefact_sha256(result.images, result.labels, float(result.lr), result.compensators)
  names = ("seconds_per_step", "first_step_seconds")
  summary = {name: record[name] for name in names} | record["figures"] | {"artefact_sha256": digest}
  lines = [f"{name.replace('_', ' ')}: {value:.4g}" for name, value in record["figures"].items()]
  if record["figures"].get("accepted_share") == 0:
    lines.append("no step was accepted: nothing was learned, the set is its initialisation")
  step, first = record["seconds_per_step"], record["first_step_seconds"]
  if first:
    others = f"a step took {step:.3f} s, " if step else ""
    lines.append(f"{others}the first one {first:.1f} s with everything before it and its compilation")
  told = "\n".join(f"- {line}" for line in lines)
  parts = [
    _images(run),
    Section("Training", told, images=_curves(run)),
  ]
  return Part(summary, lines=lines, sections=parts)


def _curves(run: Run) -> list[tuple[str, Path]]:
  path, plots = run.workdir / _METRICS, []
  rows = read_jsonl(path, "distill") if path.exists() else []
  for name in [name for name in (rows[0] if rows else {}) if "/" in name]:
    points = [(row["step"], float(row[name])) for row in rows if name in row]
    file = run.workdir / "curves" / f"{name.replace('/', '_')}.png"
    curves(file, {name: tuple(zip(*points, strict=True))}, name)
    plots.append((name, file))
  return plots


def _images(run: Run) -> Section:
  channels = run.task().input_shape[-1]
  if not can_be_shown(load(run, "initial").images):
    return Section("Images", f"Images of {channels} channels are not shown; they are in `stages/distilled.npz`.")
  return Section("Images", "Preprocessing is undone and values are clipped to [0, 1].", images=_pictures(run))


def _pictures(run: Run) -> list[tuple[str, Path]]:
  task, out = run.task(), []
  for name in ("initial", "distilled"):
    file, images = run.workdir / "images" / f"{name}.png", np.asarray(load(run, name).images)
    ipc = max(1, len(images) // task.num_classes)
    shown = np.arange(len(images)).reshape(-1, ipc)[:20, : min(ipc, 10)].reshape(-1)
    images = task.pixels(images[shown])
    save_png(file, image_grid(images, min(ipc, 10) if ipc > 1 else 10))
    out.append((f"{name} images, {'one row per class' if ipc > 1 else 'one per class'}", file))
  snapshots = sorted((run.workdir / "snapshots").glob("*.npz"))
  if len(snapshots) > 1:
    frames = [(int(path.stem), read_npz(path)["pixels"]) for path in snapshots]
    file = run.workdir / "images" / "timeline.png"
    save_png(file, timeline(frames))
    steps = ", ".join(str(frames[index][0]) for index in timeline_steps(len(frames)))
    out.append((f"the first image of each class at steps {steps}", file))
  return out


STAGE = Stage(
  "distill",
  _run,
  Declared(
    schema.fields(Keys),
    {"model": sections.network(), "unroll": Plain(schema.fields(Unroll))},
    complete=_complete,
  ),
  _LEAVES,
  distill_check.check,
  lambda run: run.check_metrics(run.finished("distill", _LEAVES)["metrics"]),
  plan=_plan,
  report=_report,
  progress=_progress,
)
