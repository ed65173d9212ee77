"""An update of EchoDistill: the teacher's, the student's and the discriminators' gradients, and the echo stage."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jdistill import diffusion, losses
from jdistill.base import Augmentation, Key, Metrics, PyTree
from jdistill.diffusion import Echoes
from jdistill.diffusion import denoise as at
from jdistill.methods.diffusion.discriminator import pyramid
from jdistill.methods.diffusion.parts import asked, denoiser_of, null
from jdistill.methods.diffusion.token import token_of, with_token
from jdistill.methods.knowledge.recipe import OwnInputs, OwnUpdate
from jdistill.ops.checks import flat_rows

_LEVELS = 1000  # of the process, which shares of it are counted in
LEARNS = ("joint", "sequential")  # the orders in which teacher and student both learn
Part = tuple[Metrics, dict[str, PyTree]]


class Echo(NamedTuple):
  """The options of the echo stage; see `echo_distill`."""

  start: int
  share: float
  interval: int
  draws: int
  capacity: int
  threshold: float | None
  real: bool


class Options(NamedTuple):
  """The options of `echo_distill` that an update depends on; `align` are two shares of the process."""

  order: str
  token: int | None
  teacher_steps: int
  identity_weight: float
  perceptual_weight: float
  mse_weight: float
  adversarial_weight: float
  prior_weight: float
  keep_weight: float
  penalty_weight: float
  align: tuple[float, float]
  feature_site: str
  perceptual_sites: tuple[str, ...]
  feature_level: float
  scales: tuple[int, ...]
  augment: Augmentation
  echo: Echo


class Memory(NamedTuple):
  """What a training remembers.

  Attributes:
    echoes: the pool; `()` without an echo stage.
    start: the student's parameters at first; `()` where nothing is kept by them.
  """

  echoes: Echoes | tuple
  start: PyTree


class _Seen(NamedTuple):
  """The examples of an update.

  Attributes:
    x: `[B, ...]`, with echoes in the place of some references.
    reference: `[B]` bool, references and echoes.
    echo: `[B]` bool.
    token: number of the new condition.
  """

  x: jax.Array
  reference: jax.Array
  echo: jax.Array
  token: int


def update(options: Options, inputs: OwnInputs) -> OwnUpdate:
  """One update of all roles."""
  keys = dict(zip(("teach", "learn", "echo"), jax.random.split(inputs.key, 3), strict=True))
  token = token_of(denoiser_of(inputs.network), options.token)
  reference = inputs.where & (inputs.batch.y == token)
  seen, memory, figures = _Seen(inputs.batch.x, reference, jnp.zeros_like(reference), token), inputs.memory, {}
  if options.order not in LEARNS:
    metrics, grads = _denoising(options, inputs, keys["teach"], seen)
    return OwnUpdate(metrics, grads, memory=memory)
  if options.echo.share:
    echoes, seen, figures = _echoes(options, inputs, keys["echo"], seen)
    memory = memory._replace(echoes=echoes)
  early = inputs.step < options.teacher_steps
  teaches, learns = early if options.order == "sequential" else True, ~early if options.teacher_steps else True
  taught, of_teacher = _when(teaches, lambda: _denoising(options, inputs, keys["teach"], seen))
  learned, of_student = _when(learns, lambda: _student(options, inputs, keys["learn"], seen))
  moves = dict.fromkeys(of_teacher, teaches) | dict.fromkeys(of_student, learns)
  return OwnUpdate(taught | learned | figures, of_teacher | of_student, moves, memory)


def _when(now: jax.Array | bool, part: Callable[[], Part]) -> Part:
  """A part of an update, or zeros in its place."""
  if now is True:
    return part()
  like = jax.eval_shape(part)
  return lax.cond(now, part, lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like))


def _denoising(options: Options, inputs: OwnInputs, key: Key, seen: _Seen) -> Part:
  """The denoising loss of references, in the teacher and the row, or in what a control trains in their place."""
  known = denoiser_of(inputs.network)
  key_t, key_eps, key_keep = jax.random.split(key, 3)
  cond, (x, row) = inputs.batch.y, (seen.x, inputs.params["token"]["row"])
  t = known.schedule.sample_t(key_t, cond.shape)
  x_t = diffusion.add_noise(known.schedule, x, jax.random.normal(key_eps, x.shape, x.dtype), t)
  weight = diffusion.edm_weight(known.schedule.noise_ratio(t), known.sigma_data)
  role = {"direct": "student", "token": None}.get(options.order, "teacher")
  network = inputs.network if role == "student" else inputs.teachers[0][0]
  trained = {} if role is None else {role: inputs.params[role]}

  def loss(roles: dict[str, PyTree]) -> tuple[jax.Array, Metrics]:
    params = inputs.teachers[0][1].params if role is None else roles[role]
    prediction = asked(network, with_token(params, seen.token, roles["token"]["row"]), x_t, t, cond).logits
    values = losses.denoising_loss(prediction, x, weight, where=inputs.where)
    whole = losses.masked_mean(values, seen.reference)
    prior = losses.masked_mean(values, inputs.where & ~seen.reference)
    alone = losses.masked_mean(values, seen.reference & ~seen.echo)  # comparable before and after the echo stage
    total, metrics = whole + options.prior_weight * prior, {"loss/denoise": whole, "method/reference_loss": alone}
    if role == "student" and options.keep_weight:
      metrics["loss/keep"] = _forgotten(inputs, key_keep, params, seen)
      total += options.keep_weight * metrics["loss/keep"]
    return total, metrics

  (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)({**trained, "token": {"row": row}})
  return metrics, grads


def _student(options: Options, inputs: OwnInputs, key: Key, seen: _Seen) -> Part:
  """The student's gradient, and that of the discriminators on its samples."""
  known = denoiser_of(inputs.network)
  keys = dict(zip(("z", "align", "show", "keep"), jax.random.split(key, 4), strict=True))
  row = lax.stop_gradient(inputs.params["token"]["row"])
  cond = jnp.full(seen.reference.shape, seen.token, jnp.int32)
  last = jnp.full(cond.shape, known.schedule.t_max)
  z = diffusion.prior(known.schedule, jax.random.normal(keys["z"], seen.x.shape, seen.x.dtype))
  record = options.augment.sample(keys["show"], seen.x.shape)  # the same for references and samples

  def loss(params: PyTree) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
    x = asked(inputs.network, with_token(params, seen.token, row), z, last, cond).logits
    parts = _alignment(options, inputs, keys["align"], x, with_token(inputs.params["teacher"], seen.token, row), cond)
    if options.keep_weight:
      parts["keep"] = options.keep_weight, _forgotten(inputs, keys["keep"], params, seen)
    total = sum(weight * value for weight, value in parts.values())
    metrics = {f"loss/{name}": value for name, (_, value) in parts.items()}
    if options.adversarial_weight:
      logits = pyramid(inputs.params["critic"], options.augment.apply(record, x), options.scales)
      fooling = jnp.mean(losses.gan_generator_loss(logits.reshape(-1)))
      total, metrics = total + options.adversarial_weight * fooling, metrics | {"loss/generator": fooling}
    return total, (metrics, x)

  (_, (metrics, x)), grad = jax.value_and_grad(loss, has_aux=True)(inputs.params["student"])
  grads = {"student": grad}
  if options.adversarial_weight:
    shown = [options.augment.apply(record, one) for one in (seen.x, lax.stop_gradient(x))]
    metrics["loss/critic"], grads["critic"] = _critic(options, inputs.params["critic"], seen, *shown)
  return metrics, grads


