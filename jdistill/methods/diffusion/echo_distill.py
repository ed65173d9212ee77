"""EchoDistill: teacher and one-step student learn a concept of a few images together, each from the other."""

from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import augment, diffusion
from jdistill.base import Key, Network, PyTree, UserError, Variables
from jdistill.diffusion import BOTTLENECK, Draws
from jdistill.methods.diffusion import dmd2
from jdistill.methods.diffusion.denoise import Solver, ode_sampler
from jdistill.methods.diffusion.discriminator import feature_size, pyramid_init
from jdistill.methods.diffusion.dmd2 import Weight
from jdistill.methods.diffusion.echo_update import LEARNS, Echo, Memory, Options, update
from jdistill.methods.diffusion.parts import denoiser_of
from jdistill.methods.diffusion.token import check_interface, token_of, token_row, with_token
from jdistill.methods.knowledge.recipe import Own, Recipe
from jdistill.methods.roles import trainable_mask
from jdistill.schema import Count, Range, Share, Size, validated


@validated("method")
def echo_distill(
  *,
  order: Literal["joint", "sequential", "direct", "token"] = "joint",
  token: Size | None = None,
  token_start: Literal["mean", "own"] = "mean",
  trainable: tuple[str, ...] = ("film",),
  teacher_steps: Size = 0,
  identity_weight: Weight = 1.0,
  perceptual_weight: Weight = 1.0,
  mse_weight: Weight = 1.0,
  adversarial_weight: Weight = 0.1,
  prior_weight: Weight = 1.0,
  keep_weight: Weight = 1.0,
  penalty_weight: Weight = 0.0,
  align_from: Share = 0.02,
  align_to: Share = 0.98,
  feature_site: str = BOTTLENECK,
  perceptual_sites: tuple[str, ...] = (BOTTLENECK,),
  feature_level: Share = 0.3,
  scales: tuple[Count, ...] = (1, 2),
  hidden: Count = 64,
  critic_augment: str = "crop",
  echo_start: Size = 1000,
  echo_share: Share = 0.25,
  echo_interval: Count = 10,
  echo_draws: Count = 16,
  echo_capacity: Count = 64,
  echo_threshold: Annotated[float, Range(-1, 1)] | None = None,
  echo_real: bool = True,
  sample_steps: Count = 1,
  sampled: Literal["student", "teacher"] = "student",
  teacher_sample_steps: Count = 20,
  solver: Solver = "heun",
  student_start: Literal["teacher", "random"] = "teacher",
) -> Recipe:
  """Bidirectional concept distillation (EchoDistill, arXiv 2510.20512): personalisation of a one-step student.

  The examples are a few reference images of a concept, under a condition that the teacher does not know, the token.
  The teacher learns, too: it is a role that begins as the trained one. What trains of both networks are the parameters
  with `trainable` in their names; the row of the token is one, which both read and only the teacher's loss moves. An
  update has three parts, all from the parameters before it:

      teacher   w(t) / D |T(x_t, t, c) - x|^2 of references x, moves T and the row
      student   identity_weight (1 - cos(h(x_s), h(x_tc))) + perceptual_weight L_lpips + mse_weight |x_s - x_tc|^2 / D
                + adversarial_weight mean softplus(-D_k(a(x_s))),    x_s = S(z, c),  x_tc = sg T(x_s + noise, t, c)
      critic    mean softplus(-D_k(a(x))) + mean softplus(D_k(a(x_s))) + penalty_weight |grad D_k|^2

  with discriminators `D_k` at several scales, and one draw of the augmentation `a` for a reference and a sample. The
  frozen network `h` is the teacher as it came, asked without a condition. From update `echo_start` on, samples of the
  student that `h` finds similar enough to the references join these (`jdistill.diffusion.accept_similar`).

  The paper has text-to-image models, cross-attention and CLIP; FiLM layers and a table of conditions stand for these.
  There is no public code: all weights, numbers of updates and rates here are unverified, and so is that the row is held
  constant for the student.

  Args:
    order: `"joint"`; or a control: `"sequential"`, the teacher for `teacher_steps` updates and then the student, from a
      frozen teacher; `"direct"`, the denoising loss of the student on the references; `"token"`, that of the teacher
      in the row alone (textual inversion), with both networks as they are.
    token: number of the condition; `None` for the last one.
    token_start: of its row: the mean of the other conditions' rows, or what the teacher has there.
    trainable: parts of names of parameters.
    teacher_steps: updates at first in which the teacher alone learns.
    identity_weight, perceptual_weight, mse_weight, adversarial_weight: of the student's losses.
    prior_weight: of examples of other conditions beside the references in the denoising loss, which keep what the
      teacher knew.
    keep_weight: of the squared distance between the student's samples of other conditions, drawn at random, and what it
      made of the same noise at first; not in the paper.
    penalty_weight: of the discriminators' gradient penalty (R1).
    align_from, align_to: shares of the process between which the student's samples are noised for the teacher.
    feature_site, perceptual_sites: sites of `h` for identity and echoes, and for L_lpips.
    feature_level: share of the process at whose noise level `h` is asked.
    scales, hidden: of the discriminators: sides of the places that are averaged, and units.
    critic_augment: an augmentation by name.
    echo_start, echo_share: the first update with echoes, and the largest share of a batch that they have; 0 for none.
    echo_interval, echo_draws, echo_capacity: updates between offers, samples in each, and images of the pool.
    echo_threshold: the least similarity of an echo; `None` for that which the references have to each other.
    echo_real: whether discriminators take echoes for real.
    sample_steps: of the student.
    sampled: whose samples are the result.
    teacher_sample_steps, solver: of the teacher's, as of `edm`.
    student_start: of a student without a phase before: as a copy of the teacher, or new.

  Raises:
    UserError: an echo stage without a joint training or before the student has learned; features that are not named.
      At trace time, networks whose conditions differ; `trainable` that selects nothing; sites and scales that do not
      fit. Before training, no references, or fewer than two with a discriminator.
  """
  echo = Echo(echo_start, echo_share, echo_interval, echo_draws, echo_capacity, echo_threshold, echo_real)
  options = Options(
    order, token, teacher_steps, identity_weight, perceptual_weight, mse_weight, adversarial_weight, prior_weight,
    keep_weight, penalty_weight, (align_from, align_to), feature_site, tuple(perceptual_sites), feature_level,
    tuple(scales), augment.named(critic_augment, key="method.critic_augment"), echo,
  )  # fmt: skip
  setup = _Setup(token_start, tuple(trainable), hidden, sample_steps, sampled, teacher_sample_steps, solver)
  _check(options, sampled)
  own = Own(
    lambda inputs: update(options, inputs),
    lambda *given: _init(options, setup, *given),
    student_start,
    lambda params, teachers: _memory(options, params, teachers),
    masks=dict.fromkeys(("student", "teacher"), setup.mask),
  )
  return Recipe(
    {},
    own=own,
    sampler=lambda *given: _sample(setup, token, *given),
    keeps=("token", "teacher") if sampled == "teacher" else ("token",),
    needs=("teacher", "labels"),
    check=lambda updates: _check_updates(options, updates),
    check_examples=lambda *found: _check_examples(options, *found),
  )


