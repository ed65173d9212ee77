"""Our side of `benchmarks.student_step`: an epoch of `student_method` as the stages compile it."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _students
from jdistill import models
from jdistill.base import Batch, Variables
from jdistill.data.policies import shuffle
from jdistill.methods.knowledge import StudentInput, logits, student_method
from jdistill.methods.optimizers import make_optimizer
from jdistill.teachers.cache import cached, record
from jdistill.teachers.frozen import committee
from jdistill.training import parallel
from jdistill.training.policy_stream import Row, policy_stream
from jdistill.training.programs import Plan, build


def _network(depth: int):
  shape = (_students.SIDE, _students.SIDE, _students.CHANNELS)
  return models.build(f"resnet{depth}", num_classes=_students.CLASSES, image_shape=shape)


def _teacher(x: np.ndarray) -> Variables:
  """A network that was not trained, with the running statistics of its own activations."""
  network = _network(_students.TEACHER)
  params = network.init(jax.random.key(1)).params
  moments = jax.jit(lambda x: network.apply(params, x, train=True).norm_inputs)(x[: _students.BATCH])
  return Variables(params, {layer: {"mean": mean, "var": var} for layer, (mean, var) in moments.items()})


def _method(teacher, constrain=lambda batch: batch):
  optimizer = make_optimizer("sgd", _students.LR, momentum=_students.MOMENTUM, weight_decay=_students.WEIGHT_DECAY)
  recipe = logits.kd(temperature=_students.TEMPERATURE, ce_weight=_students.CE_WEIGHT, kd_weight=_students.KD_WEIGHT)
  return student_method(
    _network(_students.STUDENT),
    recipe,
    optimizer=optimizer,
    targets=teacher.targets,
    constrain=constrain,
  )


def _join(shared, row: Row) -> StudentInput:
  data, targets = shared
  batch = jax.tree.map(lambda leaf: leaf[row.index], data)._replace(weight=row.weight)
  return StudentInput(batch, row.step, row.epoch, targets=targets)


def training(targets: str, seeds: int, devices: int) -> tuple[Callable[[], None], dict[str, np.ndarray] | None]:
  """`(one epoch, what one step from the first weights gives)`.

  Args:
    targets: "online" or "cached".
    seeds: students that train side by side, one per device; a single one has its batches spread over all.
    devices: how many.
  """
  x, y = _students.data()
  ids = np.arange(len(y), dtype=np.int32)
  variables = _teacher(x)
  teacher = committee([_network(_students.TEACHER)], [variables])
  first = _first_steps(x, y, ids, variables, teacher) if targets == "online" else None
  if targets == "cached":
    teacher = cached(record(teacher, x, ids, data="", teacher_hash="", batch_size=_students.BATCH))
  policy, numbers = shuffle(len(y), _students.BATCH), list(range(seeds))
  stream = policy_stream(
    policy,
    jax.random.key(0),
    shared=(Batch(x, y, ids), teacher.arrays),
    members=np.tile(np.arange(len(y)), (seeds, 1)),
    join=_join,
    epochs=10**6,
    seeds=numbers,
    batch_size=_students.BATCH,
  )
  rows = parallel.make_mesh(data=devices) if seeds == 1 else None
  constrain = functools.partial(parallel.constrain_rows, rows) if rows else lambda batch: batch
  pool = parallel.make_mesh(pool=devices) if seeds > 1 else None
  plan = Plan(policy.steps, rows, "jit", seeds, at_once=False, pool_mesh=pool)
  programs = build(_method(teacher, constrain), _join, plan)
  key, shared = programs.place((jax.random.split(jax.random.key(0), seeds), jax.device_put(stream.shared)))
  state, alive = programs.init(*programs.place((key, shared, stream.example())))
  done = 0

  def run() -> None:
    nonlocal state, alive, done
    stream.prepare(done, state, shared)
    drawn = stream.rows(done, policy.steps)
    arguments = (key, state, alive, shared, drawn, np.int32(done), np.int32(policy.steps))
    state, _, alive = jax.block_until_ready(programs.call(*programs.place(arguments)))
    done += policy.steps

  return run, first


def _first_steps(x, y, ids, variables: Variables, teacher) -> dict[str, np.ndarray]:
  """Both networks' first weights, and losses, gradients and statistics of one step from there on each check batch."""
  method = _method(teacher)
  init, step = jax.jit(method.init), jax.jit(method.step)
  out = {}
  for number, rows in enumerate(_students.check_batches()):
    batch = Batch(*(jnp.asarray(leaf[rows]) for leaf in (x, y, ids)))
    inputs = StudentInput(batch, jnp.int32(0), jnp.float32(0), targets=teacher.arrays)
    state = init(jax.random.key(0), inputs)
    new, metrics = step(jax.random.key(0), state, inputs)
    before, after = (Variables(s.roles["student"].params, s.stats["student"]) for s in (state, new))
    # the first momentum is the gradient with the decay
    trace = next(s.trace for s in jax.tree.leaves(new.roles["student"].opt_state, is_leaf=_has_trace) if _has_trace(s))
    gradient = jax.tree.map(lambda t, p: t - _students.WEIGHT_DECAY * p, trace, before.params)
    found = {"gradient": (gradient,), "stats": (after.stats,)}
    out |= {f"{number}/{name}/{key}": v for name, tree in found.items() for key, v in _students.to_torch(tree).items()}
    out |= {f"{number}/loss/{name}": np.asarray(metrics[f"loss/{name}"]) for name in ("ce", "kd")}
  starts = {"teacher": variables, "student": before}
  return out | {f"{name}/{key}": v for name, tree in starts.items() for key, v in _students.to_torch(tree).items()}


def _has_trace(node) -> bool:
  return hasattr(node, "trace")
