"""`--dry_run`: shapes, parameters, memory and work of a run, traced and compiled but without training."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import models
from jdistill.data import preprocess
from jdistill.files import format_bytes
from jdistill.losses import cross_entropy
from jdistill.reporting import cost, flops, format_table, units
from jdistill.runs import whitening
from jdistill.runs.run import Run
from jdistill.stages import build, gradient, topology
from jdistill.stages.build import Route
from jdistill.stages.stage import Stage


class Step(NamedTuple):
  """A step of stage `distill` as compiled for this machine.

  Attributes:
    route: how its gradient is taken; `None` for methods without inner steps.
    devices: how many share the rows of a batch.
    memory: bytes per device by purpose (`reporting.cost.program_memory`).
    flops: on all devices together.
    collectives: how often each exchange between devices happens.
  """

  route: Route | None
  devices: int
  memory: dict[str, int]
  flops: float
  collectives: dict[cost.Collective, int]

  def held(self) -> str:
    """What each device holds, and what devices send each other."""
    held = ", ".join(f"{name} {format_bytes(size)}" for name, size in self.memory.items())
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit is not None:
      held += f"; {'fits' if sum(self.memory.values()) <= limit else 'does not fit'} in {format_bytes(limit)}"
    exchanges = [
      f"\n{times} times a step: {one.kind} of {format_bytes(one.size)} over {one.group} devices"
      for one, times in sorted(self.collectives.items())
    ]
    return f"each of {self.devices} devices holds {held}{''.join(exchanges)}"


def show(run: Run, stages: Mapping[str, Stage]) -> None:
  """Prints the plan of a run; reads the data, traces and compiles its steps, trains and writes nothing."""
  if run.config["dataset"] in topology.UNREAD:
    topology.take_shapes(run)
  preparation, fit = [], run.fit

  def planned(kind: str, pixels: np.ndarray):
    """Fits what is fitted in no time."""
    if kind != "zca":
      return fit(kind, pixels)
    preparation.append(["data", "whitening", whitening.cost(pixels.shape)])
    return preprocess.fit("none", pixels)

  run.fit = planned
  c, task = run.config, run.task()
  splits = f"{len(task.data.y):,} training, {len(task.validation.y):,} held-out and {len(task.test.y):,} test examples"
  print(f"{c['method']['name']} on {c['dataset']}: {splits} of {task.input_shape}, {task.num_classes} classes\n")
  for name in ("model", "teacher", "student"):
    if name in c and (name == "model" or c[name] != c.get("model")):
      print(_parameters(run, name))
  rows = preparation + [[name, *row] for name in c["stages"] for row in stages[name].plan(run) or [("", "")]]
  print(format_table(["stage", "what", "cost"], [row[:3] for row in rows], align="lll"))
  for stage, _, _, *more in rows:
    if more:
      print(f"\n{stage}: {more[0]}")
  print(
    f"\na float32 matmul of 1024 x 1024 runs here at {units.amount(flops.peak(), 'FLOP/s')}; 'at least' takes that "
    "rate as reached.\nFLOPs count multiplications and additions of products and convolutions; scratch is the "
    "program's own memory on a device."
  )


def _parameters(run: Run, section: str) -> str:
  network = run.network(run.config[section])
  rows = models.describe(network, run.task().input_shape)
  size = sum(count for _, _, count in rows)
  table = format_table(["parameter", "shape", "count"], [[path, str(shape), count] for path, shape, count in rows])
  return f"{table}\n{section} {run.config[section]['name']}: {size:,} parameters, {format_bytes(4 * size)}\n"


def distill_step(run: Run) -> Step:
  """Compiles the step for the devices that the run would use."""
  devices = build.data_devices(run)
  mesh = run.mesh("data", devices)
  route = gradient.choose(run, mesh)
  compiled = build.compile_step(run, mesh, route)
  exchanges = cost.cost(compiled.as_text(), devices).collectives
  method = build.build(run, build.empty(run), None, route)
  return Step(
    route, devices, cost.program_memory(compiled), flops.count(method.step, *build.shapes(run, method)), exchanges
  )


def gradient_flops(run: Run) -> float:
  """FLOPs of one gradient of the training loss in the run's network on one image."""
  network, task = run.network(), run.task()
  variables = jax.eval_shape(network.init, jax.random.key(0))

  def loss(params, stats, x):
    return jnp.sum(cross_entropy(network.apply(params, x, train=True, stats=stats).logits, jnp.zeros(1, jnp.int32)))

  x = jax.ShapeDtypeStruct((1, *task.input_shape), np.float32)
  return flops.count(jax.grad(loss), variables.params, variables.stats, x)
