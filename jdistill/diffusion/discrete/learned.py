"""Learned samplers of tokens (LSD, LSD+): coefficients and step sizes of few steps, fitted to the scores of many.

The score network is frozen, and samples are drawn, not differentiated: each loss is a least-squares problem in one
number. Sums over batch, positions and states are all that it needs, so scores are never stored.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdistill.base import Key
from jdistill.diffusion.discrete.graphs import Graph
from jdistill.diffusion.discrete.noise import TokenNoise
from jdistill.diffusion.discrete.sampling import ScoreFn, StepFn, draw, scaled_score
from jdistill.ops.checks import check_number, check_same_shape, known
from jdistill.ops.precision import widen

ROWS = ("all", "active")
TARGETS = ("teacher_step", "interval_sum")


class LeastSquares(NamedTuple):
  """The sums of `E (c s - target)^2` as a function of the number `c`.

  Attributes:
    square: `<s, s>`.
    cross: `<target, s>`.
    target: `<target, target>`.
    count: how many entries are summed.
  """

  square: jax.Array
  cross: jax.Array
  target: jax.Array
  count: jax.Array


def least_squares(s: jax.Array, target: jax.Array, where: jax.Array | None = None) -> LeastSquares:
  """The sums of a student's scores and their targets.

  Args:
    s, target: `[B, L, states]`; no gradient passes through either.
    where: of the same shape, which entries count; `None` for all. What stands in others reaches nothing.

  Raises:
    ValueError: shapes that differ.
  """
  check_same_shape("least_squares", s=s, target=target, **({} if where is None else {"where": where}))
  s, target = (jax.lax.stop_gradient(widen(x)) for x in (s, target))
  where = jnp.ones(s.shape, bool) if where is None else jnp.asarray(where).astype(bool)
  s, target = jnp.where(where, s, 0), jnp.where(where, target, 0)
  return LeastSquares(jnp.sum(s * s), jnp.sum(target * s), jnp.sum(target * target), jnp.sum(where, dtype=s.dtype))


def fit_loss(coefficient: jax.Array, sums: LeastSquares, *, relative: bool = False) -> jax.Array:
  """`mean (c s - target)^2`, a scalar, or with `relative` its ratio to `mean target^2`; 0 where nothing counts.

  Scores grow as noise falls, and so does the curvature of the loss: relative losses suit one learning rate for all
  steps.
  """
  error = coefficient**2 * sums.square - 2 * coefficient * sums.cross + sums.target
  scale = sums.target if relative else sums.count
  return jnp.where(scale > 0, error / jnp.where(scale > 0, scale, 1), 0)


def fitted(sums: LeastSquares, otherwise: jax.Array = 1.0) -> jax.Array:
  """The coefficient of the least loss, `<target, s> / <s, s>`; `otherwise` where all `s` are 0."""
  some = sums.square > 0
  return jnp.where(some, sums.cross / jnp.where(some, sums.square, 1), otherwise)


def lsd_loss(phi: jax.Array, s: jax.Array, s_star: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
  """The loss of one step's coefficient: `L_k = mean (phi_k s_k - s*_k)^2` over batch, positions and states.

  Args:
    phi: a scalar, the coefficient that learns.
    s: `[B, L, states]`, the score at the student's samples; with `apply_to="log_score"` its log.
    s_star: `[B, L, states]`, the same at the teacher's samples of this time.
    where: as for `least_squares`.

  Returns:
    A scalar. Its gradient reaches `phi` alone.

  Raises:
    ValueError: shapes that differ.

  References:
    Fu et al., "Learnable Sampler Distillation for Discrete Diffusion Models" (arXiv 2509.19962), alg. 1.
  """
  return fit_loss(phi, least_squares(s, s_star, where))


def lsd_phi(s: jax.Array, s_star: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
  """Where `lsd_loss` is least: `<s*, s> / <s, s>`, a scalar; 1 where all `s` are 0."""
  return fitted(least_squares(s, s_star, where))


def lsd_plus_loss(kappa: jax.Array, s: jax.Array, target: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
  """The loss of one step's size: `mean (kappa_k s(x_tau, tau_k) - target_k)^2`.

  Args:
    kappa: a scalar, the step size that learns.
    s: `[B, L, states]`, the score at the student's samples and the student's time `tau_k`.
    target: `[B, L, states]`. The paper's is one step of the teacher, `(T - eps) / N s*(x*, t_k)`, which is smaller than
      a step of the student by a factor `N / M`; the sum of such terms over the student's interval is the alternative.
    where: as for `least_squares`.

  Returns:
    A scalar. Its gradient reaches `kappa` alone.

  References:
    Fu et al. (arXiv 2509.19962), alg. 2.
  """
  return fit_loss(kappa, least_squares(s, target, where))


def step_sizes(weights: jax.Array, *, t_max: float = 1.0, t_min: float = 1e-5) -> jax.Array:
  """`kappa = (t_max - t_min) softmax(weights)`, `[M]`: positive, and together the whole range of times."""
  return (t_max - t_min) * jax.nn.softmax(widen(weights))


def step_times(kappa: jax.Array, *, t_max: float = 1.0) -> jax.Array:
  """`tau_0 = t_max`, `tau_{k + 1} = tau_k - kappa_k`: `[M + 1]` times.

  Raises:
    ValueError: a known step size that is not above 0.
  """
  kappa = widen(kappa)
  if known(kappa) and not bool(jnp.all(kappa > 0)):
    k = int(jnp.argmax(~(kappa > 0)))
    raise ValueError(f"step_times: step sizes must be above 0, got {float(kappa[k]):g} for step {k}")
  return t_max - jnp.concatenate([jnp.zeros(1, kappa.dtype), jnp.cumsum(kappa)])


def check_steps(steps: int, teacher_steps: int) -> None:
  """Raises `ValueError` unless the student's times are among the teacher's."""
  if not 1 <= steps <= teacher_steps:
    raise ValueError(f"steps={steps}: must be from 1 to the teacher's {teacher_steps}")
  if teacher_steps % steps:
    raise ValueError(
      f"steps={steps}: must divide the teacher's {teacher_steps}, so that both meet at the student's times"
    )


def hamming_perturb(key: Key, x: jax.Array, share: float, tokens: int) -> jax.Array:
  """A copy of rows in which `floor(share L)` random tokens differ: the relaxed start, for training alone.

  A mask becomes any token, a token any other one. The release takes `ceil(share L)`.

  Args:
    key: decides positions and tokens.
    x: `[B, L]`.
    share: of the positions, in [0, 1).
    tokens: how many tokens occur in data, at least 2.

  Raises:
    ValueError: a share outside [0, 1), or too few tokens.

  References:
    Fu et al. (arXiv 2509.19962), sec. 4.2.
  """
  check_number("hamming_perturb", "share", share, lambda value: 0 <= value < 1, "in [0, 1)")
  if tokens < 2:
    raise ValueError(f"hamming_perturb: tokens must be at least 2, got {tokens}")
  count = int(share * x.shape[1] + 1e-9)  # 0.3 of 10 are 3
  key_place, key_token = jax.random.split(key)
  places = jnp.argsort(jax.random.uniform(key_place, x.shape), axis=1)[:, :count]
  changed = jnp.zeros(x.shape, bool).at[jnp.arange(x.shape[0])[:, None], places].set(True)
  others = jnp.where(x < tokens, tokens - 1, tokens)
  new = jax.random.randint(key_token, x.shape, 0, others.astype(x.dtype), x.dtype)
  new = jnp.where(new >= x, new + 1, new)  # every token but the present one, equally often
  return jnp.where(changed, new, x)


class Sweep(NamedTuple):
  """What teacher and student did side by side.

  Attributes:
    phi: `[M]`, the coefficients that the student's steps used.
    scores: `LeastSquares` of `[M]`, of student's scores to the teacher's at the same step.
    transitions: the same of student's scores to the teacher's transition terms; for step sizes.
    student, teacher: `[B, L]`, tokens at the end.
  """

  phi: jax.Array
  scores: LeastSquares
  transitions: LeastSquares
  student: jax.Array
  teacher: jax.Array


def lsd_sweep(
  key: Key,
  score_fn: ScoreFn,
  graph: Graph,
  noise: TokenNoise,
  step: StepFn,
  teacher_times: jax.Array,
  student_times: jax.Array,
  phi: jax.Array,
  x_teacher: jax.Array,
  x_student: jax.Array,
  *,
  apply_to: str = "score",
  rows: str = "all",
  target: str = "teacher_step",
  solve: bool = False,
) -> Sweep:
  """Runs teacher and student side by side and sums what the fits of all steps need.

  Args:
    key: of both runs, with draws of their own.
    score_fn, noise, step: see `jdistill.diffusion.discrete.run_sampler`.
    graph: the forward process.
    teacher_times: `[N + 1]`.
    student_times: `[M + 1]`, M divides N. Of LSD they are every `N / M`-th of the teacher's.
    phi: `[M]`.
    x_teacher, x_student: `[B, L]`, where each starts.
    apply_to: see `jdistill.diffusion.discrete.scaled_score`.
    rows: `"all"` entries of all tokens count (the paper), or `"active"`: those of jumps that the reversed process can
      make, from the student's token and from the teacher's; of masks in both runs in the absorbing graph. The entry at
      the student's current token never counts, since no coefficient changes it. Scores of tokens that are not masked
      are large and mean nothing to the absorbing sampler: with `"all"` they can outweigh the others.
    target: of `transitions`, `"teacher_step"` (the paper) or `"interval_sum"`; see `lsd_plus_loss`. With `"active"`
      rows a sum has the terms of jumps that the teacher can make at the time.
    solve: whether each step uses the coefficient that fits best given the samples so far, in the place of `phi`.

  Returns:
    `Sweep`. `N + M` evaluations of the score.

  Raises:
    ValueError: unknown names, M that does not divide N, or another number of coefficients.
  """
  check_steps(student_times.shape[0] - 1, teacher_times.shape[0] - 1)
  _check_names(rows, target)
  steps, each = phi.shape[0], (teacher_times.shape[0] - 1) // phi.shape[0]
  if steps != student_times.shape[0] - 1:
    raise ValueError(f"lsd_sweep: phi has {steps} coefficients for {student_times.shape[0] - 1} steps")
  key_teacher, key_student = jax.random.split(key)

  def scores_at(x, t):
    return widen(score_fn(x, jnp.broadcast_to(noise.sigma(t), x.shape[:1])))

  def teach(carry, j):
    x, total, first_score = carry
    t, s = teacher_times[j], teacher_times[j + 1]
    score, first = scores_at(x, t), j % each == 0
    new = draw(jax.random.fold_in(key_teacher, j), step(x, score, t, s))
    term = (t - s).astype(score.dtype) * score
    if rows == "active":
      term = jnp.where(_jumps(graph, x), term, 0)
    total = total + (term if target == "interval_sum" else jnp.where(first, term, 0))
    return (new.astype(x.dtype), total, jnp.where(first, score, first_score)), None

  def body(carry, k):
    x_star, x = carry
    t, following = student_times[k], student_times[k + 1]
    s = scores_at(x, t)
    start, none = x_star, jnp.zeros_like(s)
    (x_star, total, s_star), _ = jax.lax.scan(teach, (start, none, none), k * each + jnp.arange(each))
    counted = _counted(graph, x, start, rows)
    pair = (jnp.log(s), jnp.log(s_star)) if apply_to == "log_score" else (s, s_star)
    sums = least_squares(*pair, counted)
    used = fitted(sums) if solve else phi[k].astype(s.dtype)
    new = draw(jax.random.fold_in(key_student, k), step(x, scaled_score(s, x, used, apply_to), t, following))
    return (x_star, new.astype(x.dtype)), (used, sums, least_squares(s, total, counted))

  (teacher, student), (used, scores, transitions) = jax.lax.scan(body, (x_teacher, x_student), jnp.arange(steps))
  return Sweep(used, scores, transitions, student, teacher)


def _check_names(rows: str, target: str) -> None:
  if rows not in ROWS:
    raise ValueError(f"lsd_sweep: rows must be one of {', '.join(ROWS)}, got {rows!r}")
  if target not in TARGETS:
    raise ValueError(f"lsd_sweep: target must be one of {', '.join(TARGETS)}, got {target!r}")


def _jumps(graph: Graph, x: jax.Array) -> jax.Array:
  """Which entries `[B, L, states]` are jumps that the reversed process can make."""
  return ~jax.nn.one_hot(x, graph.states, dtype=bool) & (graph.transposed_rate(x) > 0)


def _counted(graph: Graph, x: jax.Array, x_star: jax.Array, rows: str) -> jax.Array:
  """Which entries `[B, L, states]` count."""
  if rows == "all":
    return ~jax.nn.one_hot(x, graph.states, dtype=bool)
  return _jumps(graph, x) & _jumps(graph, x_star)
