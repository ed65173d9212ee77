"""The method of a run as a value and as a compiled program, whatever collaborators its builder takes."""

import contextlib
import functools
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jdistill import augment, bilevel, catalog, models
from jdistill.base import Method, Network
from jdistill.catalog import Row
from jdistill.data import preprocess
from jdistill.evaluation import embeddings
from jdistill.jobs import networks, trajectories
from jdistill.ops import cam, suggest_chunk_size
from jdistill.runs.run import Run
from jdistill.stages import project, real_images, teachers, voting
from jdistill.synthetic import Budget, Materials, SyntheticSet
from jdistill.tasks import Task
from jdistill.training import parallel

AUTO = "auto"


class Route(NamedTuple):
  """How the gradient through inner steps is taken.

  Attributes:
    gradient: a route of `jdistill.bilevel.unroll`.
    chunk_size: rows of a batch and device looked at together; `None` for all.
  """

  gradient: str
  chunk_size: int | None


def row_of(run: Run) -> Row:
  """The catalog's row of a run's method."""
  return catalog.row(run.config["method"]["name"])


def part(run: Run, name: str, **others: Any):
  """A part of the method, such as its stream, with this run's options, or others; `None` where it has no such part."""
  row = row_of(run)
  return row.build(name)(**row.options_of(run.config["method"], name) | others) if name in row.parts else None


def budget(run: Run) -> Budget:
  """Images per class of the starting set, and those that networks are trained on."""
  c = run.config
  return part(run, "start").budget(c["ipc"], run.task().num_classes, networks.count(run))


def count(run: Run) -> int:
  """How many synthetic images networks are trained on."""
  return budget(run).trained_on * run.task().num_classes


def build(run: Run, initial: SyntheticSet, mesh: Mesh | None = None, route: Route | None = None, unroll=None) -> Method:
  """The method of the configuration: its catalog row's builder with this run's networks and options.

  Collaborators are handed over by the names of the builder's parameters.

  Args:
    run: the run.
    initial: the starting set.
    mesh: devices that share the rows of an inner batch; its step is then for `parallel.spread_step`. `None` for one.
    route: how the gradient is taken; `usual_route` if `None`.
    unroll: instead of the one made of these.
  """
  row, options = row_of(run), run.config["method"]
  view = augment.view(options.get("view", "none"))
  makers = {
    "apply": lambda: flat(run).apply,
    "network": lambda: run.network(task=_as_wide_as(run, initial)),
    "smooth_network": lambda: run.network(smooth(run.config["model"])),
    "initial": lambda: initial,
    "teacher_apply": lambda: run.network(run.config["teacher"]).apply,
    "teacher_applies": lambda: tuple(network.apply for network in _teachers(run)),
    "encoder_apply": lambda: project.network(run).apply,
    "pixel_range": lambda: pixel_range(run),
    "augment": lambda: augment.named(options["augment"], always=view.always),
    "siamese": lambda: augment.named(options["augment"], siamese=True, always=view.always),
    "view": lambda: view.view,
    "unroll": lambda: unroll or _unroll(run, mesh, route or usual_route(run, mesh)),
  }
  wanted = [name for name in inspect.signature(row.build()).parameters if name in makers]
  return row.build()(**{name: makers[name]() for name in wanted}, **row.options_of(options))


def _as_wide_as(run: Run, initial: SyntheticSet) -> Task:
  """The task with as many outputs as the set's targets are wide."""
  task, labels = run.task(), np.shape(initial.labels)
  return task._replace(num_classes=labels[1]) if len(labels) == 2 else task


def _teachers(run: Run) -> list[Network]:
  """The network of every teacher, the committee's after the run's own."""
  return [run.network(networks.model_of(one)) for one in networks.specs(run) for _ in range(one.count)]


def teacher_width(run: Run) -> int:
  """How many features enter the head of the run's teacher; 0 for methods whose builders take none."""
  if not row_of(run).takes("teacher_apply"):
    return 0
  network, shape = run.network(run.config["teacher"]), (1, *run.task().input_shape)
  variables = jax.eval_shape(network.init, jax.random.key(0))
  seen = jax.eval_shape(
    lambda v, x: network.apply(v.params, x, stats=v.stats).embedding, variables, jax.ShapeDtypeStruct(shape, np.float32)
  )
  return seen.shape[1]


