"""What a run would need: shapes, parameters, memory and work, from compiled programs and without training."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import models
from jdistill.augment import identity
from jdistill.evaluation import probabilities
from jdistill.files import format_bytes
from jdistill.methods.dataset import Segment
from jdistill.methods.dataset.trajectory import synthetic_loss
from jdistill.reporting import format_table
from jdistill.stages import distill
from jdistill.stages.context import Context
from jdistill.synthetic import SyntheticSet


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
  print(format_table(["stage", "what", "cost"], stages(ctx, size), align="lll"))
  print("\nFLOPs count multiplications and additions as XLA does; memory is the program's own scratch on this device.")


def stages(ctx: Context, size: int) -> list[list[str]]:
  """One row per stage: what it does and what it costs."""
  c, dataset = ctx.config, ctx.dataset
  experts, method, evaluation = c["experts"], c["method"], c["eval"]
  classes, shape = dataset.num_classes, dataset.image_shape
  count = c["ipc"] * classes
  per_image = inner_flops(ctx, 1)
  sharpness = 2 if experts["rho"] else 1
  expert = per_image * len(dataset.train_y) * experts["epochs"] * experts["count"] * sharpness
  memory, outer = outer_step(ctx)
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
      f"({format_bytes(held)}), gradient {method['gradient']}",
      f"{_flops(outer)} a step, {_flops(outer * c['steps'])} in all, scratch {format_bytes(memory)}",
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


def outer_step(ctx: Context) -> tuple[int, float]:
  """Scratch bytes of the compiled outer step, and its FLOPs: forward pass and adjoint of every inner step."""
  c, dataset = ctx.config, ctx.dataset
  count = c["ipc"] * dataset.num_classes
  soft = c["method"]["labels"] == "soft"
  flat = models.flatten(ctx.network())
  initial = SyntheticSet(
    np.zeros((count, *dataset.image_shape), np.float32),
    np.zeros((count, dataset.num_classes), np.float32) if soft else np.zeros(count, np.int32),
    np.float32(c["method"]["lr_init"]),
  )
  method = distill.build(ctx, initial)
  vector = jax.ShapeDtypeStruct((flat.size,), jnp.float32)
  segment = Segment(vector, vector)
  key = jax.random.key(0)
  state = jax.eval_shape(method.init, key, segment)
  compiled = jax.jit(method.step, donate_argnums=(1,)).lower(key, state, segment).compile()
  memory = compiled.memory_analysis()
  # XLA counts a loop's body once, so the work of a step is counted from programs without a loop.
  return int(memory.temp_size_in_bytes), c["method"]["inner_steps"] * _inner_step_flops(ctx, soft)


def _inner_step_flops(ctx: Context, soft: bool) -> float:
  """One inner gradient and its adjoint, without augmentation (whose work is small beside the network's)."""
  dataset, m = ctx.dataset, ctx.config["method"]
  count = ctx.config["ipc"] * dataset.num_classes
  batch = min(m["batch_size"] or count, count)
  flat = models.flatten(ctx.network())
  loss = synthetic_loss(flat.apply, identity())
  labels = jnp.zeros((batch, dataset.num_classes)) if soft else jnp.zeros(batch, jnp.int32)
  row = {"weight": jnp.full(batch, 1 / batch), "record": ()} | ({} if soft else {"labels": labels})

  def adjoint(theta, x, direction):
    both = jax.grad(loss, argnums=(0, 1))
    shared = {"images": x} | ({"labels": labels} if soft else {})
    return jax.jvp(lambda p: both(p, shared, row), (theta,), (direction,))

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
  for unit, scale in (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9)):
    if value >= scale:
      return f"{value / scale:.3g} {unit}"
  return f"{value / 1e6:.3g} MFLOP"
