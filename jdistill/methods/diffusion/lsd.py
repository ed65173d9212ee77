"""LSD and LSD+: a sampler of few steps learns its coefficients, and its step sizes, from one of many."""

from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jdistill.base import Key, Method, UserError
from jdistill.diffusion.discrete import (
  Graph,
  LeastSquares,
  Sweep,
  TokenNoise,
  check_steps,
  euler_step,
  fit_loss,
  fitted,
  hamming_perturb,
  lsd_sweep,
  step_sizes,
  step_times,
  time_grid,
  tweedie_step,
)
from jdistill.diffusion.discrete.learned import ROWS, TARGETS
from jdistill.diffusion.discrete.sampling import APPLY_TO, ScoreFn, StepFn
from jdistill.diffusion.discrete.score_entropy import check_score
from jdistill.methods.optimizers import make_optimizer
from jdistill.methods.roles import Role, init_roles, update_roles
from jdistill.schema import Above, Count, Positive, Range, Share, validated

STEPS = {"euler": euler_step, "tweedie": tweedie_step}


class LearnedSampler(NamedTuple):
  """A sampler of M steps, for `run_sampler(..., times=times, phi=phi)`.

  Attributes:
    phi: `[M]`, coefficients of the scores.
    times: `[M + 1]`, falling.
  """

  phi: jax.Array
  times: jax.Array


class LSDState(NamedTuple):
  """What learns.

  Attributes:
    roles: `"phi"` `[M]`, and with learned step sizes `"sizes"` `[M]`, whose softmax they are.
    sums: `LeastSquares` of `[M]`, running averages that the closed form is computed from; zeros for gradients.
  """

  roles: dict[str, Role]
  sums: LeastSquares


