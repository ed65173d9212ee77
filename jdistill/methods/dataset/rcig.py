"""RCIG: implicit gradients through the training of a linearised network whose last layer is solved for."""

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jdistill.base import Batch, Key, Method, Metrics, Network, PyTree, Variables
from jdistill.bilevel import adam_descent, adam_solve, implicit_gradient, linearise
from jdistill.losses import cross_entropy
from jdistill.methods.dataset.pool import PoolState, model_pool
from jdistill.methods.dataset.regression import (
  check_learns,
  check_real,
  initial_targets,
  label_margin,
  share_correct,
  with_mirrors,
)
from jdistill.methods.dataset.solver_rates import Rates, adapted, grown, start_rates
from jdistill.methods.optimizers import make_optimizer
from jdistill.methods.roles import Role, init_roles, update_roles
from jdistill.ops import krr_solve
from jdistill.ops.pairwise import gram
from jdistill.schema import Count, NonNegative, Positive, Range, validated
from jdistill.synthetic import SyntheticSet

Learned = dict[str, jax.Array]
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


class Problem(NamedTuple):
  """The two losses of a step, functions of `tau`, a change of the network's parameters, and of what is learned.

  Attributes:
    inner: `(tau, learned) -> scalar`, quadratic in `tau`.
    outer: `(tau, learned) -> (scalar, accuracy)`.
    start: `tau` of zero.
  """

  inner: Callable[[PyTree, Learned], jax.Array]
  outer: Callable[[PyTree, Learned], tuple[jax.Array, jax.Array]]
  start: PyTree


