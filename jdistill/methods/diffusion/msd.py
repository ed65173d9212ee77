"""MSD: several one-step students, each for a part of the conditions."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jax import lax

from jdistill import diffusion, losses
from jdistill.base import Key, Network, PyTree, UserError, Variables
from jdistill.diffusion import BOTTLENECK, Denoiser, Draws
from jdistill.diffusion import denoise as at
from jdistill.methods.diffusion import dmd2
from jdistill.methods.diffusion.denoise import Guidance, Solver, ode_sampler, sample_weight
from jdistill.methods.diffusion.parts import asked, check_same_schedule, denoiser_of, spread, teacher_at
from jdistill.methods.knowledge.recipe import Own, OwnInputs, OwnUpdate, Recipe
from jdistill.schema import Count, Range, Size, validated

_ROUTER = "router"


@validated("method")
def msd(
  *,
  student_count: Count = 4,
  partition_rule: Literal["blocks", "kmeans_balanced", "random"] = "blocks",
  partition_seed: Size = 0,
  ratio: Count = 5,
  sample_steps: Count = 1,
  dm_weight: dmd2.Weight = 1.0,
  gan_weight: dmd2.Weight = 0.0,
  critic_weight: dmd2.Weight = 1e-2,
  normalize: Literal["dmd", "none"] = "dmd",
  teacher_guidance: Annotated[float, Range(0, 100)] = 1.0,
  site: str = BOTTLENECK,
  hidden: Count = 64,
  student_start: Literal["teacher", "random"] = "teacher",
) -> Recipe:
  """Multi-student distillation (MSD, arXiv 2410.23274): K students of `dmd2`, each for its part of the conditions.

  The conditions are divided into K parts of equal size. Each student has a `fake` of its own, as large as the teacher,
  and a head of its own where there is an adversarial part; it makes samples of its own conditions, each as likely as
  any other, and real examples of other conditions do not reach its head. Nothing is shared: gradients, optimisers and
  clipped norms are those of one student. All K train in one program, whose parameters have an axis of students. A
  sample is made by the student that its condition belongs to. With `student_count=1` this is `dmd2`, of the same draws.

  An update costs K times one of `dmd2`, of the same batch size for each student; its head sees about `1 / K` of a
  batch of real examples. Samples of several conditions at once are made by all students and chosen from; a served
  query needs one of them, `jdistill.diffusion.route`.

  A student smaller than its teacher cannot begin as its copy: `start_method="tsm"` gives all of them one start. Where
  the phase before was `msd` itself, each student goes on as it is, such as with an adversarial part; its `fake` begins
  again as the teacher.

  Args:
    student_count: K, a divisor of the number of conditions.
    partition_rule: `"blocks"` of consecutive conditions; `"random"`; or `"kmeans_balanced"` of the teacher's
      predictions of each condition at pure noise, which are the means of the conditions.
    partition_seed: of the last two.
    ratio, sample_steps, dm_weight, gan_weight, critic_weight, normalize, teacher_guidance, site, hidden,
      student_start: of `dmd2`.

  Raises:
    UserError: at trace time, a teacher without conditions; more students than conditions, or parts of unequal size;
      whatever `dmd2` refuses.
  """
  options = dmd2.Options(
    ratio, sample_steps, dm_weight, gan_weight, critic_weight, normalize, teacher_guidance, site, hidden
  )
  roles = ("student", "fake", *(["critic"] if gan_weight else []))

  def init(key: Key, network: Network, teachers) -> dict[str, PyTree]:
    found = dmd2.init(options, key, network, teachers)
    assignment = _divided(
      denoiser_of(network), teachers[0], student_count, partition_rule, jax.random.key(partition_seed)
    )
    return {**found, _ROUTER: {"assignment": assignment}}

  def update(inputs: OwnInputs) -> OwnUpdate:
    if student_count == 1:  # without an axis of student_count, in whose programs sums round in another order
      return dmd2.update(options, inputs)
    assignment = inputs.params[_ROUTER]["assignment"]
    owned = diffusion.owned_conditions(assignment, student_count)
    own = diffusion.route(assignment, jnp.clip(inputs.batch.y, 0, assignment.shape[0] - 1))

    def one(key: Key, params: PyTree, owned: jax.Array, number: jax.Array) -> OwnUpdate:
      where = inputs.where & (own == number)
      made = dmd2.update(options, inputs._replace(key=key, params=params, where=where), owned)
      real = {"method/real_spread": spread(inputs.batch.x, where)}  # samples of a part lie nearer to each other
      return made._replace(metrics=dict(made.metrics) | real)

    params, number = {name: inputs.params[name] for name in roles}, jnp.arange(student_count, dtype=jnp.int32)
    made = jax.vmap(one)(_keys(inputs.key, student_count), params, owned, number)
    metrics = {name: jnp.mean(values) for name, values in made.metrics.items()}
    return OwnUpdate(metrics, made.grads, {name: moves[0] for name, moves in made.moves.items()})

  own = Own(update, init, student_start, stacked=dict.fromkeys(roles, student_count) if student_count > 1 else {})
  return Recipe({}, own=own, sampler=lambda *given: _sample(student_count, sample_steps, *given), keeps=(_ROUTER,))


@validated("method")
def tsm(
  *,
  time_weight: Literal["edm", "uniform", "truncated_snr"] = "edm",
  teacher_guidance: Guidance = 1.0,
  sample_steps: Count = 40,
  solver: Solver = "heun",
) -> Recipe:
  """Teacher score matching: `w(t) / D |student(x_t, t) - teacher(x_t, t)|^2` on noisy data (MSD, arXiv 2410.23274).

  A start for students that are smaller than their teacher. The target is the teacher's prediction in the place of the
  example, which has the same mean and less variance.

  Args:
    time_weight: of the times, as of `edm`; which one is the paper's is unverified.
    teacher_guidance: scale of classifier-free guidance of the teacher.
    sample_steps, solver: of its own samples, as of `edm`.

  Raises:
    UserError: at trace time, a student whose schedule, shape or conditions differ from the teacher's.
  """

  def init(key: Key, network: Network, teachers) -> dict[str, PyTree]:
    del key
    check_same_schedule(denoiser_of(network), denoiser_of(teachers[0][0]))
    return {}

  def update(inputs: OwnInputs) -> OwnUpdate:
    known, (x0, cond) = denoiser_of(inputs.network), (inputs.batch.x, inputs.batch.y)
    key_t, key_eps = jax.random.split(inputs.key)
    t = known.schedule.sample_t(key_t, cond.shape)
    x_t = diffusion.add_noise(known.schedule, x0, jax.random.normal(key_eps, x0.shape, x0.dtype), t)
    target = lax.stop_gradient(teacher_at(inputs.teachers[0], cond, teacher_guidance)(x_t, t))

    def loss(params: PyTree) -> jax.Array:
      prediction = asked(inputs.network, params, x_t, t, cond).logits
      values = losses.denoising_loss(prediction, target, sample_weight(time_weight, known, t))
      return losses.masked_mean(values, inputs.where)

    value, grad = jax.value_and_grad(loss)(inputs.params["student"])
    return OwnUpdate({"loss/tsm": value}, {"student": grad})

  return Recipe({}, own=Own(update, init), sampler=ode_sampler(sample_steps, solver, 1.0), needs=("teacher", "labels"))


def _keys(key: Key, students: int) -> jax.Array:
  """A key for each student, the first of which is the update's own."""
  others = jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.arange(1, students))
  return jnp.concatenate([key[None], others])


