"""Targets that one or two steps of a teacher give a student at another point of the same trajectory."""

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.diffusion.samplers import Denoise, ddim_step, heun_step
from jdistill.diffusion.schedules import Schedule, add_noise, per_example


def progressive_target(
  schedule: Schedule, teacher: Denoise, x_t: jax.Array, t: jax.Array, middle: jax.Array, s: jax.Array
) -> jax.Array:
  """The `x_0` with which one DDIM step from `t` to `s` ends where the teacher's two steps end.

      x~ = (x_s - sigma_s / sigma_t x_t) / (alpha_s - sigma_s / sigma_t alpha_t)

  with `x_s` after the teacher's steps `t -> middle -> s`.

  Args:
    schedule: the forward process.
    teacher: `(x_t, t) -> x_0`.
    x_t: `[B, ...]` noisy data.
    t, middle, s: `[B]`, decreasing.

  Returns:
    `[B, ...]`; no gradient.

  References:
    Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models" (arXiv 2202.00512), alg. 2.
  """
  half = ddim_step(schedule, x_t, teacher(x_t, t), t, middle)
  x_s = ddim_step(schedule, half, teacher(half, middle), middle, s)
  ratio = schedule.sigma(s) / schedule.sigma(t)
  factor = per_example(schedule.alpha(s) - ratio * schedule.alpha(t), x_t)
  return lax.stop_gradient((x_s - per_example(ratio, x_t) * x_t) / factor)


def truncated_snr_weight(schedule: Schedule, t: jax.Array) -> jax.Array:
  """`max(alpha^2 / sigma^2, 1)`, progressive distillation's weight of `x_0` errors (arXiv 2202.00512, eq. 9)."""
  return jnp.maximum(schedule.noise_ratio(t) ** -2, 1.0)


def signal_ratio(schedule: Schedule, s: jax.Array, t: jax.Array) -> jax.Array:
  """`r = sigma_s alpha_t / (alpha_s sigma_t)`, in [0, 1) for `s` < `t`: the share of `y_t` that a step keeps."""
  return schedule.noise_ratio(s) / schedule.noise_ratio(t)


def boot_target(
  schedule: Schedule,
  teacher: Denoise,
  signal: jax.Array,
  eps: jax.Array,
  t: jax.Array,
  s: jax.Array,
  *,
  solver: str = "ddim",
) -> jax.Array:
  """The signal at `s` after one step of the teacher from a student's signal at `t`.

  Of a deterministic trajectory `x_t = alpha_t y_t + sigma_t eps` that starts in `eps`, the signal is `y_t`; along it
  `y_s = (1 - r) f(x_t, t) + r y_t` is the DDIM step, with `signal_ratio` `r` and the teacher's prediction `f`.

  Args:
    schedule: the forward process.
    teacher: `(x_t, t) -> x_0`.
    signal: `[B, ...]`, the student's `y_t`.
    eps: `[B, ...]`, the noise of the trajectory.
    t, s: `[B]`, `s` before `t`.
    solver: `"ddim"`, or `"heun"` for a step of second order, which asks the teacher twice.

  Returns:
    `[B, ...]`; no gradient.

  Raises:
    ValueError: an unknown solver.

  References:
    Gu et al., "BOOT: Data-free Distillation of Denoising Diffusion Models with Bootstrapping" (arXiv 2306.05544),
    eq. 7 to 9 (numbers unverified).
  """
  if solver not in ("ddim", "heun"):
    raise ValueError(f"boot_target: solver must be ddim or heun, got {solver!r}")
  alpha_t, sigma_t, alpha_s, sigma_s = (
    per_example(of(when), signal) for when in (t, s) for of in (schedule.alpha, schedule.sigma)
  )
  x_t = alpha_t * signal + sigma_t * eps
  if solver == "heun":
    x_s = heun_step(schedule, teacher, x_t, t, s)
    return lax.stop_gradient((x_s - sigma_s * eps) / alpha_s)
  ratio = per_example(signal_ratio(schedule, s, t), signal)
  return lax.stop_gradient(signal + (1 - ratio) * (teacher(x_t, t) - signal))


def consistency_target(
  schedule: Schedule, teacher: Denoise, student: Denoise, x_t: jax.Array, t: jax.Array, s: jax.Array
) -> jax.Array:
  """What a (slow) student makes of the point that one Heun step of the teacher reaches from `t` at `s`.

  Args:
    schedule: the forward process.
    teacher: `(x_t, t) -> x_0`.
    student: the same of the student whose prediction is the target: its average, or itself.
    x_t: `[B, ...]` noisy data.
    t, s: `[B]`, neighbours on the grid, `s` before `t`.

  Returns:
    `[B, ...]`; no gradient.

  References:
    Song et al., "Consistency Models" (arXiv 2303.01469), alg. 2.
  """
  return lax.stop_gradient(student(heun_step(schedule, teacher, x_t, t, s), s))


def alignment_target(schedule: Schedule, teacher: Denoise, x: jax.Array, eps: jax.Array, t: jax.Array) -> jax.Array:
  """What a teacher makes of a student's own samples once they are noised: `f(alpha_t x + sigma_t eps, t)`.

  At high times it corrects the layout of a sample, at low ones its texture.

  Args:
    schedule: the forward process.
    teacher: `(x_t, t) -> x_0`, with the condition of each sample.
    x: `[B, ...]` the student's samples.
    eps: `[B, ...]` noise.
    t: `[B]`.

  Returns:
    `[B, ...]`; no gradient.

  References:
    "EchoDistill: Bidirectional Concept Distillation for One-Step Diffusion Personalization" (arXiv 2510.20512).
  """
  x = lax.stop_gradient(x)
  return lax.stop_gradient(teacher(add_noise(schedule, x, eps, t), t))