def convex_problem(
  network: Network,
  variables: Variables,
  batch: Batch,
  labels: jax.Array | None = None,
  *,
  l2: float,
  margin_weight: float = 1.0,
  keep_output: bool = True,
  use_flip: bool = False,
) -> Problem:
  """The losses of RCIG around one network.

  With `f(x) = f_0(x) + <grad f_0(x), tau>` and the features `K = <phi_0, phi_0>` of the network as it is, ridge
  regression adds the best change of the last layer to any `tau`:

      inner = (|y_s - p_s|^2 + l2 (tr a' K_ss a + |tau|^2)) / (2 m C),   a = (K_ss + l2 I)^-1 (y_s - f(x_s)),
      p_s = f(x_s) + K_ss a,   p_r = f(x_r) + K_rs a
      outer = mean_i CE(exp(log_temperature) p_r, class_i) - margin_weight mean_j min(gap_j, 1/(2 C))

  Args:
    network: with second derivatives.
    variables: where it is linearised.
    batch: real images and their classes.
    labels: `[m, classes]` where they are not learned.
    l2: of the ridge regression and of `tau`.
    margin_weight, keep_output, use_flip: as for `rcig`.
  """

  def parts(tau: PyTree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Features `[n, F]` and outputs `[n, classes]`."""

    def forward(params: PyTree) -> tuple[jax.Array, jax.Array]:
      out = network.apply(params, x, stats=variables.stats)
      return out.logits, out.embedding

    (start, features), (change, _) = linearise(forward, variables.params, _without_head(tau))
    return features, start + change if keep_output else change

  def fit(tau: PyTree, learned: Learned):
    """The set's features, what its outputs lack, and the last layer's change in dual form."""
    x, y = learned["images"], learned.get("labels", labels)
    x, y = with_mirrors(x, y) if use_flip else (x, y)
    features, outputs = parts(tau, x)
    return features, y - outputs, krr_solve(gram(features, features), y - outputs, l2)

  def inner(tau: PyTree, learned: Learned) -> jax.Array:
    _, lacking, dual = fit(tau, learned)
    # |y - p|^2 + l2 a'Ka = l2 a'(y - f) as y - p = l2 a
    return 0.5 * l2 * (jnp.sum(lacking * dual) + _square(tau)) / lacking.size

  def outer(tau: PyTree, learned: Learned) -> tuple[jax.Array, jax.Array]:
    features, _, dual = fit(tau, learned)
    real, outputs = parts(tau, batch.x)
    predictions = outputs + jnp.matmul(gram(real, features), dual, precision=lax.Precision.HIGHEST)
    loss = jnp.mean(cross_entropy(jnp.exp(learned["log_temperature"]) * predictions, batch.y))
    own = learned.get("labels", labels)
    loss = loss - margin_weight * label_margin(own, 1 / (2 * own.shape[1]))
    return loss, share_correct(predictions, batch.y)

  return Problem(inner, outer, jax.tree.map(jnp.zeros_like, variables.params))


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
  optimizers = {
    "images": _adabelief(image_lr), "labels": _adabelief(label_lr), "log_temperature": _adabelief(temperature_lr),
  }  # fmt: skip
  pool = model_pool(smooth_network, make_optimizer("adam", pool_lr), size=pool_size, reset_after=reset_after)
  size, image_shape = initial.images.shape[0], initial.images.shape[1:]
  averaged = ("images", "labels") if label_lr else ("images",)

  def problem(variables: Variables, batch: Batch, labels: jax.Array | None) -> Problem:
    check_real("rcig", batch, image_shape)
    return convex_problem(
      smooth_network, variables, batch, labels,
      l2=l2 * size, margin_weight=margin_weight, keep_output=keep_output, use_flip=use_flip,
    )  # fmt: skip

  def solve(found: Problem, learned: Learned, rate: jax.Array) -> tuple[PyTree, jax.Array]:
    value_and_grad = jax.value_and_grad(lambda tau: found.inner(tau, learned))
    return adam_descent(value_and_grad, found.start, rate, inner_steps)

  def gradient(found: Problem, tau: PyTree, learned: Learned, rate: jax.Array):
    return implicit_gradient(found.inner, found.outer, tau, learned, adam_solve(rate, solver_steps))

  def init(key: Key, example: Batch) -> RCIGState:
    images, labels = jnp.array(initial.images, copy=True), initial_targets(initial)
    learned = {"images": images, "log_temperature": jnp.zeros((), images.dtype)} | (
      {"labels": labels} if label_lr else {}
    )
    fixed, state = None if label_lr else labels, pool.init(key)
    rates = start_rates(inner_lr, solver_lr)
    if tune_rates:
      found = problem(jax.tree.map(lambda leaf: leaf[0], state.variables), example, fixed)
      inner = grown(lambda rate: solve(found, learned, rate)[1], inner_lr)
      tau, _ = solve(found, learned, inner)
      rates = start_rates(inner, grown(lambda rate: gradient(found, tau, learned, rate).trace, solver_lr))
    average = {name: jnp.zeros_like(learned[name]) for name in averaged}
    count, lr = jnp.zeros((), jnp.int32), jnp.array(initial.lr, copy=True)
    return RCIGState(init_roles(optimizers, learned), fixed, average, state, rates, count, lr)

  def step(key: Key, state: RCIGState, batch: Batch) -> tuple[RCIGState, Metrics]:
    key_draw, key_pool, key_steps = jax.random.split(key, 3)
    number, variables = pool.draw(key_draw, state.pool)
    found, learned = problem(variables, batch, state.labels), {name: role.params for name, role in state.roles.items()}
    tau, values = solve(found, learned, state.rates.rates[0])
    gained = gradient(found, tau, learned, state.rates.rates[1])
    through = jax.tree.map(_clipped, gained.implicit, gained.direct) if clip_implicit else gained.implicit
    roles = update_roles(optimizers, state.roles, jax.tree.map(jnp.add, gained.direct, through))
    average = {
      name: ema_decay * old + (1 - ema_decay) * roles[name].params for name, old in state.average.items()
    }  # fmt: skip
    count = state.count + 1
    rates = adapted(state.rates, values, gained.trace, count) if tune_rates else state.rates
    x, y = roles["images"].params, roles["labels"].params if label_lr else state.labels
    x, y = with_mirrors(x, y) if use_flip else (x, y)
    steps = jax.random.randint(key_steps, (), 1, pool_steps)
    networks = pool.step(key_pool, state.pool, number, x, y, steps)
    metrics = {
      "krr/loss": gained.value, "krr/accuracy": gained.aux, "inner/start": values[0], "inner/end": values[-1],
      "gradient/direct": jnp.sqrt(_square(gained.direct)), "gradient/implicit": jnp.sqrt(_square(through)),
      "rate/inner": rates.rates[0], "rate/solver": rates.rates[1],
    }  # fmt: skip
    return RCIGState(roles, state.labels, average, networks, rates, count, state.lr), metrics

  def result(state: RCIGState) -> SyntheticSet:
    # 1 - decay^count, in all digits
    weight = -jnp.expm1(state.count.astype(jnp.float32) * math.log(max(ema_decay, 1e-30)))
    some = state.count > 0
    own = {
      name: jnp.where(some, total / jnp.where(some, weight, 1).astype(total.dtype), state.roles[name].params)
      for name, total in state.average.items()
    }
    return SyntheticSet(own["images"], own.get("labels", state.labels), state.lr)

  def figures(state: RCIGState, steps: int) -> dict[str, jax.Array]:
    return {"inner_rate": state.rates.rates[0], "solver_rate": state.rates.rates[1]}

  return Method(init, step, result, figures, cure=CURE)


def _without_head(tau: PyTree) -> PyTree:
  """`tau` without the matrix of the layer `head`, which ridge regression finds; all of it where none is called so."""

  def one(path: tuple, leaf: jax.Array) -> jax.Array:
    names = [getattr(part, "key", None) for part in path]
    return jnp.zeros_like(leaf) if "head" in names and leaf.ndim > 1 else leaf

  return jax.tree_util.tree_map_with_path(one, tau)


def _clipped(through: jax.Array, direct: jax.Array) -> jax.Array:
  """At most as long as the direct part; zero where it is not finite."""
  own, most = (jnp.sqrt(jnp.sum(jnp.square(part))) for part in (through, direct))
  return jnp.nan_to_num(through * jnp.where(own > most, most / jnp.where(own > 0, own, 1), 1))


def _square(tree: PyTree) -> jax.Array:
  return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))


def _adabelief(lr: float) -> optax.GradientTransformation:
  made = optax.adabelief(lr)

  def update(grads: PyTree, state: PyTree, params: PyTree = None):
    with jax.numpy_dtype_promotion("standard"):  # optax adds Python numbers to step counters
      return made.update(grads, state, params)

  return optax.GradientTransformation(made.init, update)