def _divided(known: Denoiser, teacher: tuple[Network, Variables], students: int, rule: str, key: Key) -> jax.Array:
  """The student of each condition.

  Raises:
    UserError: conditions that cannot be divided so.
  """
  if known.conditions == 1 and students > 1:
    raise UserError(f"method.student_count={students}: a teacher without conditions; set task.conditions='labels'")
  every = jnp.arange(known.conditions, dtype=jnp.int32)
  last = jnp.full(every.shape, known.schedule.t_max)
  try:
    diffusion.check_parts(known.conditions, students)
    means = at(teacher[0], teacher[1].params, every)(jnp.zeros((known.conditions, *known.shape)), last)
    means = means.reshape(known.conditions, -1)
    return diffusion.partition_conditions(known.conditions, students, rule=rule, key=key, embeddings=means)
  except ValueError as error:
    raise UserError(f"method.student_count{str(error).removeprefix('students')}") from None


def _sample(students: int, steps: int, network: Network, variables: dict[str, Variables], draws: Draws) -> jax.Array:
  if students == 1:
    return dmd2.sample(steps, network, variables, draws)
  assignment = variables[_ROUTER].params["assignment"]

  def one(number: jax.Array, rows: Draws) -> jax.Array:
    own = jax.tree.map(lambda leaf: leaf[number], variables["student"])
    return dmd2.sample(steps, network, {"student": own}, rows)

  return diffusion.by_owner(one, students, diffusion.route(assignment, draws.cond), draws)