def embed(run: Run):
  """The features of the run's teacher, `(images) -> [n, D]`; `None` for methods whose builders take none."""
  if not row_of(run).takes("teacher_apply"):
    return None

  def found(images: np.ndarray) -> np.ndarray:
    own = teachers.first(run)
    return embeddings(own.networks[0], own.variables[0], images)

  return found


def teacher_logits(run: Run):
  """The logits of all teachers, `(images) -> [teachers, n, classes]`; `None` where teachers leave trajectories."""
  if "teachers" not in run.config or row_of(run).keep == "trajectory":
    return None
  own = functools.cache(lambda: teachers.first(run))
  return lambda images: networks.logits(own(), images)


def class_maps(run: Run):
  """Class maps by the run's teacher, `(images, labels, kind) -> [n, height, width]`; `None` as for `embed`."""
  if not row_of(run).takes("teacher_apply"):
    return None

  def found(images: np.ndarray, labels: np.ndarray, kind: str) -> np.ndarray:
    own = teachers.first(run)
    return models.predict(_class_maps(own.networks[0], kind), own.variables[0], (images, labels))

  return found


@functools.lru_cache(maxsize=8)
def _class_maps(network: Network, kind: str):
  return lambda variables, given: cam.class_maps(network.apply, variables, *given, kind=kind)


def smooth(section: Mapping[str, Any]) -> dict[str, Any]:
  """A section of a network with a smooth activation in place of ReLU, where it has one: for second derivatives.

  The parameters are the same.
  """
  return dict(section) | ({"act": "softplus"} if section.get("act") == "relu" else {})


def flat(run: Run):
  """The run's network over one parameter vector."""
  return _flat(run.network())


@functools.lru_cache(maxsize=8)
def _flat(network):
  return models.flatten(network)


def pixel_range(run: Run) -> tuple[np.ndarray, np.ndarray]:
  """The least and the greatest value of every channel in network space, `[channels]` each."""
  task = run.task()
  return preprocess.pixel_range(task.preprocessing, task.input_shape)


def _unroll(run: Run, mesh: Mesh | None, route: Route):
  window = run.config["unroll"]["window"]
  unroll = functools.partial(bilevel.unroll, gradient=route.gradient, window=window, chunk_size=route.chunk_size)
  return unroll if mesh is None else parallel.spread_unroll(unroll, mesh, run.config["parallel"]["route"])


class _Seen(Exception):
  """Ends a trace once the rows of an inner step are known."""


class InnerTraining(NamedTuple):
  """What a method asks of `jdistill.bilevel.unroll`.

  Attributes:
    rows: how many images an inner step sees.
    momentum: of inner steps.
    marks: numbers of steps after which it looks at the parameters on the way.
  """

  rows: int
  momentum: float
  marks: tuple[int, ...]


def inner_training(run: Run) -> InnerTraining | None:
  """The inner training of a run's method; `None` for methods without inner steps."""
  if not row_of(run).takes("unroll"):
    return None
  seen = []

  def unroll(*arguments, indices, momentum=0.0, marks=(), **options):
    seen.append(InnerTraining(indices.shape[1], momentum, tuple(marks)))
    raise _Seen

  key, state, example = shapes(run, method := build(run, empty(run), unroll=unroll))
  with contextlib.suppress(_Seen):
    jax.eval_shape(method.step, key, state, example)
  return seen[0]


def inner_rows(run: Run) -> int | None:
  """How many images an inner step sees; `None` for methods without inner steps."""
  found = inner_training(run)
  return None if found is None else found.rows


def steps(run: Run) -> int | None:
  """How many steps there are: those of the configuration, else as many as the method has by itself."""
  return run.config["steps"] or build(run, empty(run), unroll=lambda *_, **__: None).steps


def empty(run: Run) -> SyntheticSet:
  """A starting set of the right shapes with nothing in it."""
  task = run.task()
  return part(run, "start").empty(budget(run).start, task.num_classes, task.input_shape, teacher_width(run))


