"""One arm of stage `orders`: its network over flat parameters, its batches, its optimiser, and compiled programs."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import catalog, losses, models, orders, schema
from jdistill.base import Batch, Key, Method, PyTree, UserError
from jdistill.config import Plain, sections
from jdistill.config.arms import Arms
from jdistill.config.common import RUN
from jdistill.files import format_bytes, parse_bytes
from jdistill.methods.optimizers import OPTIMIZERS, SCHEDULES, make_optimizer, schedule
from jdistill.orders import OrderEstimator, Reference
from jdistill.reporting import flops
from jdistill.runs.run import Run
from jdistill.schema import Above, Choice, Count, NonNegative, Range, Size
from jdistill.tasks import Task

STAGE = "orders"
ALIKE = ("task", "model", "orders")  # sections that decide what real trainings give
_EPS_ROOT = 1e-20  # below Adam's square root, whose slope at 0 would make NaN of parameters without a gradient
AT_ONCE = 8  # orders that are trained or estimated side by side


class How(NamedTuple):
  """The training whose order changes, and what is asked about it."""

  batches: Annotated[int, Range(2, 4096)] = 32
  batch_size: Count = 8
  draw: Literal["consecutive", "random"] = "consecutive"
  optimizer: Annotated[str, Choice(OPTIMIZERS)] = "adam"
  lr: Annotated[float, Above(0)] = 0.003
  schedule: Annotated[str, Choice(SCHEDULES)] = "constant"
  warmup: Size = 0
  weight_decay: NonNegative = 0.0
  clip: Annotated[float, Above(0)] | None = None
  compared: Annotated[int, Range(3)] = 24
  population: Annotated[int, Range(4)] = 16
  generations: Size = 9
  moved: Size = 2
  memory: str = "4 GB"


SECTIONS = {
  "method": sections.method(stage=STAGE),
  "task": RUN.sections["task"],
  "model": sections.network(),
  "orders": Plain(schema.fields(How)),
}
ARMS = Arms(SECTIONS, lambda prefix, arm, committee: None)


class Lab(NamedTuple):
  """An arm, ready to train and to estimate; compiled programs take orders in blocks of one size.

  Attributes:
    steps, size: `T` batches and `P` parameters.
    init: `key -> (theta_0, state of the optimiser)`.
    loss, gradient, update: see `jdistill.orders`.
    task: data and score.
    recorded: `(key, batches) -> Reference` in the order of the batches.
    trained: `(theta_0, state, orders, batches) -> theta`, by real training.
    scored: `(theta [n, P], examples) -> mean losses [n]`.
    estimator: the method.
    prepared: `(key, Reference, batches) -> Reference` with all that the estimator keeps.
    guessed: `(reference, orders, batches) -> Estimate`, by the method.
  """

  steps: int
  size: int
  init: Any
  loss: Any
  gradient: Any
  update: Any
  task: Task
  recorded: Any
  trained: Any
  scored: Any
  estimator: OrderEstimator | None = None
  prepared: Any = None
  guessed: Any = None


def lab_of(run: Run, arm: Mapping[str, Any]) -> Lab:
  """The lab of an arm; nothing is computed or compiled yet, and arms that train alike share their programs.

  Raises:
    UserError: options that do not go together, or a network whose loss depends on more than its parameters.
  """
  identity = json.dumps({name: arm[name] for name in ALIKE}, sort_keys=True)
  lab, own = run.once(("orders", identity), lambda: _training(run, arm)), estimator_of(arm["method"])

  def prepare(key: Key, reference: Reference, batches: Batch) -> Reference:
    return own.prepare(key, reference, lab.gradient, batches)

  def guess(reference: Reference, order: jax.Array, batches: Batch):
    return own.estimate(reference, order, lab.gradient, lab.update, batches)

  return lab._replace(estimator=own, prepared=jax.jit(prepare), guessed=jax.jit(jax.vmap(guess, (None, 0, None))))


def _training(run: Run, arm: Mapping[str, Any]) -> Lab:
  """The lab without its estimator."""
  how, task = arm["orders"], run.task(arm["task"])
  network = run.network(arm["model"], task)
  if jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0)).stats):
    raise UserError(f"model.name={arm['model']['name']!r}: batch norm depends on more than parameters; choose another")
  flat = models.flatten(network)
  rate = schedule(how["schedule"], how["lr"], epochs=how["batches"], warmup_epochs=how["warmup"])
  optimizer = make_optimizer(
    how["optimizer"], rate, weight_decay=how["weight_decay"], clip=how["clip"], eps_root=_EPS_ROOT
  )

  def init(key: Key):
    theta = flat.ravel(network.init(key).params)
    return theta, jax.tree.map(jnp.asarray, optimizer.init(theta))

  @jax.jit
  def loss(theta: jax.Array, batch: Batch) -> jax.Array:
    return mean_loss(flat.apply(theta, batch.x).logits, batch)

  @jax.jit
  def update(gradient: jax.Array, state: PyTree, theta: jax.Array, position: jax.Array):
    return optimizer.update(gradient, state, theta, epoch=position)

  gradient = jax.jit(jax.grad(loss))

  def train(theta: jax.Array, state: PyTree, order: jax.Array, batches: Batch) -> jax.Array:
    return orders.train_order(gradient, update, state, theta, batches, order)

  return Lab(
    how["batches"],
    flat.size,
    jax.jit(init),
    loss,
    gradient,
    update,
    task,
    jax.jit(_recorder(orders.recording(init, loss, update, how["batches"]))),
    jax.jit(jax.vmap(train, (None, None, 0, None))),
    jax.jit(lambda theta, data: jax.lax.map(lambda one: loss(one, data), theta)),
  )


def _recorder(method: Method):
  """`(key, batches) -> Reference`, every batch once and in turn."""

  def record(key: Key, batches: Batch) -> Reference:
    first = jax.tree.map(lambda leaf: leaf[0], batches)
    state, _ = jax.lax.scan(
      lambda state, batch: (method.step(key, state, batch)[0], None), method.init(key, first), batches
    )
    return method.result(state)

  return record


def estimator_of(section: Mapping[str, Any]) -> OrderEstimator:
  """The method of a section.

  Raises:
    UserError: options that do not go together.
  """
  row = catalog.row(section["name"])
  try:
    return row.build()(**row.options_of(section))
  except UserError:
    raise
  except ValueError as error:
    raise UserError(f"method.{error}") from error


def mean_loss(logits: jax.Array, batch: Batch) -> jax.Array:
  """The mean cross entropy of what counts in a batch: tokens of its mask, or all labels."""
  where = batch.extra.get("mask")
  values = (
    losses.cross_entropy(logits, batch.y) if where is None else losses.cross_entropy(logits, batch.y, where=where)
  )
  return losses.masked_mean(values, where)


def batches_of(run: Run, arm: Mapping[str, Any], seed: int) -> Batch:
  """The batches `[T, B, ...]` of a seed, in the order of the reference; the same on any number of devices.

  Raises:
    UserError: too few examples.
  """
  how, task = arm["orders"], run.task(arm["task"])
  count, size = how["batches"] * how["batch_size"], len(task.data.ids)
  if count > size:
    raise UserError(
      f"orders.batches={how['batches']}: with orders.batch_size={how['batch_size']} these are {count:,} examples, and "
      f"there are {size:,}; lower one of them"
    )
  rng = np.random.default_rng((run.config["seed"], seed, 71))
  if how["draw"] == "random":
    chosen = rng.permutation(size)[:count].reshape(how["batches"], -1)
  else:  # stretches of the data, spread over all of it, in its order
    starts = np.floor(np.arange(how["batches"]) * (size / how["batches"])).astype(int)
    chosen = starts[:, None] + np.arange(how["batch_size"])[None]
  return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[chosen]), task.data._replace(weight=None))


def in_blocks(program: Any, found: np.ndarray) -> Any:
  """Asks a program about rows `[n, ...]`, a block of one size at a time: leaves `[n, ...]` on the host."""
  parts = []
  for begin in range(0, len(found), AT_ONCE):
    block = found[begin : begin + AT_ONCE]
    whole = np.concatenate([block, np.repeat(block[-1:], AT_ONCE - len(block), axis=0)])
    parts.append(jax.device_get(program(jnp.asarray(whole))))
  return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(found)], *parts)


def reference_of(lab: Lab, key: Key, batches: Batch) -> Reference:
  """Trains in the order of the batches, and keeps what the estimator needs.

  Raises:
    ValueError: what was recorded does not replay.
  """
  reference = lab.recorded(key, batches)
  orders.check_replay(reference, lab.gradient, lab.update, lab.init(key)[0], batches)
  return lab.prepared(key, reference, batches)


def score(lab: Lab, theta: np.ndarray, data: Batch) -> np.ndarray:
  """Mean losses `[n]` in float64 of parameters `[n, P]`."""
  return in_blocks(lambda block: lab.scored(block, data), np.asarray(theta)).astype(np.float64)


def examples(data: Batch) -> Batch:
  """A split as arrays of the device, all of it."""
  return jax.tree.map(jnp.asarray, data._replace(weight=None))


def work(lab: Lab, batches: Batch) -> dict[str, float]:
  """FLOPs of matrix products: of one real training, of the reference with all that is kept, of one estimate."""
  key = jax.random.key(0)
  shapes = jax.eval_shape(lambda: batches)
  theta, state = jax.eval_shape(lab.init, key)
  order = jax.ShapeDtypeStruct((lab.steps,), jnp.int32)
  reference = jax.eval_shape(lab.recorded, key, shapes)
  whole = jax.eval_shape(lab.prepared, key, reference, shapes)
  train = lambda *given: orders.train_order(lab.gradient, lab.update, *given)  # noqa: E731
  guess = lambda kept, order, batches: lab.estimator.estimate(kept, order, lab.gradient, lab.update, batches)  # noqa: E731
  training = flops.count(train, state, theta, shapes, order)
  return {
    "training": training,
    "reference": training + flops.count(lab.prepared, key, reference, shapes),
    "estimate": flops.count(guess, whole, order, shapes),
  }


def nbytes(lab: Lab) -> int:
  """Bytes of what the method keeps of one reference training."""
  return lab.estimator.nbytes(lab.steps, lab.size, jax.eval_shape(lab.init, jax.random.key(0))[1])


def check_memory(label: str, lab: Lab, limit: str) -> None:
  """Refuses a reference that exceeds the limit.

  Raises:
    UserError: it does, or the limit is no amount of memory.
  """
  try:
    most = parse_bytes(limit)
  except ValueError as error:
    raise UserError(f"orders.memory={limit!r}: {error}") from error
  if (needed := nbytes(lab)) > most:
    raise UserError(
      f"{label}: orders.memory={limit!r}: a reference of {lab.steps} batches and {lab.size:,} parameters takes "
      f"{format_bytes(needed)}; raise it, lower orders.batches, or let the method keep less"
    )
