"""`--dry_run --topology=v5e:2x4`: the step of a run compiled for TPUs that are not there, and its cost there."""

import contextlib
import importlib.util
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import topologies

from jdistill import data
from jdistill.base import Batch, UserError
from jdistill.data import preprocess
from jdistill.data.checks import require_per_class
from jdistill.files import format_bytes
from jdistill.jobs import job_plan, traced
from jdistill.ops.rows import largest_divisor, planned_for
from jdistill.reporting import chips, format_table, units
from jdistill.reporting import cost as cost_lib
from jdistill.runs.run import Run
from jdistill.stages import build
from jdistill.tasks import Task
from jdistill.training import parallel

# Sets whose shapes are public knowledge: (image shape, classes, training images, test images)
_SHAPES = {
  "cifar10": ((32, 32, 3), 10, 50_000, 10_000),
  "cifar100": ((32, 32, 3), 100, 50_000, 10_000),
  "tiny_imagenet": ((64, 64, 3), 200, 100_000, 10_000),
  "imagenet64": ((64, 64, 3), 1000, 1_281_167, 50_000),
}
UNREAD = ("imagenet64",)  # sets that plans alone know
# What keeps libtpu from looking for TPUs on the network, and from writing and printing a log.
_QUIET = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_LOG_DIR": "disabled",
  "TPU_STDERR_LOG_LEVEL": "3",
  "TPU_MIN_LOG_LEVEL": "3",
}


class Target(NamedTuple):
  """What is compiled.

  Attributes:
    compiled: the program.
    mesh: the devices that it runs on together.
    about: one line about the step.
    steps: how many there are.
  """

  compiled: jax.stages.Compiled
  mesh: jax.sharding.Mesh
  about: str
  steps: int


def show(run: Run, text: str) -> None:
  """Prints memory, work and least times of a run's step on TPUs, `GENERATION:SHAPE`; reads data only where it must.

  Raises:
    UserError: an unknown topology, no libtpu, or rows of a batch that cannot be spread.
  """
  wanted = chips.parse_topology(text)
  if not {"ipc", "student"} & run.config.keys() or "active" in run.config["stages"]:
    raise UserError(
      f"--topology={text}: plans steps of the stages distill and students, and this run has "
      f"{', '.join(run.config['stages'])}; leave it out"
    )
  use_cpu()
  devices = find_devices(wanted)
  source = take_shapes(run)
  run.log(f"compiling for {wanted.name}; this can take minutes")
  begin = time.monotonic()
  target, why = _compiled(run, devices)
  if why:
    print(f"{run.config['method']['name']} on {run.config['dataset']}, TPU {wanted.name}")
    print(f"does not fit: {why}")
  if target is None and "ipc" not in run.config:
    run.log("compiling with parameters divided among the chips")
    target, why = _compiled(run, devices, divide=True)
    print(f"with parameters divided among the chips: {f'does not fit: {why}' if why else 'see below'}")
  if target is None:
    print(_CURE)
    return
  seconds = time.monotonic() - begin
  print(head(run, wanted, target, source))
  cost = cost_lib.cost(target.compiled.as_text(), target.mesh.size)
  print(report(wanted, cost_lib.program_memory(target.compiled), cost, target.steps))
  print(f"\n{_notes(wanted)}\nCompiled in {seconds:.0f} s with libtpu; nothing was run.")


def _compiled(run: Run, devices: list[jax.Device], **options: bool) -> tuple[Target | None, str]:
  """The step, or why the compiler finds no room for it."""
  try:
    with planned_for(devices[0].platform):
      return (distill_target if "ipc" in run.config else student_target)(run, devices, **options), ""
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return None, str(error).partition("RESOURCE_EXHAUSTED: ")[2].splitlines()[0]


