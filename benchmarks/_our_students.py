"""Our side of `benchmarks.student_step`: an epoch of `student_method` as the stages compile it."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _students
from jdistill import models
from jdistill.base import Batch, Variables
from jdistill.methods.knowledge import Epoch, logits, student_method
from jdistill.methods.optimizers import make_optimizer
from jdistill.teachers.cache import cached, record
from jdistill.teachers.frozen import committee
from jdistill.training import parallel
from jdistill.training.loop import guarded
from jdistill.training.side_by_side import side_by_side


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
  optimizer = make_optimizer(
    "sgd", lambda step: jnp.float32(_students.LR), momentum=_students.MOMENTUM, weight_decay=_students.WEIGHT_DECAY
  )
  recipe = logits.kd(temperature=_students.TEMPERATURE, ce_weight=_students.CE_WEIGHT, kd_weight=_students.KD_WEIGHT)
  return student_method(
    _network(_students.STUDENT),
    recipe,
    optimizer=optimizer,
    batch_size=_students.BATCH,
    teacher=teacher.outputs,
    constrain=constrain,
  )


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
  members = jnp.tile(jnp.arange(len(y), dtype=jnp.int32)[None], (seeds, 1))
  epoch = Epoch(jnp.int32(0), Batch(*map(jnp.asarray, (x, y, ids))), members, teacher.arrays)
  rows = parallel.make_mesh(data=devices) if seeds == 1 else None
  constrain = functools.partial(parallel.constrain_rows, rows) if rows else lambda batch: batch
  method = side_by_side(
    _method(teacher, constrain),
    list(range(seeds)),
    divide=lambda epoch: (epoch.members, epoch._replace(members=None)),
    join=lambda members, epoch: epoch._replace(members=members),
    at_once=False,
    mesh=parallel.make_mesh(pool=devices) if seeds > 1 else None,
  )
  alive = jnp.ones((), bool)
  key = jax.random.key(0)
  state = jax.jit(method.init)(key, epoch)
  if rows:
    step = parallel.spread_step(guarded(method), rows, "jit", donate_argnums=(1,))
    key, state, epoch, alive = parallel.replicate((key, state, epoch, alive), rows)
  else:
    step = jax.jit(guarded(method), donate_argnums=(1,))

  def run() -> None:
    nonlocal state, alive
    state, _, alive = jax.block_until_ready(step(key, state, epoch, alive))

  return run, first


def _first_steps(x, y, ids, variables: Variables, teacher) -> dict[str, np.ndarray]:
  """Both networks' first weights, and losses, gradients and statistics of one step from there on each check batch."""
  method = _method(teacher)
  init, step = jax.jit(method.init), jax.jit(method.step)
  out = {}
  for number, rows in enumerate(_students.check_batches()):
    batch = Batch(*(jnp.asarray(leaf[rows]) for leaf in (x, y, ids)))
    epoch = Epoch(jnp.int32(0), batch, jnp.arange(_students.BATCH), teacher.arrays)
    state = init(jax.random.key(0), epoch)
    new, metrics = step(jax.random.key(0), state, epoch)
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
