"""What a run would need: shapes, parameters, memory and work, from compiled programs and without training."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import models
from jdistill.augment import identity
from jdistill.evaluation import probabilities
from jdistill.files import format_bytes
from jdistill.methods.dataset.trajectory import synthetic_loss
from jdistill.reporting import cost, format_table, matmul_peak, units
from jdistill.stages.dataset import build, gradient, outer
from jdistill.stages.dataset.context import Context


class Step(NamedTuple):
  """The outer step as compiled for this machine.

  Attributes:
    way: how its gradient is taken.
    devices: how many share the rows of a batch.
    memory: bytes per device by purpose (`outer.memory`).
    flops: of the forward pass and the adjoint of every inner step, on all devices together.
    collectives: how often each exchange between devices happens.
  """

  way: build.Way
  devices: int
  memory: dict[str, int]
  flops: float
  collectives: dict[cost.Collective, int]


def run(ctx: Context) -> None:
  """Prints the plan of a run; reads the data, compiles the outer step for this device, writes nothing."""
  c, dataset = ctx.config, ctx.dataset
  network = ctx.network()
  rows = models.describe(network, dataset.image_shape)
  size = sum(count for _, _, count in rows)
  print(
    f"{c['method']['name']} on {c['dataset']}: {len(dataset.train_y)} training and {len(dataset.test_y)} test images "
    f"of {dataset.image_shape}, {dataset.num_classes} classes\n"
  )
  print(format_table(["parameter", "shape", "count"], [[path, str(shape), count] for path, shape, count in rows]))
  print(f"{c['model']['name']}: {size:,} parameters, {format_bytes(4 * size)}\n")
  step = outer_step(ctx)
  print(format_table(["stage", "what", "cost"], stages(ctx, size, step), align="lll"))
  print(f"\n{describe_step(step, c['steps'], matmul_peak())}")
  print("\nFLOPs count multiplications and additions as XLA does; scratch is the program's own memory on a device.")


def stages(ctx: Context, size: int, step: Step) -> list[list[str]]:
  """One row per stage: what it does and what it costs."""
  c, dataset = ctx.config, ctx.dataset
  experts, method, evaluation = c["experts"], c["method"], c["eval"]
  classes, shape = dataset.num_classes, dataset.image_shape
  count = c["ipc"] * classes
  per_image = inner_flops(ctx, 1)
  sharpness = 2 if experts["rho"] else 1
  expert = per_image * len(dataset.train_y) * experts["epochs"] * experts["count"] * sharpness
  trained = per_image * count * (evaluation["epochs"] + 1)
  full = per_image * len(dataset.train_y) * (evaluation["full_epochs"] + 1)
  evaluations = evaluation["seeds"] * (sum(s != "full_data" for s in evaluation["sets"]) * trained)
  evaluations += evaluation["seeds"] * full * ("full_data" in evaluation["sets"])
  held = 4 * (count * math.prod(shape) + count * classes)
  batch = min(method["batch_size"] or count, count)
  rows = {
    "experts": [
      f"{experts['count']} networks x {experts['epochs']} epochs, batch {experts['batch_size']}",
      f"{_flops(expert)}, buffer {format_bytes(4 * size * (experts['epochs'] + 1) * experts['count'])}",
    ],
    "distill": [
      f"{c['steps']} outer steps x {method['inner_steps']} inner steps of {batch} of {count} images "
      f"({format_bytes(held)}), gradient {step.way.gradient}",
      f"{_flops(step.flops)} a step, {_flops(step.flops * c['steps'])} in all, "
      f"scratch {format_bytes(step.memory['scratch'])}",
    ],
    "evaluate": [
      f"{len(evaluation['sets'])} sets x {evaluation['seeds']} networks x {len(evaluation['models'])} architectures",
      f"about {_flops(evaluations)} for {c['model']['name']}",
    ],
  }
  return [[stage, *rows.get(stage, ["", ""])] for stage in c["stages"]]


def inner_flops(ctx: Context, batch: int) -> float:
  """FLOPs of one gradient of the training loss on `batch` images."""
  flat = models.flatten(ctx.network())
  targets = jnp.asarray(probabilities(np.zeros(batch, np.int64), ctx.dataset.num_classes))

  def loss(theta, x):
    return -jnp.sum(targets * jax.nn.log_softmax(flat.apply(theta, x, train=True).logits))

  shapes = (jax.ShapeDtypeStruct((flat.size,), jnp.float32), _images(ctx, batch))
  return _cost(jax.jit(jax.grad(loss)).lower(*shapes))


def outer_step(ctx: Context) -> Step:
  """Compiles the outer step for the devices that the run would use."""
  data, mesh = ctx.devices("data"), ctx.mesh("data")
  way = gradient.choose(ctx, mesh)
  compiled = outer.compile_step(ctx, mesh, way)
  exchanges = cost.cost(compiled.as_text(), data).collectives
  # XLA counts a loop's body once, so the work of a step is counted from programs without a loop.
  return Step(
    way, data, outer.memory(compiled), ctx.config["method"]["inner_steps"] * _inner_step_flops(ctx), exchanges
  )


def describe_step(step: Step, steps: int, peak: float) -> str:
  """The outer step on this machine: memory, exchanges, and the least time at a measured rate of matmuls."""
  device = jax.local_devices()[0]
  held = ", ".join(f"{name} {format_bytes(size)}" for name, size in step.memory.items())
  limit = (device.memory_stats() or {}).get("bytes_limit")
  verdict = "fits" if sum(step.memory.values()) <= (limit or math.inf) else "does not fit"
  own = step.devices if device.platform != "cpu" else 1  # devices of one CPU share what was measured
  least = step.flops / own / peak
  lines = [
    f"outer step on {step.devices} {device.platform} device{'s' if step.devices > 1 else ''}, each: {held}"
    f"{f'; {verdict} in {format_bytes(limit)}' if limit else ''}",
    f"a float32 matmul of 1024 x 1024 runs here at {units.amount(peak, 'FLOP/s')}; at that rate a step takes at least "
    f"{units.seconds(least)}, {steps:,} at least {units.seconds(steps * least)}",
  ]
  for exchange, times in sorted(step.collectives.items()):
    lines.append(
      f"{times} times a step: {exchange.kind} of {format_bytes(exchange.size)} over {exchange.group} devices"
    )
  return "\n".join(lines)


def _inner_step_flops(ctx: Context) -> float:
  """One inner gradient and its adjoint, without augmentation (whose work is small beside the network's)."""
  dataset, soft = ctx.dataset, ctx.config["method"]["labels"] == "soft"
  _, batch = ctx.rows()
  flat = models.flatten(ctx.network())
  loss = synthetic_loss(flat.apply, identity(), dataset.image_shape)
  labels = jnp.zeros((batch, dataset.num_classes)) if soft else jnp.zeros(batch, jnp.int32)
  row = {"weight": jnp.full(batch, 1 / batch), "record": ()} | ({} if soft else {"labels": labels})

  def adjoint(theta, x, direction):
    both = jax.value_and_grad(loss, argnums=(0, 1))
    shared = {"images": x} | ({"labels": labels} if soft else {})
    return jax.jvp(lambda p: both(p, shared, row), (theta,), (direction,))[1]

  def forward(theta, x):
    return jax.grad(loss)(theta, {"images": x} | ({"labels": labels} if soft else {}), row)

  vector, images = jax.ShapeDtypeStruct((flat.size,), jnp.float32), _images(ctx, batch)
  return _cost(jax.jit(adjoint).lower(vector, images, vector)) + _cost(jax.jit(forward).lower(vector, images))


def _images(ctx: Context, batch: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((batch, *ctx.dataset.image_shape), jnp.float32)


def _cost(lowered) -> float:
  analysis = lowered.compile().cost_analysis()
  analysis = analysis[0] if isinstance(analysis, list) else analysis
  return float((analysis or {}).get("flops", math.nan))


def _flops(value: float) -> str:
  return units.amount(value, "FLOP")