def distill_target(run: Run, devices: list[jax.Device]) -> Target:
  """The step of stage `distill`, its inner rows spread over `parallel.data` devices, or as many as divide them.

  Raises:
    UserError: more images per class than there are, a number of devices that does not divide the rows, or a gradient
      route that cannot spread them.
  """
  task = run.task()
  require_per_class(task.teacher.y, task.class_names, run.config["ipc"], "ipc")
  rows, asked = build.inner_rows(run), run.config["parallel"]["data"]
  mesh = parallel.make_mesh(data=asked or largest_divisor(rows or 1, len(devices)), devices=devices)
  about = f"{build.count(run):,} images of {task.input_shape}"
  if rows is not None:
    parallel.check_rows(rows, mesh)
    gradient = run.config["unroll"]["gradient"]
    if gradient in ("full", "remat") and build.ahead_route(run) == "shard_map":
      raise UserError(f"unroll.gradient={gradient!r}: cannot spread the rows of a batch over devices; use 'mixed'")
    about += f"; inner steps of {rows:,}, gradient {build.usual_route(run, mesh).gradient}"
    about += f"; {_count(mesh.size, 'device')} with {rows // mesh.size:,} rows each"
  return Target(build.compile_step(run, mesh), mesh, about, build.steps(run))


def student_target(run: Run, devices: list[jax.Device], *, divide: bool = False) -> Target:
  """The update of the method's own student, its batch spread over `parallel.data` devices, or as many as divide it.

  With `divide` these share parameters, optimiser and teachers as well.
  """
  label = run.subject
  job = traced.job(run, label, run.config["arms"][label])
  batch = min(job.train["batch_size"], job.members.shape[1])
  size = run.config["parallel"]["data"] or largest_divisor(batch, len(devices))
  mesh = parallel.make_mesh(data=size, devices=devices)
  about = (
    f"{run.config['student']['name']} on batches of {batch:,}; {_count(mesh.size, 'device')} with {batch // size:,} "
    "rows each"
  )
  about += "; parameters, optimiser and teachers divided among them" if divide else ""
  options = {"divide": True} if divide else {}
  return Target(job_plan.compile_update(run, job, mesh, **options), mesh, about, job_plan.plan_of(run, job).steps)


_CURE = "more chips, smaller batches or unroll.gradient=nested_remat need less memory"


def use_cpu() -> None:
  """Keeps JAX from starting the TPU that the presence of libtpu promises; before anything uses a device."""
  if not jax.config.jax_platforms:
    jax.config.update("jax_platforms", "cpu")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  added = {name: value for name, value in _QUIET.items() if name not in os.environ}
  os.environ.update(added)
  try:
    yield
  finally:
    for name in added:
      os.environ.pop(name, None)


def find_devices(wanted: chips.Slice) -> list[jax.Device]:
  """The slice's devices, for compiling only.

  Raises:
    UserError: libtpu is not installed, or does not fit the installed JAX.
  """
  cure = "pip install 'jdistill[tpu-plan]' brings the one for the installed JAX (Linux only)"
  if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
    raise UserError(f"--topology={wanted.name}: compiling for TPUs needs the package libtpu; {cure}")
  options = {}
  if wanted.chips == 1:
    options["chips_per_host_bounds"] = (1, 1, 1)
  if wanted.chip.name == "v4":
    options["chip_config_name"] = "megacore"  # the two cores of a chip as one device, as on Cloud TPU
  try:
    with _quiet():
      return list(topologies.get_topology_desc(wanted.name, "tpu", **options).devices)
  except (OSError, RuntimeError) as error:
    line = next(iter(str(error).splitlines()), "")
    raise UserError(f"--topology={wanted.name}: libtpu refuses it ({line}); {cure}") from error


def take_shapes(run: Run) -> str:
  """Replaces a well-known data set by its shapes, with nothing in them; where the shapes are from.

  Only a set that is known by name and has no `data_dir` is not read: reading it could start a download.
  """
  c = run.config
  if c["dataset"] not in _SHAPES or c["data_dir"] is not None:
    return "read"
  run.load = _pixels_of
  run.fit = lambda kind, pixels: preprocess.fit("none", pixels)
  shape, of_pixels = _SHAPES[c["dataset"]][0], run.task
  run.task = lambda section=None: _with_shape(of_pixels(section), shape)
  return "not read, its shapes are known by its name"


def _with_shape(task: Task, shape: tuple[int, ...]) -> Task:
  """A task of images of one pixel as one of images of a shape, which take no memory."""

  def fill(batch: Batch) -> Batch:
    def grown(leaf: np.ndarray) -> np.ndarray:  # of draws it is the noise, beside conditions and ids
      own = np.shape(leaf)[1:] == tuple(task.input_shape)
      return np.broadcast_to(np.float32(0), (len(leaf), *shape)) if own else leaf

    return batch._replace(x=jax.tree.map(grown, batch.x))

  batches = {name: fill(getattr(task, name)) for name in ("data", "teacher", "validation", "test")}
  return task._replace(**batches, input_shape=shape)


