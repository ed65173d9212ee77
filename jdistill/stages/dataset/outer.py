"""The outer step as a compiled program, from shapes alone: for the devices that are there, or for others."""

import jax
import numpy as np
from jax.sharding import Mesh

from jdistill import models
from jdistill.methods.dataset import Segment
from jdistill.stages.dataset.build import Way, build
from jdistill.stages.dataset.context import Context
from jdistill.synthetic import SyntheticSet
from jdistill.training import parallel


def compile_step(ctx: Context, mesh: Mesh | None = None, way: Way | None = None) -> jax.stages.Compiled:
  """Lowers and compiles the step as the loop runs it, with its state donated.

  Args:
    ctx: the run; its data set is asked for shapes only.
    mesh: the devices that share the rows of an inner batch, which need not be there; `None` for one device.
    way: how the gradient is taken; the usual way if `None`.
  """
  shape, classes = ctx.dataset.image_shape, ctx.dataset.num_classes
  soft = ctx.config["method"]["labels"] == "soft"
  count, _ = ctx.rows()
  initial = SyntheticSet(
    np.zeros((count, *shape), np.float32),
    np.zeros((count, classes), np.float32) if soft else np.zeros(count, np.int32),
    np.float32(ctx.config["method"]["lr_init"]),
  )
  method = build(ctx, initial, mesh, way)
  vector = jax.ShapeDtypeStruct((models.flatten(ctx.network()).size,), np.float32)
  key, segment = jax.eval_shape(lambda: jax.random.key(0)), Segment(vector, vector)
  state = jax.eval_shape(method.init, key, segment)
  if mesh is None:
    step = jax.jit(method.step, donate_argnums=(1,))
  else:
    step = parallel.spread_step(method.step, mesh, route(ctx), donate_argnums=(1,))
  return step.lower(key, state, segment).compile()


def route(ctx: Context) -> str:
  """How the rows are spread; `pmap` cannot be compiled ahead, and is `shard_map` in an older form."""
  chosen = ctx.config["parallel"]["route"]
  return "shard_map" if chosen == "pmap" else chosen


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
  """Bytes per device: `arguments`, `scratch`, `results` (that do not take the place of arguments) and `program`."""
  found = compiled.memory_analysis()
  return {
    "arguments": int(found.argument_size_in_bytes),
    "scratch": int(found.temp_size_in_bytes),
    "results": int(found.output_size_in_bytes - found.alias_size_in_bytes),
    "program": int(found.generated_code_size_in_bytes),
  }