@validated("method")
def lsd(
  score_fn: ScoreFn,
  graph: Graph,
  noise: TokenNoise,
  *,
  sampler_steps: Count = 8,
  teacher_steps: Count = 256,
  sampler: Literal["euler", "tweedie"] = "euler",
  learn_sizes: bool = False,
  radius: Annotated[float, Range(0, 0.999)] = 0.05,
  apply_to: Literal[APPLY_TO] = "score",
  rows: Literal[ROWS] = "all",
  size_target: Literal[TARGETS] = "teacher_step",
  solver: Literal["gradient", "closed_form"] = "gradient",
  relative: bool = False,
  optimizer: Literal["sgd", "adam"] = "sgd",
  phi_lr: Positive = 1e-3,
  sizes_lr: Positive = 1e-3,
  memory: Share = 0.9,
  t_min: Annotated[float, Above(0), Range(high=0.5)] = 1e-5,
) -> Method:
  """Builds LSD, and with `learn_sizes` LSD+.

  One step draws noise, runs the teacher's sampler of N steps and, from a start in which a few tokens differ, the
  student's of M steps, and moves each coefficient along the gradient of

      L_k = mean ( phi_k s(x_k, t_k) - s(x*_k, t_k) )^2

  with LSD+ also step sizes `kappa = (1 - t_min) softmax(sizes)` along that of

      mean ( kappa_k s(x_k, tau_k) - target_k )^2 .

  No gradient passes through the score network or through samples.

  Args:
    score_fn: the frozen network, `(x [B, L], sigma [B]) -> concrete score [B, L, states]`, 1 at the current token.
    graph, noise: the forward process that it was trained for.
    sampler_steps: M, of the student; divides N.
    teacher_steps: N.
    sampler: what makes a step of both, see `euler_step` and `tweedie_step` of `jdistill.diffusion.discrete`.
    learn_sizes: LSD+.
    radius: share of the positions that differ at the student's start, in training alone. With a start of masks these
      are random tokens.
    apply_to: `"score"` (the paper), or `"log_score"` (the release, whose network gives logs): coefficients multiply
      logs, and logs are compared.
    rows: see `lsd_sweep`. With exact scores of the absorbing graph `"all"` (the paper) drives all but the first
      coefficients towards 0: the entries of tokens that are already visible are large, differ between the two runs and
      cause no jump, so that the least squares are not those of the sampler.
    size_target: of LSD+, see `lsd_plus_loss`; `"teacher_step"` is the paper's. As step sizes always add up to the whole
      range, it decides their proportions alone.
    solver: `"gradient"` (the paper), or `"closed_form"`: each coefficient where its loss over all samples so far is
      least, older ones weighted less. Step sizes always follow the gradient.
    relative: divides each step's loss by the mean square of its target, so that one rate suits all steps.
    optimizer: `"sgd"` without momentum (the paper), or `"adam"` (the release).
    phi_lr: 1e-3 in the release.
    sizes_lr: of LSD+ (unverified).
    memory: of the closed form, the weight of the past.
    t_min: where samplers end; the release has 1e-5 and, in its teacher, 1e-4.

  Returns:
    A `Method` whose stream is made of batches with `x` `[B, L]`, of which the shape alone is read: no data is needed.
    Its result is a `LearnedSampler`. Metrics: `loss/phi` and `loss/sizes`, means over steps, `loss/excess`, the part of
    `loss/phi` that better coefficients would take away, and `phi/least`, `phi/greatest`.

  Raises:
    UserError: M that does not divide N or exceeds it.
    ValueError: in `init`, a `score_fn` whose values are no concrete scores, such as logs.

  References:
    Fu et al., "Learnable Sampler Distillation for Discrete Diffusion Models" (arXiv 2509.19962), alg. 1 and 2.
  """
  check_sampler_steps(sampler_steps, teacher_steps)
  teacher_times, step_fn = time_grid(teacher_steps, t_min=t_min), STEPS[sampler](graph, noise)
  rates = {"phi": phi_lr} | ({"sizes": sizes_lr} if learn_sizes else {})
  optimizers = {name: make_optimizer(optimizer, lr, momentum=0.0) for name, lr in rates.items()}

  def times_of(roles: dict[str, Role]) -> jax.Array:
    if not learn_sizes:
      return teacher_times[:: teacher_steps // sampler_steps]
    return jnp.maximum(step_times(step_sizes(roles["sizes"].params, t_min=t_min)), t_min)  # rounding of the sum

  def init(key: Key, example) -> LSDState:
    x = graph.sample_prior(key, example.x.shape)
    _check_concrete(graph, score_fn(x, jnp.broadcast_to(noise.sigma(teacher_times[0]), x.shape[:1])), x)
    start = {"phi": jnp.ones(sampler_steps), "sizes": jnp.zeros(sampler_steps)}
    zeros = jnp.zeros(sampler_steps)
    return LSDState(init_roles(optimizers, {name: start[name] for name in optimizers}), LeastSquares(*[zeros] * 4))

  def step(key: Key, state: LSDState, batch) -> tuple[LSDState, dict[str, jax.Array]]:
    parts, phi = {name: role.params for name, role in state.roles.items()}, state.roles["phi"].params
    options = {"apply_to": apply_to, "rows": rows, "target": size_target}
    found = swept(
      key, score_fn, graph, noise, step_fn, teacher_times, times_of(state.roles), phi, batch.x.shape, radius, **options
    )
    grads, means = jax.grad(total_loss, has_aux=True)(parts, found, relative, t_min)
    roles, sums = update_roles(optimizers, state.roles, grads), state.sums
    if solver == "closed_form":
      sums = jax.tree.map(lambda old, new: memory * old + (1 - memory) * new, sums, found.scores)
      roles["phi"] = Role(fitted(sums, phi), roles["phi"].opt_state)
    new = roles["phi"].params
    return LSDState(roles, sums), means | {"phi/least": jnp.min(new), "phi/greatest": jnp.max(new)}

  return Method(init, step, lambda state: LearnedSampler(state.roles["phi"].params, times_of(state.roles)))


def swept(
  key: Key,
  score_fn: ScoreFn,
  graph: Graph,
  noise: TokenNoise,
  step_fn: StepFn,
  teacher_times: jax.Array,
  times: jax.Array,
  phi: jax.Array,
  shape: tuple[int, int],
  radius: float,
  **options: str,
) -> Sweep:
  """`lsd_sweep` of new noise `[B, L]`, from which the student's start differs in a share `radius` of positions."""
  key_prior, key_start, key_run = jax.random.split(key, 3)
  x = graph.sample_prior(key_prior, shape)
  near = hamming_perturb(key_start, x, radius, graph.tokens)
  return lsd_sweep(key_run, score_fn, graph, noise, step_fn, teacher_times, times, phi, x, near, **options)


def check_sampler_steps(steps: int, teacher_steps: int) -> None:
  """`check_steps`, with the option's name in the message."""
  try:
    check_steps(steps, teacher_steps)
  except ValueError as error:
    raise UserError(f"method.sampler_{error}") from None


def total_loss(
  parts: dict[str, jax.Array], found: Sweep, relative: bool, t_min: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The sum over steps, for each coefficient has a loss of its own, and the means that are reported.

  The runs of teacher and student are independent, so that most of `loss/phi` stays whatever the coefficients are:
  `loss/excess` is what the coefficients that fit this batch best would take off it.
  """
  losses = {"loss/phi": fit_loss(parts["phi"], found.scores, relative=relative)}
  least = fit_loss(fitted(found.scores, parts["phi"]), found.scores, relative=relative)
  excess = {"loss/excess": jnp.mean(losses["loss/phi"] - least)}
  if "sizes" in parts:
    kappa = step_sizes(parts["sizes"], t_min=t_min)
    losses["loss/sizes"] = fit_loss(kappa, found.transitions, relative=relative)
  means = {name: jnp.mean(loss) for name, loss in losses.items()}
  return sum(jnp.sum(loss) for loss in losses.values()), means | excess


def _check_concrete(graph: Graph, score: jax.Array, x: jax.Array) -> None:
  """Refuses what cannot be ratios of probabilities. Scores that are being traced pass."""
  check_score("score_fn", graph, score, x)
  if isinstance(score, jax.core.Tracer):
    return
  own = jnp.take_along_axis(score, x[..., None], axis=-1)
  if not bool(jnp.all(jnp.isfinite(score))):
    raise ValueError("score_fn: scores of noise are not finite; the teacher's parameters may hold NaN")
  if bool(jnp.any(score < 0)) or not bool(jnp.all(jnp.abs(own - 1) < 1e-3)):
    raise ValueError(
      "score_fn: scores must be ratios of probabilities, at least 0 and 1 at the current token; take the exponential "
      "of log-scores"
    )