class _Setup(NamedTuple):
  """The options of `echo_distill` that no update depends on."""

  token_start: str
  trainable: tuple[str, ...]
  hidden: int
  sample_steps: int
  sampled: str
  teacher_sample_steps: int
  solver: str

  def mask(self, params: PyTree) -> PyTree:
    return trainable_mask(params, lambda path: any(part in name for part in self.trainable for name in path))


def _init(options: Options, setup: _Setup, key: Key, network: Network, teachers) -> dict[str, PyTree]:
  """The roles beside the student: the row of the token, and of joint trainings teacher and discriminators."""
  check_interface(network, teachers[0])
  known, params = denoiser_of(network), teachers[0][1].params
  roles = {"token": {"row": token_row(params, token_of(known, options.token), setup.token_start)}}
  _check_networks(options, network, teachers[0], setup.sampled)
  if options.order != "token":
    _check_mask(setup, jax.eval_shape(network.init, jax.random.key(0)).params, params)
  if options.order in LEARNS:
    roles["teacher"] = params
    if options.adversarial_weight:
      roles["critic"] = pyramid_init(key, known.shape, options.scales, setup.hidden)
  return roles


def _memory(options: Options, params: dict[str, PyTree], teachers) -> Memory:
  """An empty pool, and the student as it begins."""
  shape, echo = denoiser_of(teachers[0][0]).shape, options.echo
  start = params["student"] if options.keep_weight and options.order != "token" else ()
  return Memory(diffusion.no_echoes(echo.capacity, shape) if echo.share else (), start)