def materials(run: Run, *, ahead: bool = False) -> Materials:
  """What the method's stream is made of; `ahead` of all work, shapes are in the place of trajectories and teachers."""
  task, row, count = run.task(), row_of(run), run.config.get("teachers", {}).get("count", 0)
  network = flat(run)
  images, labels = real_images.images(run, ahead=ahead)
  found = Materials(images, labels, task.num_classes, run.config["seed"], network.size, network.shapes)
  if row.takes("teacher_apply"):
    network = run.network(run.config["teacher"])
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    found = found._replace(teacher=shapes if ahead else teachers.first(run).variables[0])
  if row.takes("teacher_applies"):
    shapes = tuple(jax.eval_shape(network.init, jax.random.key(0)) for network in _teachers(run))
    zeros = np.zeros(len(shapes), np.float32)
    own, prior = (shapes, zeros) if ahead else (teachers.first(run).variables, voting.prior(run))
    found = found._replace(committee=own, prior=prior)
  if row.takes("encoder_apply"):
    shapes = functools.partial(jax.eval_shape, project.network(run).init, jax.random.key(0))
    found = found._replace(encoder=shapes if ahead else lambda: project.ready(run).variables)
  if row.keep == "trajectory" and not ahead:
    buffer = trajectories.ready(run)
    found = found._replace(segment=buffer.segment, epochs=buffer.epochs)
  return found._replace(teachers=count)


def shapes(run: Run, method: Method):
  """Shapes of a key, of the method's state and of one batch of its stream."""
  example = part(run, "stream").example(materials(run, ahead=True))
  key = jax.eval_shape(lambda: jax.random.key(0))
  return key, jax.eval_shape(method.init, key, example), example


def data_devices(run: Run) -> int:
  """How many devices share the rows of an inner step; where it is open, as many as have something to do."""
  rows, how = inner_rows(run), run.config["parallel"]
  if rows is None:
    return how["data"] or 1
  if how["data"] is not None:
    return how["data"]
  processes = jax.process_count()
  if (how["route"] == "pmap" and processes > 1) or (how["route"] != "jit" and _whole_batch(run)):
    return 1
  return parallel.suggest_data(rows, len(jax.devices()), processes)


def _whole_batch(run: Run) -> bool:
  return run.config["unroll"]["gradient"] in ("full", "remat")


def usual_route(run: Run, mesh: Mesh | None = None) -> Route:
  """The configuration's own choice; where it leaves one open, the fastest."""
  how, share = run.config["unroll"], rows_per_device(run, mesh)
  gradient = "mixed" if how["gradient"] == AUTO else how["gradient"]
  if mesh is not None and run.config["parallel"]["route"] == "jit":
    return Route(gradient, None)  # the compiler divides the rows; chunks of them would be divided again
  if how["chunk_size"] is not None:
    return Route(gradient, how["chunk_size"] if how["chunk_size"] < share else None)
  theta = jax.ShapeDtypeStruct((flat(run).size,), np.float32)
  platform = None if mesh is None else mesh.devices.flat[0].platform
  shape = run.task().input_shape
  return Route(gradient, suggest_chunk_size(flat(run).apply, theta, shape, share, platform=platform))


def rows_per_device(run: Run, mesh: Mesh | None) -> int:
  """How many of an inner step's images one device sees."""
  return inner_rows(run) // (1 if mesh is None else mesh.shape[parallel.DATA])


def compile_step(run: Run, mesh: Mesh | None = None, route: Route | None = None) -> jax.stages.Compiled:
  """Lowers and compiles the step as the loop runs it, with its state donated; arguments are as in `build`.

  The data set is asked for shapes only, and the devices of the mesh need not be there.
  """
  method = build(run, empty(run), mesh, route)
  key, state, example = shapes(run, method)
  if mesh is None:
    step = jax.jit(method.step, donate_argnums=(1,))
  else:
    step = parallel.spread_step(method.step, mesh, ahead_route(run), donate_argnums=(1,))
  return step.lower(key, state, example).compile()


def ahead_route(run: Run) -> str:
  """How rows are spread; `pmap` cannot be compiled ahead, and is `shard_map` in an older form."""
  chosen = run.config["parallel"]["route"]
  return "shard_map" if chosen == "pmap" else chosen
