"""From noise to samples: deterministic solvers of the probability flow, and loops that add fresh noise.

Samplers take `denoise`, `(x_t [B, ...], t [B]) -> x_0 prediction [B, ...]`, whatever its network predicts inside.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.diffusion.schedules import Schedule, add_noise, per_example

Denoise = Callable[[jax.Array, jax.Array], jax.Array]
Draw = Callable[[jax.Array], jax.Array]

SOLVERS = ("ddim", "heun", "euler")


def ddim_step(schedule: Schedule, x_t: jax.Array, x0: jax.Array, t: jax.Array, s: jax.Array) -> jax.Array:
  """`x_s = alpha_s x_0 + sigma_s (x_t - alpha_t x_0) / sigma_t`, the deterministic step from `t` to `s` < `t`.

  It is Euler's step in `sigma / alpha` for `x / alpha`: exact where the prediction does not change on the way. For
  `"edm"` and `"rectified_flow"` it is Euler's step in `t` as well.

  Args:
    schedule: the forward process.
    x_t: `[B, ...]`.
    x0: `[B, ...]`, the prediction at `x_t`.
    t, s: `[B]` or scalars.

  Returns:
    `[B, ...]`.

  References:
    Song et al., "Denoising Diffusion Implicit Models" (arXiv 2010.02502), eq. 12 with no noise.
  """
  alpha_t, sigma_t, alpha_s, sigma_s = (
    per_example(of(when), x_t) for when in (t, s) for of in (schedule.alpha, schedule.sigma)
  )
  return alpha_s * x0 + sigma_s / sigma_t * (x_t - alpha_t * x0)


def heun_step(schedule: Schedule, denoise: Denoise, x_t: jax.Array, t: jax.Array, s: jax.Array) -> jax.Array:
  """A step of second order from `t` to `s`: the mean of the slopes at both ends, in `sigma / alpha` for `x / alpha`.

  For `"edm"` it is the deterministic sampler of EDM (arXiv 2206.00364, alg. 1). Asks the denoiser twice.

  Args:
    schedule: the forward process.
    denoise: see the module.
    x_t: `[B, ...]`.
    t, s: `[B]` or scalars.

  Returns:
    `[B, ...]`.
  """
  first = denoise(x_t, _rows(t, x_t))
  euler = ddim_step(schedule, x_t, first, t, s)
  second = denoise(euler, _rows(s, x_t))
  alpha_t, alpha_s, level_t, level_s = (
    per_example(of(when), x_t) for of in (schedule.alpha, schedule.noise_ratio) for when in (t, s)
  )
  slopes = (x_t / alpha_t - first) / level_t + (euler / alpha_s - second) / level_s
  return alpha_s * (x_t / alpha_t + (level_s - level_t) * slopes / 2)


def euler_step(schedule: Schedule, x_t: jax.Array, x0: jax.Array, t: jax.Array, s: jax.Array) -> jax.Array:
  """`x_s = x_t + (s - t) (alpha'(t) x_0 + sigma'(t) eps)`, Euler's step of the probability flow in `t` itself.

  Args:
    schedule: the forward process.
    x_t: `[B, ...]`.
    x0: `[B, ...]`, the prediction at `x_t`.
    t, s: scalars.

  Returns:
    `[B, ...]`.
  """
  t = jnp.asarray(t, x_t.dtype)
  eps = (x_t - schedule.alpha(t) * x0) / schedule.sigma(t)
  return x_t + (s - t) * (jax.grad(schedule.alpha)(t) * x0 + jax.grad(schedule.sigma)(t) * eps)


def ode_sample(schedule: Schedule, denoise: Denoise, x: jax.Array, steps: int, *, solver: str = "ddim") -> jax.Array:
  """Samples from noise by `steps` deterministic steps, the last of which is the prediction itself.

  The times are `schedule.grid(steps)`; one step is `denoise(x, t_max)`.

  Args:
    schedule: the forward process.
    denoise: see the module.
    x: `[B, ...]` at `t_max`: `sigma(t_max)` times standard normal noise (see `prior`).
    steps: how many.
    solver: `"ddim"` or `"euler"` (`steps` evaluations of the denoiser), or `"heun"` (`2 steps - 1`).

  Returns:
    `[B, ...]`.

  Raises:
    ValueError: an unknown solver, or no step.
  """
  if solver not in SOLVERS:
    raise ValueError(f"ode_sample: solver must be one of {', '.join(SOLVERS)}, got {solver!r}")
  times = schedule.grid(steps).astype(x.dtype)

  def step(x: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    t, s = pair
    if solver == "heun":
      return heun_step(schedule, denoise, x, t, s), None
    one = ddim_step if solver == "ddim" else euler_step
    return one(schedule, x, denoise(x, _rows(t, x)), t, s), None

  x, _ = lax.scan(step, x, (times[:-1], times[1:]))
  return denoise(x, _rows(times[-1], x))


def evaluations(steps: int, solver: str = "ddim") -> int:
  """How often `ode_sample` asks the denoiser (NFE)."""
  return 2 * steps - 1 if solver == "heun" else steps


def prior(schedule: Schedule, eps: jax.Array) -> jax.Array:
  """Where samplers start: `sigma(t_max) eps`, for standard normal `eps`."""
  return schedule.sigma(schedule.t_max).astype(eps.dtype) * eps


def renoise_sample(schedule: Schedule, generate: Denoise, draw: Draw, x: jax.Array, times: jax.Array) -> jax.Array:
  """Several steps of a one-step generator: predict `x_0`, add fresh noise of the next time, and so on.

  How consistency models (arXiv 2303.01469, alg. 1) and students of DMD2 (arXiv 2405.14867, sec. 4.4) take more than
  one step.

  Args:
    schedule: the forward process.
    generate: `(x_t, t) -> x_0`.
    draw: `(number of the step) -> [B, ...]`, its fresh noise.
    x: `[B, ...]` at `times[0]`.
    times: `[n]`, decreasing.

  Returns:
    `[B, ...]`, the prediction at the last time.
  """
  x = backward_simulate(schedule, generate, draw, x, times, len(times) - 1)
  return generate(x, _rows(times[-1], x))


def backward_simulate(
  schedule: Schedule, generate: Denoise, draw: Draw, x: jax.Array, times: jax.Array, index: jax.Array
) -> jax.Array:
  """What a generator of several steps sees at its step `index`, in the way it is sampled from.

  Training on this, instead of on noisy data, closes the gap between training and sampling (DMD2, arXiv 2405.14867,
  sec. 4.5).

  Args:
    schedule: the forward process.
    generate: `(x_t, t) -> x_0`.
    draw: `(number of the step) -> [B, ...]`, its fresh noise.
    x: `[B, ...]` at `times[0]`.
    times: `[n]`, decreasing.
    index: scalar int in `[0, n)`, one for the whole batch; may be traced.

  Returns:
    `[B, ...]` at `times[index]`; no gradient passes through it.
  """
  times = jnp.asarray(times, x.dtype)

  def step(x: jax.Array, here: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    number, s = here

    def on() -> jax.Array:
      return add_noise(schedule, generate(x, _rows(times[number], x)), draw(number), s).astype(x.dtype)

    return lax.cond(number < index, on, lambda: x), None

  if len(times) > 1:
    x, _ = lax.scan(step, x, (jnp.arange(len(times) - 1), times[1:]))
  return lax.stop_gradient(x)


def guided(conditional: Denoise, unconditional: Denoise, scale: float | jax.Array) -> Denoise:
  """Classifier-free guidance, `u + scale (c - u)` of the two predictions: 1 is none (arXiv 2207.12598, other scale).

  The paper's `w` is `scale - 1`.

  Args:
    conditional, unconditional: denoisers.
    scale: not negative; may be traced.

  Raises:
    ValueError: a negative scale.
  """
  if isinstance(scale, int | float) and scale < 0:
    raise ValueError(f"guided: scale must not be negative, got {scale}")

  def denoise(x_t: jax.Array, t: jax.Array) -> jax.Array:
    base = unconditional(x_t, t)
    return base + scale * (conditional(x_t, t) - base)

  return denoise


def _rows(t: jax.Array, like: jax.Array) -> jax.Array:
  return jnp.broadcast_to(jnp.asarray(t, like.dtype), like.shape[:1])
