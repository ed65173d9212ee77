"""DMD2 and its kin: a generator that moves along the difference between its own law and the teacher's."""

import functools
import math
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jdistill import diffusion, losses
from jdistill.base import Key, Metrics, Network, PyTree, UserError, Variables
from jdistill.diffusion import BOTTLENECK, Denoiser, Draws
from jdistill.diffusion import denoise as at
from jdistill.methods.diffusion.discriminator import feature_size, head_init, noise_levels, noised, realness
from jdistill.methods.diffusion.parts import (
  asked,
  check_same_schedule,
  denoiser_of,
  random_conditions,
  row_noise,
  shared_sum,
  shares,
  spread,
  teacher_at,
)
from jdistill.methods.knowledge.recipe import Own, OwnInputs, OwnUpdate, Recipe
from jdistill.ops.rows import map_rows, sum_rows, value_and_grad
from jdistill.schema import Count, Range, validated

_LEVELS = 1000  # the steps of the process that the paper's times are counted in
_ENDS = (0.02, 0.98)  # of the levels at which laws are compared

Weight = Annotated[float, Range(0, 1e6)]


class Options(NamedTuple):
  """The options of `dmd2`."""

  ratio: int
  sample_steps: int
  dm_weight: float
  gan_weight: float
  critic_weight: float
  normalize: str
  teacher_guidance: float
  site: str
  hidden: int


@validated("method")
def dmd2(
  *,
  ratio: Count = 5,
  sample_steps: Count = 1,
  dm_weight: Weight = 1.0,
  gan_weight: Weight = 0.0,
  critic_weight: Weight = 1e-2,
  normalize: Literal["dmd", "none"] = "dmd",
  teacher_guidance: Annotated[float, Range(0, 100)] = 1.0,
  site: str = BOTTLENECK,
  hidden: Count = 64,
  student_start: Literal["teacher", "random"] = "teacher",
  conditions: Count | None = None,
) -> Recipe:
  """Distribution matching distillation with two time scales (DMD2, arXiv 2405.14867).

  Three denoisers: the frozen teacher, the student `G`, which makes samples of noise in one call, and `fake`, a copy of
  the teacher that learns to denoise the student's samples. Every update draws noise `z` and conditions. In every
  `ratio`-th one the student descends

      dm_weight / 2 mean |x - sg(x - g)|^2 + gan_weight mean softplus(-D(x)),    x = G(z),
      g = (fake(x_t) - teacher(x_t)) / mean_d |x - teacher(x_t)|

  at times between 2 % and 98 % of the process; no gradient passes through teacher and fake in `g`. In every update
  `fake` descends the denoising loss of `x`, and, where there is an adversarial part, with its head `D` on the features
  at `site` also `critic_weight (mean softplus(D(x)) + mean softplus(-D(real)))`, all at random noise levels.

  `ratio=1` with `normalize="none"` is Diff-Instruct (arXiv 2305.18455) with a weight of 1; `ratio=1` alone is DMD
  without its regression on pairs.

  The mean over all elements makes matching weaker as examples grow, the adversarial part does not depend on their
  size: the paper's `gan_weight` of 3e-3 belongs to 12,288 elements, and `3e-3 * 12288 / D` is where to start with `D`
  (`method/gan_ratio` is the ratio of the two gradients on the samples).

  Args:
    ratio: updates of `fake` for each of the student.
    sample_steps: of the student; with several, training sees what the student's own steps lead to.
    dm_weight, gan_weight: of the student's two losses; `gan_weight=0` needs no data and has no head.
    critic_weight: of the head's loss beside the denoising loss of `fake`.
    normalize: `"dmd"`, or `"none"` for `g` without its denominator.
    teacher_guidance: scale of classifier-free guidance of the teacher; `fake` has none.
    site: a site of the denoiser.
    hidden: units of the head.
    student_start: of the student: the teacher's parameters, or random ones.
    conditions: samples are made of so many, the first ones; `None` for all that the denoiser has.

  Raises:
    UserError: at trace time, more conditions than there are; a student whose schedule, shape or conditions differ from
      the teacher's; guidance without conditions; a site that is not there.
  """
  options = Options(
    ratio, sample_steps, dm_weight, gan_weight, critic_weight, normalize, teacher_guidance, site, hidden
  )

  def updated(inputs: OwnInputs) -> OwnUpdate:
    if conditions is not None and conditions > (most := denoiser_of(inputs.network).conditions):
      raise UserError(f"method.conditions={conditions}: the denoiser has {most}; lower it")
    owned = None if conditions is None else jnp.arange(conditions, dtype=jnp.int32)
    return update(options, inputs, owned)

  return Recipe(
    {},
    own=Own(updated, lambda *given: init(options, *given), student_start),
    sampler=lambda *given: sample(sample_steps, *given),
  )


