"""RCIG: implicit gradients through the training of a linearised network whose last layer is solved for."""

import functools
import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jdistill.base import Batch, Key, Method, Metrics, Network, PyTree, Variables
from jdistill.bilevel import adam_descent, adam_solve, implicit_gradient
from jdistill.methods.dataset.pool import PoolState, model_pool
from jdistill.methods.dataset.rcig_problem import Learned, Problem, convex_problem, square
from jdistill.methods.dataset.regression import check_learns, check_real, start_of, with_mirrors
from jdistill.methods.dataset.solver_rates import Rates, adapted, grown, start_rates
from jdistill.methods.optimizers import make_optimizer
from jdistill.methods.roles import Role, init_roles, update_roles
from jdistill.schema import Count, NonNegative, Positive, Range, validated
from jdistill.synthetic import SyntheticSet

CURE = "raise method.l2, or lower method.inner_lr, method.solver_lr, method.image_lr or method.label_lr"


class RCIGState(NamedTuple):
  """What a resume needs.

  Attributes:
    roles: `images`, `log_temperature` and, where they are learned, `labels`.
    labels: `[m, classes]` where they are fixed, else `None`.
    average: running sums of the learned images and labels with the weights of their averages.
    pool: the networks.
    rates: of the two solvers, and how they fared.
    count: scalar int32, steps done.
    lr: of the initial set; not learned.
  """

  roles: dict[str, Role]
  labels: jax.Array | None
  average: Learned
  pool: PoolState
  rates: Rates
  count: jax.Array
  lr: jax.Array


@validated("method")
def rcig(
  smooth_network: Network,
  initial: SyntheticSet,
  *,
  image_lr: NonNegative = 3e-3,
  label_lr: NonNegative = 3e-3,
  temperature_lr: NonNegative = 0.03,
  l2: Positive = 5e-4,
  inner_steps: Annotated[int, Range(2)] = 20,
  solver_steps: Annotated[int, Range(2)] = 20,
  inner_lr: Positive = 1e-5,
  solver_lr: Positive = 5e-5,
  tune_rates: bool = True,
  clip_implicit: bool = True,
  keep_output: bool = True,
  margin_weight: NonNegative = 1.0,
  ema_decay: Annotated[float, Range(0, 0.9999)] = 0.99,
  use_flip: bool = False,
  pool_size: Count = 30,
  reset_after: Count = 100,
  pool_lr: Positive = 5e-5,
  pool_steps: Annotated[int, Range(2)] = 16,
) -> Method:
  """Builds distillation by convexified implicit gradients (RCIG).

  One step draws a network of the pool and linearises it (`convex_problem`); finds the minimum `tau` of the inner loss
  on the set by Adam; takes the gradient of the outer loss on real images through that minimum by
  `jdistill.bilevel.implicit_gradient`; clips what comes through it, leaf by leaf, to the norm of the direct part; and
  moves images, labels and temperature by AdaBelief. The network then takes a few Adam steps on the set.

  Args:
    smooth_network: of the pool; with `act="softplus"` in place of ReLU, whose second derivatives are 0.
    initial: the starting set; integer labels become centred one-hot vectors.
    image_lr, label_lr, temperature_lr: of AdaBelief; 0 leaves images or labels as they are.
    l2: regularisation of the inner problem, per synthetic image.
    inner_steps, solver_steps: of Adam on `tau` and on the solve with the Hessian.
    inner_lr, solver_lr: their rates, or with `tune_rates` where the search for these starts.
    tune_rates: the rates grow by a fifth until the solve does not fall in every step any more, and are then cut to 0.7
      of that; every 50 steps they are cut to 0.9 where 29% of the solves ended above their start, or grow by 1.05 where
      70% fell in every step.
    clip_implicit: see above.
    keep_output: whether the network's own output is part of the linearised model; the released code leaves it out.
    margin_weight: of the term that keeps labels decided, up to a margin of `1/(2 C)` as in the released code.
    ema_decay: of the average of images and labels that is the result; started without bias.
    use_flip: the set has the mirrors of its images too, with their labels. Not for digits.
    pool_size, reset_after: how many networks there are, and after how many updates one is replaced.
    pool_lr, pool_steps: Adam's rate, and one more than the most updates that a network takes at once.

  Returns:
    A `Method` whose stream is made of `Batch`es of real images (`jdistill.methods.dataset.batches.random_batches`) and
    whose result is a `SyntheticSet` with regression targets as labels and the initial rate. Its figures are the two
    rates.

  Raises:
    UserError: nothing is learned.
    ValueError: at trace time, a stream of other images.

  References:
    Loo, Hasani, Lechner and Rus, "Dataset Distillation with Convexified Implicit Gradients" (arXiv 2302.06755).
  """
  check_learns("rcig", image_lr=image_lr, label_lr=label_lr)
  optimizers = _optimizers(images=image_lr, labels=label_lr, log_temperature=temperature_lr)
  pool = model_pool(smooth_network, make_optimizer("adam", pool_lr), size=pool_size, reset_after=reset_after)
  options = {"margin_weight": margin_weight, "keep_output": keep_output, "use_flip": use_flip}

  def problem(variables: Variables, batch: Batch, labels: jax.Array | None) -> Problem:
    check_real("rcig", batch, initial.images.shape[1:])
    return convex_problem(smooth_network, variables, batch, labels, l2=l2 * initial.images.shape[0], **options)

  solve, gradient = _solvers(inner_steps, solver_steps)

  def init(key: Key, example: Batch) -> RCIGState:
    (learned, fixed), state = start_of(initial, learn_labels=label_lr > 0), pool.init(key)
    learned["log_temperature"] = jnp.zeros((), initial.images.dtype)
    found = problem(jax.tree.map(lambda leaf: leaf[0], state.variables), example, fixed)
    rates = start_rates(inner_lr, solver_lr)
    rates = _tuned(solve, gradient, found, learned, inner_lr, solver_lr) if tune_rates else rates
    average = {name: jnp.zeros_like(leaf) for name, leaf in learned.items() if name != "log_temperature"}
    count, roles = jnp.zeros((), jnp.int32), init_roles(optimizers, learned)
    return RCIGState(roles, fixed, average, state, rates, count, jnp.array(initial.lr, copy=True))

  def step(key: Key, state: RCIGState, batch: Batch) -> tuple[RCIGState, Metrics]:
    key_draw, key_pool, key_steps = jax.random.split(key, 3)
    number, variables = pool.draw(key_draw, state.pool)
    found, learned = problem(variables, batch, state.labels), {name: role.params for name, role in state.roles.items()}
    tau, values = solve(found, learned, state.rates.rates[0])
    gained = gradient(found, tau, learned, state.rates.rates[1])
    through = jax.tree.map(_clipped, gained.implicit, gained.direct) if clip_implicit else gained.implicit
    roles = update_roles(optimizers, state.roles, jax.tree.map(jnp.add, gained.direct, through))
    average = {n: ema_decay * old + (1 - ema_decay) * roles[n].params for n, old in state.average.items()}
    rates = adapted(state.rates, values, gained.trace, state.count + 1) if tune_rates else state.rates
    shown = _shown(roles, state.labels, use_flip)
    networks = pool.step(key_pool, state.pool, number, *shown, jax.random.randint(key_steps, (), 1, pool_steps))
    state = state._replace(roles=roles, average=average, pool=networks, rates=rates, count=state.count + 1)
    return state, _metrics(gained, values, through, rates)

  return Method(init, step, functools.partial(_result, ema_decay), _figures, cure=CURE)