def _sample(
  setup: _Setup, token: int | None, network: Network, variables: dict[str, Variables], draws: Draws
) -> jax.Array:
  """Samples of the finished student, or of the teacher beside it."""
  row = variables["token"].params["row"]
  own = with_token(variables[setup.sampled].params, token_of(denoiser_of(network), token), row)
  if setup.sampled == "teacher":
    return ode_sampler(setup.teacher_sample_steps, setup.solver, 1.0)(network, {"student": Variables(own)}, draws)
  return dmd2.sample(setup.sample_steps, network, {"student": Variables(own)}, draws)


def _check(options: Options, sampled: str) -> None:
  """Refuses options that contradict each other."""
  o, echo = options, options.echo
  learns = o.order in LEARNS
  if learns and (o.identity_weight or echo.share) and not o.feature_site:
    raise UserError("method.feature_site='': identity and echoes are judged by a frozen network; name one of its sites")
  if learns and o.perceptual_weight and not o.perceptual_sites:
    raise UserError(
      "method.perceptual_sites=(): the perceptual loss compares layers of a frozen network; name some of its sites, or "
      "set perceptual_weight=0"
    )
  if o.align[0] >= o.align[1]:
    raise UserError(f"method.align_from={o.align[0]}: must be below align_to={o.align[1]}")
  if sampled == "teacher" and not learns:
    raise UserError(f"method.sampled='teacher': order={o.order!r} trains no teacher; use 'student'")
  if o.order == "sequential" and not o.teacher_steps:
    raise UserError("method.teacher_steps=0: order='sequential' trains the teacher first; give it some updates")
  if not echo.share:
    return
  if o.order != "joint":
    raise UserError(f"method.echo_share={echo.share}: order={o.order!r} has no echo stage; set it to 0")
  if echo.start <= o.teacher_steps:
    raise UserError(
      f"method.echo_start={echo.start}: the student has learned nothing by then; begin after its warm-up, later than "
      f"teacher_steps={o.teacher_steps}"
    )
  if echo.draws > echo.capacity:
    raise UserError(f"method.echo_draws={echo.draws}: more than the pool of echo_capacity={echo.capacity}; lower it")


def _check_networks(options: Options, network: Network, teacher: tuple[Network, Variables], sampled: str) -> None:
  own, other = jax.eval_shape(network.init, jax.random.key(0)).params, teacher[1].params
  if sampled == "teacher" and jax.tree.map(jnp.shape, own) != jax.tree.map(jnp.shape, other):
    raise UserError("method.sampled='teacher': the teacher's network is another one than the student's; use 'student'")
  if options.order not in LEARNS:
    return
  sites = [("method.feature_site", options.feature_site)] if options.identity_weight or options.echo.share else []
  if options.perceptual_weight:
    sites += [("method.perceptual_sites", site) for site in options.perceptual_sites]
  for key, site in sites:
    feature_size(teacher[0], other, site, key=key)


def _check_mask(setup: _Setup, student: PyTree, teacher: PyTree) -> None:
  for whose, params in (("student", student), ("teacher", teacher)):
    try:
      setup.mask(params)
    except ValueError as error:
      found = str(error).removeprefix("trainable_mask: ").replace("parameters", f"parameters of the {whose}")
      raise UserError(f"method.trainable={setup.trainable}: {found}") from None


def _check_updates(options: Options, updates: int) -> None:
  last, key = options.teacher_steps, "teacher_steps"
  if options.echo.share:
    last, key = options.echo.start, "echo_start"
  if options.order in LEARNS and last >= updates:
    raise UserError(f"method.{key}={last}: there are {updates} updates in all; lower it, or train longer")


def _check_examples(options: Options, labels: np.ndarray, ids: np.ndarray, network: Network) -> None:
  token = token_of(denoiser_of(network), options.token)
  found = len(np.unique(ids[labels == token]))
  if not found:
    raise UserError(f"method.token={token}: no example has this condition; give reference images of the concept")
  if found < 2 and options.adversarial_weight and options.order in LEARNS:
    raise UserError(
      f"method.adversarial_weight={options.adversarial_weight}: a discriminator needs two reference images at least, "
      "and there is 1; give more, such as task.reference_size=5, or set it to 0"
    )