def _forgotten(inputs: OwnInputs, key: Key, params: PyTree, seen: _Seen) -> jax.Array:
  """How far the student's samples of other conditions are from what it made of the same noise at first."""
  known = denoiser_of(inputs.network)
  key_z, key_cond = jax.random.split(key)
  others = jnp.array([one for one in range(known.conditions) if one != seen.token], jnp.int32)
  cond = diffusion.sample_condition(key_cond, others, seen.reference.shape[0])
  z = diffusion.prior(known.schedule, jax.random.normal(key_z, seen.x.shape, seen.x.dtype))
  last = jnp.full(cond.shape, known.schedule.t_max)
  now, first = (asked(inputs.network, one, z, last, cond).logits for one in (params, inputs.memory.start))
  return jnp.mean(losses.denoising_loss(now, first))


def _alignment(
  options: Options, inputs: OwnInputs, key: Key, x: jax.Array, teacher: PyTree, cond: jax.Array
) -> dict[str, tuple[float, jax.Array]]:
  """Weights and values of the losses between samples and what the teacher makes of them."""
  known, network = denoiser_of(inputs.network), inputs.teachers[0][0]
  key_t, key_eps = jax.random.split(key)
  first, end = (round(share * _LEVELS) for share in options.align)
  t = known.schedule.grid(_LEVELS)[jax.random.randint(key_t, cond.shape, first, max(end, first + 1))]
  eps = jax.random.normal(key_eps, x.shape, x.dtype)
  target = diffusion.alignment_target(known.schedule, at(network, teacher, cond), x, eps, t)
  parts = {}
  if options.identity_weight:
    near = losses.identity_loss(lambda x: _features(options, inputs, x)[options.feature_site], x, target)
    parts["identity"] = options.identity_weight, jnp.mean(near)
  if options.perceptual_weight:
    layers = lambda x: [_features(options, inputs, x)[site] for site in options.perceptual_sites]  # noqa: E731
    parts["perceptual"] = options.perceptual_weight, jnp.mean(losses.perceptual_loss(layers, x, target))
  parts["align"] = options.mse_weight, jnp.mean(losses.denoising_loss(x, target))
  return parts