def _shown(roles: dict[str, Role], labels: jax.Array | None, use_flip: bool) -> tuple[jax.Array, jax.Array]:
  """The set as the networks of the pool see it."""
  x, y = roles["images"].params, roles["labels"].params if labels is None else labels
  return with_mirrors(x, y) if use_flip else (x, y)


def _solvers(inner_steps: int, solver_steps: int) -> tuple[Callable, Callable]:
  """`solve(problem, learned, rate) -> (tau, losses)`, `gradient(problem, tau, learned, rate) -> implicit gradient`."""

  def solve(found: Problem, learned: Learned, rate: jax.Array) -> tuple[PyTree, jax.Array]:
    value_and_grad = jax.value_and_grad(lambda tau: found.inner(tau, learned))
    return adam_descent(value_and_grad, found.start, rate, inner_steps)

  def gradient(found: Problem, tau: PyTree, learned: Learned, rate: jax.Array):
    return implicit_gradient(found.inner, found.outer, tau, learned, adam_solve(rate, solver_steps))

  return solve, gradient


def _tuned(
  solve: Callable, gradient: Callable, found: Problem, learned: Learned, inner_lr: float, solver_lr: float
) -> Rates:
  """The largest rates at which both solvers still fall in every step."""
  inner = grown(lambda rate: solve(found, learned, rate)[1], inner_lr)
  tau, _ = solve(found, learned, inner)
  return start_rates(inner, grown(lambda rate: gradient(found, tau, learned, rate).trace, solver_lr))


def _metrics(gained, values: jax.Array, through: PyTree, rates: Rates) -> Metrics:
  return {
    "krr/loss": gained.value,
    "krr/accuracy": gained.aux,
    "inner/start": values[0],
    "inner/end": values[-1],
    "gradient/direct": jnp.sqrt(square(gained.direct)),
    "gradient/implicit": jnp.sqrt(square(through)),
    "rate/inner": rates.rates[0],
    "rate/solver": rates.rates[1],
  }


def _result(decay: float, state: RCIGState) -> SyntheticSet:
  # 1 - decay^count, in all digits
  weight = -jnp.expm1(state.count.astype(jnp.float32) * math.log(max(decay, 1e-30)))
  some = state.count > 0
  own = {
    name: jnp.where(some, total / jnp.where(some, weight, 1).astype(total.dtype), state.roles[name].params)
    for name, total in state.average.items()
  }
  return SyntheticSet(own["images"], own.get("labels", state.labels), state.lr)


def _figures(state: RCIGState, steps: int) -> dict[str, jax.Array]:
  return {"inner_rate": state.rates.rates[0], "solver_rate": state.rates.rates[1]}


def _clipped(through: jax.Array, direct: jax.Array) -> jax.Array:
  """At most as long as the direct part; zero where it is not finite."""
  own, most = (jnp.sqrt(jnp.sum(jnp.square(part))) for part in (through, direct))
  return jnp.nan_to_num(through * jnp.where(own > most, most / jnp.where(own > 0, own, 1), 1))


def _optimizers(**rates: float) -> dict[str, optax.GradientTransformation]:
  return {name: _adabelief(rate) for name, rate in rates.items()}


def _adabelief(lr: float) -> optax.GradientTransformation:
  made = optax.adabelief(lr)

  def update(grads: PyTree, state: PyTree, params: PyTree = None):
    with jax.numpy_dtype_promotion("standard"):  # optax adds Python numbers to step counters
      return made.update(grads, state, params)

  return optax.GradientTransformation(made.init, update)
