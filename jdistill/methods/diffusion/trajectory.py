"""Students that learn from points of their teacher's trajectories: BOOT, consistency and progressive distillation."""

from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jdistill import diffusion, losses
from jdistill.base import Key, Metrics, Network, PyTree, UserError, Variables
from jdistill.diffusion import Draws
from jdistill.diffusion import denoise as at
from jdistill.methods.diffusion.parts import (
  asked,
  check_same_schedule,
  denoiser_of,
  random_conditions,
  row_noise,
  teacher_at,
)
from jdistill.methods.knowledge.recipe import Own, OwnInputs, OwnUpdate, Recipe
from jdistill.schema import Count, Range, validated

Start = Literal["teacher", "random"]
Guidance = Annotated[float, Range(0, 100)]


@validated("method")
def boot(
  *,
  delta: Annotated[float, Range(1e-6, 0.999)] = 0.04,
  solver: Literal["ddim", "heun"] = "heun",
  boundary_weight: Annotated[float, Range(0, 1e6)] = 0.1,
  teacher_guidance: Guidance = 1.0,
  student_start: Start = "teacher",
) -> Recipe:
  """Data-free distillation by bootstrapping (BOOT, arXiv 2306.05544): the student learns a whole trajectory from noise.

  The student `y(eps, t)` gives the signal at `t` of the teacher's deterministic trajectory from `eps`, which a step of
  the teacher carries on from the student's own value at a later time. With `s = max(t - delta, t_min)`, `r` the share
  that a step keeps and `f` the teacher,

      mean |y(eps, s) - sg[y_t + (1 - r) (f(alpha_t y_t + sigma_t eps, t) - y_t)]|^2 / (1 - r)^2,   y_t = y(eps, t),
      + boundary_weight mean |y(eps, t_max) - sg f(prior, t_max)|^2

  as means over elements, at times uniform in the range. It is sampled from in one step, `y(eps, t_min)`; there is no
  other way. No data are used.

  Args:
    delta: step in time, of a range of about 1 (the paper's 1/25 to 1/100 is unverified).
    solver: of the teacher's step; `"heun"` is of second order and asks it twice.
    boundary_weight: of the second part (0.1 is unverified); without it the whole trajectory drifts.
    teacher_guidance: scale of classifier-free guidance of the teacher.
    student_start: of the student: the teacher's parameters, or random ones.

  Raises:
    UserError: at trace time, a student or teacher that does not predict `x0` (others add their input, which is noise
      here, to what they give), `delta` of the whole range, or a student that knows other times than its teacher.
  """

  def update(inputs: OwnInputs) -> OwnUpdate:
    known = denoiser_of(inputs.network)
    schedule, size = known.schedule, inputs.batch.y.shape[0]
    key_eps, key_t, key_cond = jax.random.split(inputs.key, 3)
    eps, cond = inputs.spread(
      (jax.random.normal(key_eps, (size, *known.shape)), random_conditions(key_cond, known, size))
    )
    t = jax.random.uniform(key_t, (size,), minval=schedule.t_min + delta, maxval=schedule.t_max)
    teacher = teacher_at(inputs.teachers[0], cond, teacher_guidance)
    signal = lambda params, t: asked(inputs.network, params, eps, t, cond).logits  # noqa: E731
    own, s = inputs.params["student"], t - delta
    last = jnp.full((size,), schedule.t_max)
    target = diffusion.boot_target(schedule, teacher, signal(own, t), eps, t, s, solver=solver)
    boundary = lax.stop_gradient(teacher(diffusion.prior(schedule, eps), last))
    weight = (1 - diffusion.signal_ratio(schedule, s, t)) ** -2

    def loss(params: PyTree) -> tuple[jax.Array, Metrics]:
      step = jnp.mean(losses.denoising_loss(signal(params, s), target, weight))
      end = jnp.mean(losses.denoising_loss(signal(params, last), boundary))
      return step + boundary_weight * end, {"loss/bootstrap": step, "loss/boundary": end}

    (_, metrics), grad = jax.value_and_grad(loss, has_aux=True)(own)
    return OwnUpdate(metrics, {"student": grad})

  def init(key: Key, network: Network, teachers) -> dict[str, PyTree]:
    del key
    known = _check_pair(network, teachers, "x0", "boot")
    if delta >= known.schedule.t_max - known.schedule.t_min:
      raise UserError(
        f"method.delta={delta:g}: is as long as the schedule's times from {known.schedule.t_min:g} to "
        f"{known.schedule.t_max:g}; lower it"
      )
    return {}

  def sample(network: Network, variables: dict[str, Variables], draws: Draws) -> jax.Array:
    t = jnp.full(draws.cond.shape, denoiser_of(network).schedule.t_min)
    return at(network, variables["student"].params, draws.cond)(draws.eps, t)

  return Recipe({}, own=Own(update, init, student_start), sampler=sample)


