"""What stage `distill` refuses before anything is written: sets, networks, options, devices and routes."""

import jax

from jdistill import augment
from jdistill.base import UserError
from jdistill.bilevel import PLAIN_SGD_ROUTES, UNMARKED_ROUTES
from jdistill.data.checks import require_per_class
from jdistill.runs.run import Run
from jdistill.stages import build
from jdistill.training import distributed, parallel


def check(run: Run) -> None:
  """Refuses sets, devices and networks that cannot work."""
  task, c = run.task(), run.config
  start = build.part(run, "start")
  require_per_class(task.teacher.y, task.class_names, c["ipc"], "ipc", start.reals)
  start.candidates(task.teacher.y, c["ipc"], task.num_classes)
  network = run.network()
  augment.named(c["method"].get("augment", "none"), key="method.augment")
  augment.view(c["method"].get("view", "none"), key="method.view", image_shape=task.input_shape)
  if build.row_of(run).takes("apply") and jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0)).stats):
    key = "name" if c["model"]["name"].endswith("_bn") else "norm"
    cure = "running statistics have no place in a matched trajectory; use 'instance' or 'group'"
    raise UserError(f"model.{key}={c['model'][key]!r}: {cure}")
  _check_options(run)
  if build.steps(run) is None:
    raise UserError("steps: not set, and there is no default for this data set; give --config.steps=...")
  inner, how = build.inner_training(run), c["parallel"]
  if inner is None:
    return
  _check_route(c["unroll"]["gradient"], inner, c["method"]["name"])
  rows = inner.rows
  data, chunk = build.data_devices(run), c["unroll"]["chunk_size"]
  if how["route"] == "pmap" and data > 1 and distributed.count() > 1:
    raise UserError("parallel.route='pmap': is for one process; use 'shard_map' or 'jit'")
  if data > 1:
    parallel.check_rows(rows, parallel.make_mesh(data=data, devices=parallel.process_devices(data)))
  if chunk is not None and chunk < rows // data and rows // data % chunk:
    raise UserError(
      f"unroll.chunk_size={chunk}: does not divide the {rows // data} images of an inner step"
      f"{f' on each of {data} devices' if data > 1 else ''}; use a divisor, or None"
    )


def _check_options(run: Run) -> None:
  """Refuses options that do not go together, with each other or with the network, before anything is written."""
  try:
    # builders and first states refuse options that do not fit the set or the batches
    build.shapes(run, build.build(run, build.empty(run), unroll=lambda *_, **__: None))
  except UserError:
    raise
  except ValueError as error:  # of a builder, which knows no sections
    what, _, why = str(error).partition(": ")
    if what == "teacher_applies":
      raise UserError(f"committee: {why}") from error
    if what == "teacher_apply":
      raise UserError(f"teacher.name={run.config['teacher']['name']!r}: {why}") from error
    raise UserError(f"method: {error}") from error


def _check_route(route: str, inner: build.InnerTraining, name: str) -> None:
  """Refuses gradient routes that cannot carry the inner training of a method."""
  if route in PLAIN_SGD_ROUTES and inner.momentum:
    raise UserError(
      f"unroll.gradient={route!r}: is for plain SGD, and {name} has an inner momentum of {inner.momentum}; use "
      "'mixed', or set the momentum to 0"
    )
  if route in UNMARKED_ROUTES and inner.marks:
    raise UserError(f"unroll.gradient={route!r}: has no points on the way, which {name} looks at; use 'mixed'")