def _features(options: Options, inputs: OwnInputs, x: jax.Array):
  """The sites of the frozen network `h`: the teacher as it came, without a condition."""
  (network, frozen), known = inputs.teachers[0], denoiser_of(inputs.network)
  place = min(int(options.feature_level * _LEVELS), _LEVELS - 1)
  t = jnp.broadcast_to(known.schedule.grid(_LEVELS)[place], x.shape[:1])
  none = null(known, jnp.zeros(x.shape[:1], jnp.int32), 0.0)
  return asked(network, lax.stop_gradient(frozen.params), x, t, none).taps


def _critic(
  options: Options, params: PyTree, seen: _Seen, real: jax.Array, fake: jax.Array
) -> tuple[jax.Array, PyTree]:
  """The discriminators' loss and its gradient, means over scales."""
  where = seen.reference if options.echo.real else seen.reference & ~seen.echo

  def loss(params: PyTree) -> tuple[jax.Array, jax.Array]:
    both = (pyramid(params, shown, options.scales) for shown in (real, fake))
    telling = [losses.gan_discriminator_loss(*pair, real_where=where) for pair in zip(*both, strict=True)]
    telling = sum(telling) / len(telling)
    if not options.penalty_weight:
      return telling, telling
    realness = lambda x: jnp.mean(pyramid(params, x, options.scales), axis=0)  # noqa: E731
    slope = losses.masked_mean(losses.gradient_penalty(realness, real, where=where), where)
    return telling + options.penalty_weight * slope, telling

  (_, telling), grad = jax.value_and_grad(loss, has_aux=True)(params)
  return telling, grad


def _echoes(options: Options, inputs: OwnInputs, key: Key, seen: _Seen) -> tuple[Echoes, _Seen, Metrics]:
  """The pool after an offer, where one is due, and the examples with echoes among them."""
  known, echo = denoiser_of(inputs.network), options.echo
  key_offer, key_mix = jax.random.split(key)
  row, pool = lax.stop_gradient(inputs.params["token"]["row"]), inputs.memory.echoes

  def generate(key: Key, cond: jax.Array) -> jax.Array:
    z = diffusion.prior(known.schedule, jax.random.normal(key, (cond.shape[0], *known.shape)))
    params = with_token(inputs.params["student"], seen.token, row)
    return asked(inputs.network, params, z, jnp.full(cond.shape, known.schedule.t_max), cond).logits

  def vectors(x: jax.Array) -> jax.Array:
    return flat_rows(_features(options, inputs, x)[options.feature_site])

  def offer() -> Echoes:
    accept = lambda x: diffusion.accept_similar(  # noqa: E731
      vectors(x), vectors(inputs.batch.x), inputs.batch.ids, threshold=echo.threshold, where=seen.reference
    )
    cond = jnp.full(echo.draws, seen.token, jnp.int32)
    return diffusion.pool_echoes(pool, *diffusion.echo_pool(generate, key_offer, cond, accept))

  since = inputs.step - echo.start
  pool = lax.cond((since >= 0) & (since % echo.interval == 0), offer, lambda: pool)
  x, mixed = diffusion.mix_echoes(key_mix, pool, seen.x, echo.share, where=seen.reference)
  figures = {
    "method/accepted": pool.accepted.astype(jnp.float32) / jnp.maximum(pool.offered, 1).astype(jnp.float32),
    "method/echo_share": jnp.mean(mixed, dtype=jnp.float32),
  }
  return pool, seen._replace(x=x, echo=mixed), figures