@validated("method")
def consistency(
  *,
  grid: Annotated[int, Range(2)] = 18,
  distance: Literal["l2", "pseudo_huber"] = "l2",
  sample_steps: Count = 1,
  teacher_guidance: Guidance = 1.0,
  student_start: Start = "teacher",
) -> Recipe:
  """Consistency distillation (arXiv 2303.01469, alg. 2): neighbours on a trajectory have the same prediction.

  With times `t_n` of the schedule's grid, noisy data `x_{n+1}`, and a Heun step of the teacher from there to `t_n`,

      d(f(x_{n+1}, t_{n+1}), sg f(Heun(x_{n+1}), t_n))

  The target is the student itself; the paper's is its average (`mu`), which later work leaves out (arXiv 2310.14189).

  Args:
    grid: times of the grid.
    distance: `"l2"`, the mean over elements of squares, or `"pseudo_huber"`; the paper's best is LPIPS, which needs a
      network of its own.
    sample_steps: of the student, with fresh noise between them.
    teacher_guidance: scale of classifier-free guidance of the teacher.
    student_start: of the student: the teacher's parameters, or random ones.

  Raises:
    UserError: at trace time, a student whose prediction is not `consistency` (others change what is at `t_min`), or
      that knows other times than its teacher.
  """

  def update(inputs: OwnInputs) -> OwnUpdate:
    known = denoiser_of(inputs.network)
    key_eps, key_n = jax.random.split(inputs.key)
    x0, cond = inputs.batch.x, inputs.batch.y
    times = known.schedule.grid(grid)
    place = jax.random.randint(key_n, cond.shape, 0, grid - 1)
    t, s = times[place], times[place + 1]
    x_t = diffusion.add_noise(known.schedule, x0, jax.random.normal(key_eps, x0.shape, x0.dtype), t)
    own = inputs.params["student"]
    teacher = teacher_at(inputs.teachers[0], cond, teacher_guidance)
    target = diffusion.consistency_target(known.schedule, teacher, at(inputs.network, own, cond), x_t, t, s)
    measure = losses.denoising_loss if distance == "l2" else losses.pseudo_huber

    def loss(params: PyTree) -> jax.Array:
      return losses.masked_mean(measure(asked(inputs.network, params, x_t, t, cond).logits, target), inputs.where)

    value, grad = jax.value_and_grad(loss)(own)
    return OwnUpdate({"loss/consistency": value}, {"student": grad})

  def init(key: Key, network: Network, teachers) -> dict[str, PyTree]:
    del key
    _check_pair(network, teachers, "consistency", "consistency", both=False)
    return {}

  def sample(network: Network, variables: dict[str, Variables], draws: Draws) -> jax.Array:
    known = denoiser_of(network)
    times = known.schedule.grid(max(sample_steps, 1) + 1)[:-1] if sample_steps > 1 else known.schedule.grid(1)
    generate = at(network, variables["student"].params, draws.cond)
    return diffusion.renoise_sample(
      known.schedule, generate, row_noise(draws), diffusion.prior(known.schedule, draws.eps), times
    )

  return Recipe({}, own=Own(update, init, student_start), sampler=sample, needs=("teacher", "labels"))


class _Round(NamedTuple):
  """What progressive distillation remembers: its number and the teacher of the round."""

  number: jax.Array
  teacher: PyTree


