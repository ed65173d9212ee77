"""`--dry_run --topology=v5e:2x4`: the outer step compiled for TPUs that are not there, and what it would cost there."""

import contextlib
import importlib.util
import os
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import topologies

from jdistill import config as config_lib
from jdistill import data
from jdistill.base import UserError
from jdistill.files import format_bytes
from jdistill.ops.rows import largest_divisor
from jdistill.reporting import chips, format_table, units
from jdistill.reporting import cost as cost_lib
from jdistill.stages.dataset import build, outer
from jdistill.stages.dataset.context import Context
from jdistill.training import parallel

# Sets whose shapes are public knowledge: (image shape, classes, training images, test images)
_SHAPES = {
  "cifar10": ((32, 32, 3), 10, 50_000, 10_000),
  "cifar100": ((32, 32, 3), 100, 50_000, 10_000),
  "tiny_imagenet": ((64, 64, 3), 200, 100_000, 10_000),
}
# What keeps libtpu from looking for TPUs on the network, and from writing and printing a log.
_QUIET = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_LOG_DIR": "disabled",
  "TPU_STDERR_LOG_LEVEL": "3",
  "TPU_MIN_LOG_LEVEL": "3",
}


def run(ctx: Context, text: str) -> None:
  """Prints memory, work and least times of the outer step on a slice of TPUs; reads data only where it must.

  Args:
    ctx: the run.
    text: `GENERATION:SHAPE`.

  Raises:
    UserError: an unknown topology, no libtpu, or rows of a batch that cannot be spread.
  """
  wanted = chips.parse_topology(text)
  use_cpu()
  devices = find_devices(wanted)
  ctx.dataset, source = dataset(ctx)
  mesh = choose_mesh(ctx, devices)
  ctx.say(f"compiling for {wanted.name}; this can take minutes")
  begin = time.monotonic()
  try:
    compiled = outer.compile_step(ctx, mesh)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    print(head(ctx, wanted, mesh, source))
    print(f"does not fit: {str(error).partition('RESOURCE_EXHAUSTED: ')[2].splitlines()[0]}\n{_CURE}")
    return
  seconds = time.monotonic() - begin
  print(head(ctx, wanted, mesh, source))
  print(report(ctx, wanted, outer.memory(compiled), cost_lib.cost(compiled.as_text(), mesh.size)))
  print(f"\n{_notes(wanted)}\nCompiled in {seconds:.0f} s with libtpu; nothing was run.")


_CURE = "more chips, a smaller method.batch_size or method.gradient=nested_remat need less memory"


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


def dataset(ctx: Context) -> tuple[data.Dataset, str]:
  """The data set, and where its shapes are from: for a well-known name its shapes, with nothing in them.

  Only a set that is known by name and has no `data_dir` is not read: reading it could start a download.
  """
  c = ctx.config
  if c["dataset"] not in _SHAPES or c["data_dir"] is not None:
    return ctx.dataset, "read"
  shape, classes, train, test = _SHAPES[c["dataset"]]
  train, test = c["train_size"] or train, c["test_size"] or test
  found = data.Dataset(
    name=c["dataset"],
    train_x=np.broadcast_to(np.float32(0), (train, *shape)),
    train_y=(np.arange(train) % classes).astype(np.int32),
    train_ids=np.arange(train, dtype=np.int32),
    test_x=np.broadcast_to(np.float32(0), (test, *shape)),
    test_y=(np.arange(test) % classes).astype(np.int32),
    class_names=tuple(map(str, range(classes))),
    fingerprint="",
  )
  config_lib.check_against_data(c, found)
  return found, "not read, its shapes are known by its name"


def choose_mesh(ctx: Context, devices: list[jax.Device]) -> jax.sharding.Mesh:
  """The devices that share a batch: `parallel.data` of them, or where that is open as many as divide it.

  Raises:
    UserError: a number that does not divide the batch, or a gradient route that cannot spread rows.
  """
  _, batch = ctx.rows()
  asked = ctx.config["parallel"]["data"]
  mesh = parallel.make_mesh(data=asked or largest_divisor(batch, len(devices)), devices=devices)
  parallel.check_rows(batch, mesh)
  gradient = ctx.config["method"]["gradient"]
  if gradient in ("full", "remat") and outer.route(ctx) == "shard_map":
    raise UserError(f"method.gradient={gradient!r}: cannot spread the rows of a batch over devices; use 'mixed'")
  return mesh


def head(ctx: Context, wanted: chips.Slice, mesh: jax.sharding.Mesh, source: str) -> str:
  """What was compiled, and for what."""
  c, (count, batch) = ctx.config, ctx.rows()
  idle = wanted.chips * wanted.chip.parts - mesh.size
  return (
    f"one outer step of {c['method']['name']} on {c['dataset']} (data {source}), compiled for TPU {wanted.name}: "
    f"{_count(wanted.chips, 'chip')}{', 2 devices each' if wanted.chip.parts > 1 else ''}\n"
    f"{count:,} images of {ctx.dataset.image_shape}; {c['method']['inner_steps']} inner steps of {batch:,}, gradient "
    f"{build.usual_way(ctx, mesh).gradient}; {_count(mesh.size, 'device')} with {batch // mesh.size:,} rows each"
    f"{f', {idle} have nothing to do' if idle else ''}\n"
  )


def report(ctx: Context, wanted: chips.Slice, memory: dict[str, int], cost: cost_lib.Cost) -> str:
  """Memory with its verdict, least times, and exchanges between devices."""
  device = wanted.chip.device()
  precision = jax.config.jax_default_matmul_precision
  least = chips.bounds(device, cost.flops, cost.moved, cost.sent, precision)
  total, steps = sum(memory.values()), ctx.config["steps"]
  verdict = "fits" if total <= device.memory else "does not fit"
  lines = [
    format_table(
      [f"memory per {_unit(wanted)}", "size"], [[k, format_bytes(v)] for k, v in memory.items()], align="lr"
    ),
    f"{verdict}: {total / 1e9:.3g} of {device.memory / 1e9:.3g} GB HBM per {_unit(wanted)}",
    *([_CURE] if verdict != "fits" else []),
    "",
    format_table(
      [f"per step and {_unit(wanted)}", "work", "published peak", "takes at least"],
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


def _unit(wanted: chips.Slice) -> str:
  return "chip" if wanted.chip.parts == 1 else "device"


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