def _pixels_of(name: str, *, train_size: int | None, test_size: int | None, **_) -> data.Dataset:
  """As many images as a well-known set has, of one pixel each, no two of them alike."""
  _, classes, train, test = _SHAPES[name]
  train, test = train_size or train, test_size or test
  return data.Dataset(
    name=name,
    train_x=_pixels(0, train),
    train_y=(np.arange(train) % classes).astype(np.int32),
    train_ids=np.arange(train, dtype=np.int32),
    test_x=_pixels(train, test),
    test_y=(np.arange(test) % classes).astype(np.int32),
    class_names=tuple(map(str, range(classes))),
    fingerprint="",
  )


def _pixels(first: int, count: int) -> np.ndarray:
  return np.arange(first, first + count, dtype=np.float32)[:, None, None, None]


def head(run: Run, wanted: chips.Slice, target: Target, source: str) -> str:
  """What was compiled, and for what."""
  c = run.config
  idle = wanted.chips * wanted.chip.parts - target.mesh.size
  return (
    f"one step of {c['method']['name']} on {c['dataset']} (data {source}), compiled for TPU {wanted.name}: "
    f"{_count(wanted.chips, 'chip')}{', 2 devices each' if wanted.chip.parts > 1 else ''}\n"
    f"{target.about}{f', {idle} have nothing to do' if idle else ''}\n"
  )


def report(wanted: chips.Slice, memory: dict[str, int], cost: cost_lib.Cost, steps: int) -> str:
  """Memory with its verdict, least times, and exchanges between devices."""
  device = wanted.chip.device()
  unit = "chip" if wanted.chip.parts == 1 else "device"
  least = chips.bounds(device, cost.flops, cost.moved, cost.sent, jax.config.jax_default_matmul_precision)
  total = sum(memory.values())
  verdict = "fits" if total <= device.memory else "does not fit"
  lines = [
    format_table([f"memory per {unit}", "size"], [[k, format_bytes(v)] for k, v in memory.items()], align="lr"),
    f"{verdict}: {total / 1e9:.3g} of {device.memory / 1e9:.3g} GB HBM per {unit}",
    *([_CURE] if verdict != "fits" else []),
    "",
    format_table(
      [f"per step and {unit}", "work", "published peak", "takes at least"],
      [
        ["matrix products", *_row(cost.flops, "FLOP", device.flops, least.products)],
        ["chip <-> HBM", *_row(cost.moved, "B", device.bandwidth, least.memory)],
        ["chip -> chips", *_row(cost.sent, "B", device.link, least.links)],
      ],
      align="lrrr",
    ),
    f"a step takes at least {units.seconds(least.least)}, {steps:,} at least {units.seconds(steps * least.least)}",
  ]
  if cost.collectives:
    rows = [[e.kind, format_bytes(e.size), e.group, times] for e, times in sorted(cost.collectives.items())]
    lines += ["", format_table(["exchange", "size", "devices", "times per step"], rows, align="lrrr")]
  return "\n".join(lines)


def _count(number: int, word: str) -> str:
  return f"{number:,} {word}{'' if number == 1 else 's'}"


def _row(work: float, unit: str, peak: float, seconds: float) -> list[str]:
  return [units.amount(work, unit), units.amount(peak, f"{unit}/s"), units.seconds(seconds)]


def _notes(wanted: chips.Slice) -> str:
  precision = jax.config.jax_default_matmul_precision or "default"
  passes = chips.passes(precision)
  return (
    "Work is that of the compiled program: loops count as often as they run, of the branches of a choice the cheapest, "
    "memory traffic with the padding of tiles.\n"
    f"float32 products at JAX's precision {precision!r}: {passes} bfloat16 pass{'es' if passes > 1 else ''} each "
    f"('default' 1, 'high' 3, 'highest' 6). Peaks: https://cloud.google.com/tpu/docs/{wanted.chip.name}\n"
    "Least times take every peak as reached and latency as nothing; real steps take longer."
  )