@validated("method")
def progressive(
  *,
  first_steps: Annotated[int, Range(1)] = 16,
  time_weight: Literal["truncated_snr", "uniform"] = "truncated_snr",
) -> Recipe:
  """Progressive distillation (arXiv 2202.00512): a student of `N` steps learns two steps of its teacher of `2 N`.

  Rounds of equal length begin with `N = first_steps` and halve it, down to one step; the student of a round is the
  teacher of the next one. With `t` on the grid of `N` steps of equal length in the schedule's range,

      w(t) / D |f(x_t, t) - x~|^2

  where `x~` is the prediction whose DDIM step ends where two of the teacher end.

  Args:
    first_steps: a power of two.
    time_weight: `"truncated_snr"`, `max(alpha^2 / sigma^2, 1)`, or `"uniform"`.

  Raises:
    UserError: `first_steps` that is no power of two; at trace time, a student of another network than its teacher's,
      or one whose prediction is `"eps"`.
  """
  if first_steps & (first_steps - 1):
    raise UserError(f"method.first_steps={first_steps}: is no power of two; choose 1, 2, 4, 8, ...")
  rounds = first_steps.bit_length()

  def update(inputs: OwnInputs) -> OwnUpdate:
    known = denoiser_of(inputs.network)
    if inputs.epochs is None:
      raise ValueError("progressive: needs the number of epochs, of which its rounds are equal parts")
    number = jnp.minimum(inputs.epoch / inputs.epochs * rounds, rounds - 1).astype(jnp.int32)
    own, memory = inputs.params["student"], inputs.memory
    new = number > memory.number
    teacher = jax.tree.map(lambda mine, old: jnp.where(new, mine, old), own, memory.teacher)
    key_eps, key_t = jax.random.split(inputs.key)
    x0, cond = inputs.batch.x, inputs.batch.y
    steps = first_steps // 2**number
    t, middle, s = _times(known.schedule, jax.random.randint(key_t, cond.shape, 0, steps), steps)
    x_t = diffusion.add_noise(known.schedule, x0, jax.random.normal(key_eps, x0.shape, x0.dtype), t)
    target = _ends(known.schedule, at(inputs.network, teacher, cond), x_t, t, middle, s)
    scale = diffusion.truncated_snr_weight(known.schedule, t) if time_weight == "truncated_snr" else None

    def loss(params: PyTree) -> jax.Array:
      prediction = asked(inputs.network, params, x_t, t, cond).logits
      return losses.masked_mean(losses.denoising_loss(prediction, target, scale), inputs.where)

    value, grad = jax.value_and_grad(loss)(own)
    metrics = {"loss/progressive": value, "method/steps": steps.astype(jnp.float32)}
    return OwnUpdate(metrics, {"student": grad}, memory=_Round(number, teacher))

  def init(key: Key, network: Network, teachers) -> dict[str, PyTree]:
    del key
    if _check_pair(network, teachers, None, "progressive").prediction == "eps":
      raise UserError("student.prediction='eps': says nothing at pure noise; choose 'v' or 'x0' for both")
    return {}

  def memory(params: dict[str, PyTree], teachers) -> _Round:
    return _Round(jnp.zeros((), jnp.int32), teachers[0][1].params)

  def sample(network: Network, variables: dict[str, Variables], draws: Draws) -> jax.Array:
    schedule = denoiser_of(network).schedule
    generate = at(network, variables["student"].params, draws.cond)
    return generate(diffusion.prior(schedule, draws.eps), jnp.full(draws.cond.shape, schedule.t_max))

  return Recipe({}, own=Own(update, init, "teacher", memory), sampler=sample, needs=("teacher", "labels"))


def _times(schedule: diffusion.Schedule, place: jax.Array, steps: jax.Array) -> tuple[jax.Array, ...]:
  """Beginning, middle and end of a step: equal parts of the range of times, the last one first."""
  length = (schedule.t_max - schedule.t_min) / steps.astype(jnp.float32)
  t = schedule.t_max - place.astype(jnp.float32) * length
  return t, t - length / 2, jnp.maximum(t - length, schedule.t_min)


def _ends(schedule, teacher, x_t: jax.Array, t: jax.Array, middle: jax.Array, s: jax.Array) -> jax.Array:
  """The target of a step; of the last one, which ends in a prediction, the teacher's own at its middle."""
  target = diffusion.progressive_target(schedule, teacher, x_t, t, middle, s)
  half = diffusion.ddim_step(schedule, x_t, teacher(x_t, t), t, middle)
  last = diffusion.per_example(s <= schedule.t_min * (1 + 1e-6), x_t)
  return lax.stop_gradient(jnp.where(last, teacher(half, middle), target))


def _check_pair(network: Network, teachers, prediction: str | None, name: str, both: bool = True):
  """What is known of a student that fits its teacher.

  Raises:
    UserError: they do not fit, or another prediction.
  """
  known, teacher = denoiser_of(network), denoiser_of(teachers[0][0])
  check_same_schedule(known, teacher)
  for who, one in (("student", known), ("teacher", teacher))[: 1 + both]:
    if prediction is not None and one.prediction != prediction:
      raise UserError(f"{who}.prediction={one.prediction!r}: {name} needs {prediction!r}; set it")
  return known