def student_times(known: Denoiser, steps: int) -> jax.Array:
  """The times of a student's steps: `[steps]`, the first `t_max`, equally many of the process's levels between them.

  Raises:
    UserError: more steps than levels.
  """
  if steps > _LEVELS:
    raise UserError(f"method.sample_steps={steps}: the process has {_LEVELS} levels; lower it")
  # levels T - 1, T - 1 - T // N, ..., as in the released code
  return known.schedule.grid(_LEVELS)[jnp.arange(steps) * (_LEVELS // steps)]


def init(options: Options, key: Key, network: Network, teachers) -> dict[str, PyTree]:
  """The roles beside the student: `fake`, and its head where there is an adversarial part."""
  teacher, variables = teachers[0]
  check_same_schedule(denoiser_of(network), denoiser_of(teacher))
  roles = {"fake": variables.params}
  if options.gan_weight:
    size = feature_size(teacher, variables.params, options.site)
    roles["critic"] = head_init(key, size, options.hidden)
  return roles


def sample(steps: int, network: Network, variables: dict[str, Variables], draws: Draws) -> jax.Array:
  """Samples of the finished student in so many steps."""
  known = denoiser_of(network)
  generate = at(network, variables["student"].params, draws.cond)
  x = diffusion.prior(known.schedule, draws.eps)
  return diffusion.renoise_sample(known.schedule, generate, row_noise(draws), x, student_times(known, steps))


def update(options: Options, inputs: OwnInputs, owned: jax.Array | None = None) -> OwnUpdate:
  """One update of student, `fake` and head, `inputs.chunk_size` rows at a time.

  Args:
    options: of the method.
    inputs: what an update sees; `where` says which examples are real ones for the head.
    owned: `[m]` int32, the conditions that samples are made of; `None` for all.
  """
  rows, chunk = _drawn(options, inputs, owned), inputs.chunk_size
  moves = inputs.step % options.ratio == 0

  def still():
    x = map_rows(lambda own: _generated(inputs, inputs.params["student"], own), rows, chunk)
    return x, jax.tree.map(jnp.zeros_like, inputs.params["student"]), _no_figures(options)

  def moved():
    x, (grad, sums) = sum_rows(functools.partial(_pulled, options, inputs), rows, chunk)
    return x, grad, _figures(sums, x)

  x, grad, figures = lax.cond(moves, moved, still)
  rows = rows | {"made": lax.stop_gradient(x)}
  names = ("fake", "critic") if options.gan_weight else ("fake",)
  learn = functools.partial(_followers, options, inputs)
  (_, loss), grads = value_and_grad(learn, {name: inputs.params[name] for name in names}, rows, chunk, has_aux=True)
  metrics = loss | figures | {"method/spread": spread(x)}
  return OwnUpdate(metrics, {"student": grad, **grads}, {"student": moves})


def _drawn(options: Options, inputs: OwnInputs, owned: jax.Array | None) -> dict[str, PyTree]:
  """Everything random of an update and the real examples; all leaves are `[B, ...]`.

  `cond`; `input`, what the student sees; `match`, `fool`, `follow`, `real` and `fake`, times and noise of what is
  looked at; and `x`, `y` and their `share` of a mean over the real examples.
  """
  known = denoiser_of(inputs.network)
  keys = dict(zip(("z", "cond", "match", "fool", "follow", "tell"), jax.random.split(inputs.key, 6), strict=True))
  batch, levels = inputs.batch, known.schedule.grid(_LEVELS)
  cond = inputs.spread(random_conditions(keys["cond"], known, batch.y.shape[0], owned))
  rows = {"cond": cond, "input": _student_input(options, inputs, keys["z"], cond)}
  draw = functools.partial(noise_levels, shape=(cond.shape[0], *known.shape))
  rows["match"] = draw(keys["match"], levels[int(_ENDS[0] * _LEVELS) : int(_ENDS[1] * _LEVELS)])
  rows["follow"] = draw(keys["follow"], levels)
  if options.gan_weight:
    key_real, key_fake = jax.random.split(keys["tell"])
    rows |= {name: draw(key, levels) for name, key in (("fool", keys["fool"]), ("real", key_real), ("fake", key_fake))}
    rows |= {"x": batch.x, "y": batch.y, "share": shares(inputs.where)}
  return inputs.spread(rows)


def _student_input(options: Options, inputs: OwnInputs, key: Key, cond: jax.Array) -> tuple[jax.Array, jax.Array]:
  """What the student's call of this update sees: pure noise, or where its own earlier steps lead to."""
  known = denoiser_of(inputs.network)
  key_z, key_index, key_eps = jax.random.split(key, 3)
  shape = (cond.shape[0], *known.shape)
  x = inputs.spread(diffusion.prior(known.schedule, jax.random.normal(key_z, shape)))
  times = student_times(known, options.sample_steps)
  index = jax.random.randint(key_index, (), 0, options.sample_steps)
  if options.sample_steps > 1:
    generate = at(inputs.network, inputs.params["student"], cond)
    draw = lambda number: jax.random.normal(jax.random.fold_in(key_eps, number), shape)  # noqa: E731
    x = diffusion.backward_simulate(known.schedule, generate, draw, x, times, index)
  return x, jnp.broadcast_to(times[index], cond.shape)


def _generated(inputs: OwnInputs, params: PyTree, rows: dict[str, PyTree]) -> jax.Array:
  return asked(inputs.network, params, *rows["input"], rows["cond"]).logits


def _pulled(options: Options, inputs: OwnInputs, rows: dict[str, PyTree]) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
  """Samples, and of these rows the sums: of the student's gradient, and of what its figures are made of."""
  x, pull = jax.vjp(lambda params: _generated(inputs, params, rows), inputs.params["student"])
  direction, sums = _direction(options, inputs, rows, x)
  return x, (pull(direction.astype(x.dtype))[0], sums)


def _direction(options: Options, inputs: OwnInputs, rows: dict[str, PyTree], x: jax.Array) -> tuple[jax.Array, Metrics]:
  """The gradient of the student's losses in its samples, and sums for figures of its two parts."""
  (teacher, _), count, cond = inputs.teachers[0], inputs.where.shape[0], rows["cond"]
  x_t, t = noised(teacher, rows["match"], x)
  real = teacher_at(inputs.teachers[0], cond, options.teacher_guidance)(x_t, t)
  fake = asked(teacher, inputs.params["fake"], x_t, t, cond).logits
  matching = losses.score_distillation_grad(x, real, fake, normalize=options.normalize)
  direction = options.dm_weight * matching / (count * math.prod(x.shape[1:]))
  sums = {
    "matching": jnp.sum(jnp.square(direction)),
    "gap": jnp.sum(jnp.square(fake - real)),
    "way": jnp.sum(jnp.square(x - real)),
    "stuck": jnp.sum(jnp.all(x == real, axis=tuple(range(1, x.ndim)))),  # the denominator is 0 there
  }
  if not options.gan_weight:
    return direction, sums

  def fooling(x: jax.Array) -> jax.Array:
    logits = realness(teacher, inputs.params["fake"], inputs.params["critic"], rows["fool"], x, cond, site=options.site)
    return jnp.sum(losses.gan_generator_loss(logits)) / count

  value, other = jax.value_and_grad(fooling)(x)
  other = options.gan_weight * other
  return direction + other, sums | {"fooling": value, "adversarial": jnp.sum(jnp.square(other))}


def _figures(sums: Metrics, x: jax.Array) -> Metrics:
  """The student's figures from sums over all rows of its samples `x`."""
  figures = {
    "method/dm_norm": jnp.sqrt(sums["matching"]),
    "method/gap": sums["gap"] / sums["way"],
    "method/stuck": sums["stuck"] / x.shape[0],
  }
  if "fooling" in sums:
    norm = jnp.maximum(figures["method/dm_norm"], 1e-12)
    figures |= {"loss/generator": sums["fooling"], "method/gan_ratio": jnp.sqrt(sums["adversarial"]) / norm}
  return figures


def _no_figures(options: Options) -> Metrics:
  names = ["method/dm_norm", "method/gap", "method/stuck"]
  names += ["method/gan_ratio", "loss/generator"] if options.gan_weight else []
  return {name: jnp.zeros(()) for name in names}


def _followers(
  options: Options, inputs: OwnInputs, params: dict[str, PyTree], rows: dict[str, PyTree]
) -> tuple[jax.Array, Metrics]:
  """The losses of `fake` and of its head on samples `made`, the part of these rows in their means."""
  (teacher, _), known, count = inputs.teachers[0], denoiser_of(inputs.network), inputs.where.shape[0]
  x, cond = rows["made"], rows["cond"]
  x_t, t = noised(teacher, rows["follow"], x)
  weight = diffusion.edm_weight(known.schedule.noise_ratio(t), known.sigma_data)
  prediction = asked(teacher, params["fake"], x_t, t, cond).logits
  follow = jnp.sum(losses.denoising_loss(prediction, x, weight)) / count
  if not options.gan_weight:
    return follow, {"loss/fake": follow}
  judge = functools.partial(realness, teacher, params["fake"], params["critic"], site=options.site)
  # the two halves of `losses.gan_discriminator_loss`, row by row
  real = losses.gan_generator_loss(judge(rows["real"], rows["x"], rows["y"]))
  fake = losses.gan_generator_loss(-judge(rows["fake"], x, cond))
  tell = shared_sum(real, rows["share"]) + jnp.sum(fake) / count
  return follow + options.critic_weight * tell, {"loss/fake": follow, "loss/critic": tell}
