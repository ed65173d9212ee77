"""Score networks of tokens that learn from data (SEDD), and learned samplers of them (LSD, LSD+) as recipes."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from jdistill import losses
from jdistill.base import Key, Network, PyTree, UserError, Variables
from jdistill.diffusion import discrete
from jdistill.diffusion.discrete import NoisyTokens, TokenDraws, TokenScore
from jdistill.diffusion.discrete.learned import ROWS, TARGETS
from jdistill.diffusion.discrete.sampling import APPLY_TO, ScoreFn
from jdistill.methods.diffusion.lsd import STEPS, check_sampler_steps, swept, total_loss
from jdistill.methods.knowledge.recipe import Own, OwnInputs, OwnUpdate, Recipe
from jdistill.schema import Above, Count, NonNegative, Range, validated

_SAMPLING = 20251022  # the same rows get the same random numbers in all samplers

Sampler = Literal["euler", "tweedie"]
End = Annotated[float, Above(0), Range(high=0.5)]


def token_score_of(network: Network) -> TokenScore:
  """What is known of a score network.

  Raises:
    UserError: the network is none.
  """
  if network.token_score is None:
    raise UserError("network: gives no scores of tokens; choose 'score_transformer'")
  return network.token_score


def score_fn(network: Network, params: PyTree) -> ScoreFn:
  """A network with its parameters as `(x [B, L], sigma [B]) -> concrete score [B, L, states]`."""
  return lambda x, sigma: jnp.exp(network.apply(params, NoisyTokens(x, sigma)).logits)


@validated("method")
def sedd(
  *,
  sample_steps: Count = 256,
  sampler: Sampler = "euler",
  phi: NonNegative = 1.0,
  t_min: End = 1e-5,
  copied: bool = False,
) -> Recipe:
  """A score network of tokens: score entropy at one random time per row (SEDD, arXiv 2310.16834, alg. 1).

  Rows are `[B, L]` tokens. The loss is `sum_l sigma'(t) score_entropy_l / L`, nats per token up to a constant; times
  are at least 1e-3, as in the release.

  Args:
    sample_steps: of its sampler, which asks it once more for the last denoising.
    sampler: `"euler"` or `"tweedie"`.
    phi: coefficient of the scores in all steps; the rival of learned samplers that costs one search.
    t_min: where the sampler ends.
    copied: a copy of the teacher that is not trained: the reference for samplers of as many steps.
  """

  def update(inputs: OwnInputs) -> OwnUpdate:
    known, x0 = token_score_of(inputs.network), inputs.batch.x

    def loss(params: PyTree) -> jax.Array:
      logs = lambda x, sigma: inputs.network.apply(params, NoisyTokens(x, sigma), train=True).logits  # noqa: E731
      rows = discrete.score_entropy_loss(inputs.key, logs, known.graph, known.noise, x0)
      return losses.masked_mean(rows / x0.shape[1], inputs.where)

    own = inputs.params["student"]
    if copied:
      return OwnUpdate({"loss/entropy": loss(own)}, {"student": jax.tree.map(jnp.zeros_like, own)}, {"student": False})
    value, grad = jax.value_and_grad(loss)(own)
    return OwnUpdate({"loss/entropy": value}, {"student": grad})

  def sample(network: Network, variables: dict[str, Variables], draws: TokenDraws) -> jax.Array:
    times = discrete.time_grid(sample_steps, t_min=t_min)
    return _rows(network, variables["student"].params, sampler, draws, times, jnp.full(sample_steps, phi), "score")

  needs = ("teacher", "labels") if copied else ("labels",)
  return Recipe({}, own=Own(update, start="teacher" if copied else "random"), sampler=sample, needs=needs)


@validated("method")
def lsd(
  *,
  sampler_steps: Count = 8,
  teacher_steps: Count = 256,
  sampler: Sampler = "euler",
  learn_sizes: bool = False,
  radius: Annotated[float, Range(0, 0.999)] = 0.05,
  apply_to: Literal[APPLY_TO] = "score",
  score_rows: Literal[ROWS] = "all",
  size_target: Literal[TARGETS] = "teacher_step",
  relative: bool = False,
  t_min: End = 1e-5,
) -> Recipe:
  """Learned samplers (LSD; with `learn_sizes` LSD+; arXiv 2509.19962) of a teacher that stays as it is.

  The student is a copy of the teacher that never moves. What learns are the roles `phi` `[M]`, the coefficients of its
  scores, and `sizes` `[M]`, whose softmax the step sizes are, with the run's optimiser; the losses are those of
  `jdistill.methods.diffusion.lsd.lsd`. Of the data only the shape of a batch is read: `N + M` evaluations of the
  teacher for each row of it.

  Args:
    sampler_steps: M, of the student; divides N.
    teacher_steps: N.
    sampler, learn_sizes, radius, apply_to, size_target, relative, t_min: see there.
    score_rows: `rows` there. `"all"` is the paper's;
      with scores that are nearly exact it lets the later coefficients fall towards 0, and `"active"` does not.

  Raises:
    UserError: M that does not divide N or exceeds it; at trace time, a network that gives no scores of tokens.
  """
  check_sampler_steps(sampler_steps, teacher_steps)
  names = ("phi", "sizes") if learn_sizes else ("phi",)
  teacher_times = lambda: discrete.time_grid(teacher_steps, t_min=t_min)  # noqa: E731

  def times_of(parts: dict[str, jax.Array]) -> jax.Array:
    if not learn_sizes:
      return teacher_times()[:: teacher_steps // sampler_steps]
    return jnp.maximum(discrete.step_times(discrete.step_sizes(parts["sizes"], t_min=t_min)), t_min)

  def init(key: Key, network: Network, teachers) -> dict[str, PyTree]:
    del key
    own, other = token_score_of(network), token_score_of(teachers[0][0])
    if own.length != other.length:
      raise UserError(f"student: rows of {own.length} tokens, and its teacher of {other.length}; give both one task")
    start = {"phi": jnp.ones(sampler_steps), "sizes": jnp.zeros(sampler_steps)}
    return {name: start[name] for name in names}

  def update(inputs: OwnInputs) -> OwnUpdate:
    teacher, variables = inputs.teachers[0]
    known, parts = token_score_of(teacher), {name: inputs.params[name] for name in names}
    found = swept(
      inputs.key, score_fn(teacher, variables.params), known.graph, known.noise,
      STEPS[sampler](known.graph, known.noise), teacher_times(), times_of(parts), parts["phi"], inputs.batch.x.shape,
      radius, apply_to=apply_to, rows=score_rows, target=size_target,
    )  # fmt: skip
    grads, metrics = jax.grad(total_loss, has_aux=True)(parts, found, relative, t_min)
    still = jax.tree.map(jnp.zeros_like, inputs.params["student"])
    figures = {"method/phi_least": jnp.min(parts["phi"]), "method/phi_greatest": jnp.max(parts["phi"])}
    return OwnUpdate(metrics | figures, {"student": still, **grads}, {"student": False})

  def sample(network: Network, variables: dict[str, Variables], draws: TokenDraws) -> jax.Array:
    parts = {name: variables[name].params for name in names}
    own = variables["student"].params
    return _rows(network, own, sampler, draws, times_of(parts), parts["phi"], apply_to)

  return Recipe({}, own=Own(update, init, "teacher"), sampler=sample, keeps=names)


def _rows(
  network: Network, params: PyTree, sampler: str, draws: TokenDraws, times: jax.Array, phi: jax.Array, apply_to: str
) -> jax.Array:
  """New rows `[n, L]`, each of which depends on its name alone."""
  known = token_score_of(network)
  step, score = STEPS[sampler](known.graph, known.noise), score_fn(network, params)

  def one(name: jax.Array) -> jax.Array:
    key = jax.random.fold_in(jax.random.key(_SAMPLING), name)
    shape = (1, known.length)
    return discrete.sample_tokens(key, score, known.graph, known.noise, step, times, shape, phi=phi, apply_to=apply_to)

  return jax.vmap(one)(draws.ids)[:, 0]
