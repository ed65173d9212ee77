"""Losses of denoisers, and of generators that learn from the difference of two of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import masked_mean
from jdistill.ops.checks import check_at_least, check_positive, check_rank, check_same_shape, keep, row_mask
from jdistill.ops.precision import widen

NORMALIZERS = ("dmd", "none")


def denoising_loss(
  prediction: jax.Array, target: jax.Array, weight: jax.Array | None = None, *, where: jax.Array | None = None
) -> jax.Array:
  """`w / D sum_d (prediction_d - target_d)^2` per example, over all `D` elements of it.

  Of predictions of `x_0` and data it is the loss of denoisers (EDM, arXiv 2206.00364, eq. 2, divided by `D`), with
  `jdistill.diffusion.edm_weight` as the weight.

  Args:
    prediction: `[B, ...]`.
    target: `[B, ...]`; no gradient.
    weight: `[B]`, `None` for 1.
    where: `[B]`, false for padding, whose loss is 0.

  Returns:
    `[B]`.

  Raises:
    ValueError: shapes that differ, or a weight that is not `[B]`.
  """
  error, kept = _difference("denoising_loss", prediction, target, where)
  values = jnp.mean(jnp.square(error), axis=tuple(range(1, error.ndim)))
  return _weighted("denoising_loss", values, weight, kept)


def pseudo_huber(
  prediction: jax.Array,
  target: jax.Array,
  weight: jax.Array | None = None,
  *,
  scale: float | None = None,
  where: jax.Array | None = None,
) -> jax.Array:
  """`w (sqrt(|prediction - target|^2 + c^2) - c)` per example: consistency models' distance (arXiv 2310.14189, eq. 8).

  Args:
    prediction: `[B, ...]`.
    target: `[B, ...]`; no gradient.
    weight: `[B]`, `None` for 1.
    scale: `c`, positive; the paper's `0.00054 sqrt(D)` where open.
    where: `[B]`, false for padding, whose loss is 0.

  Returns:
    `[B]`.

  Raises:
    ValueError: shapes that differ, or a scale that is not positive.
  """
  error, kept = _difference("pseudo_huber", prediction, target, where)
  scale = 0.00054 * float(np.sqrt(max(error[0].size, 1))) if scale is None else scale
  check_positive("pseudo_huber", scale=scale)
  values = jnp.sqrt(jnp.sum(jnp.square(error), axis=tuple(range(1, error.ndim))) + scale**2) - scale
  return _weighted("pseudo_huber", values, weight, kept)


def score_distillation_grad(
  x: jax.Array,
  x0_real: jax.Array,
  x0_fake: jax.Array,
  *,
  normalize: str = "dmd",
  weight: jax.Array | None = None,
  eps: float = 0.0,
) -> jax.Array:
  """The direction that samples of a generator are moved against: `(mu_fake(x_t) - mu_real(x_t)) / n(x)`.

  Both denoisers are asked at the same noisy `x_t` of `x`. In terms of scores it is
  `sigma_t^2 / alpha_t (s_real - s_fake)` with the sign turned, the gradient in `x_0` of `KL(p_fake_t || p_real_t)` up
  to a positive factor.

  - `"dmd"`: `n = mean_d |x - mu_real(x_t)|`, one number per example (DMD2, arXiv 2405.14867; DMD, arXiv 2311.18828,
    eq. 8).
  - `"none"`: `n = 1` (Diff-Instruct, arXiv 2305.18455, with `weight` for its `w(t)`).

  What is NaN becomes 0, and what is infinite the largest number of its type, as in DMD2's code; count it beforehand by
  `jnp.isfinite` where this should not happen silently.

  Args:
    x: `[B, ...]` samples of the generator.
    x0_real, x0_fake: `[B, ...]` predictions of the teacher and of the denoiser that follows the generator.
    normalize: `"dmd"` or `"none"`.
    weight: `[B]`, a factor of each example; `None` for 1.
    eps: added to the denominator; the paper has 0, later code 1e-6.

  Returns:
    `[B, ...]`, in float32 (float64 of such inputs); no gradient passes through it.

  Raises:
    ValueError: shapes that differ, an unknown normalisation, or a negative `eps`.
  """
  name = "score_distillation_grad"
  check_same_shape(name, x=x, x0_real=x0_real, x0_fake=x0_fake)
  check_at_least(name, 0, eps=eps)
  if normalize not in NORMALIZERS:
    raise ValueError(f"{name}: normalize must be one of {', '.join(NORMALIZERS)}, got {normalize!r}")
  x, real, fake = (jax.lax.stop_gradient(widen(side)) for side in (x, x0_real, x0_fake))
  grad = fake - real
  if normalize == "dmd":
    axes = tuple(range(1, x.ndim))
    grad = grad / (jnp.mean(jnp.abs(x - real), axis=axes, keepdims=True) + eps)
  if weight is not None:
    check_rank(name, "weight", weight, 1)
    grad = grad * jax.lax.stop_gradient(widen(weight)).reshape(-1, *(1,) * (x.ndim - 1))
  return jnp.nan_to_num(grad)


def loss_from_grad(x: jax.Array, grad: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
  """`0.5 mean (x - stop_gradient(x - grad))^2`: a loss whose gradient in `x` is `grad / number of elements`.

  Args:
    x: `[B, ...]`.
    grad: `[B, ...]`, the wanted direction.
    where: `[B]`, false for padding.

  Returns:
    A scalar, the mean over all elements of what is not padding.

  Raises:
    ValueError: shapes that differ.
  """
  name = "loss_from_grad"
  x, grad = widen(x), widen(grad)
  check_same_shape(name, x=x, grad=grad)
  kept = row_mask(name, where, x.shape[0])
  x, grad = keep(x, kept), keep(grad, kept)
  # x - (x - grad) would lose the digits of a small direction; this has the same value and gradient
  moved = jax.lax.stop_gradient(grad) + (x - jax.lax.stop_gradient(x))
  return 0.5 * masked_mean(jnp.square(moved), kept)


def gan_generator_loss(fake_logits: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
  """`softplus(-f)` per example: how far generated examples are from passing for real ones.

  Args:
    fake_logits: `[B]`, the discriminator's logits of being real.
    where: `[B]`, false for padding, whose loss is 0.

  Returns:
    `[B]`, in nats.

  Raises:
    ValueError: logits that are not `[B]`.

  References:
    Goodfellow et al., "Generative Adversarial Networks" (arXiv 1406.2661), sec. 3, the loss that does not saturate.
  """
  return _softplus("gan_generator_loss", fake_logits, -1, where)


def gan_discriminator_loss(
  real_logits: jax.Array,
  fake_logits: jax.Array,
  *,
  real_where: jax.Array | None = None,
  fake_where: jax.Array | None = None,
) -> jax.Array:
  """`mean softplus(-r) + mean softplus(f)`: the binary cross entropy of real and generated examples.

  Args:
    real_logits: `[B]`, logits of real examples.
    fake_logits: `[B']`, of generated ones.
    real_where, fake_where: `[B]`, `[B']`, false for padding.

  Returns:
    A scalar in nats.

  Raises:
    ValueError: logits that are not `[B]`.
  """
  name = "gan_discriminator_loss"
  real = masked_mean(_softplus(name, real_logits, -1, real_where), real_where)
  return real + masked_mean(_softplus(name, fake_logits, 1, fake_where), fake_where)


def gradient_penalty(
  realness: Callable[[jax.Array], jax.Array], x: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """`|grad_x D(x)|^2` per example: R1, which keeps a discriminator of few real examples flat around them.

  Args:
    realness: `D`, `[B, ...] -> [B]` logits, each of its own example alone.
    x: `[B, ...]` real examples.
    where: `[B]`, false for padding, whose penalty is 0.

  Returns:
    `[B]`; differentiable in what `realness` closes over.

  Raises:
    ValueError: logits that are not `[B]`.

  References:
    Mescheder et al., "Which Training Methods for GANs do actually Converge?" (arXiv 1801.04406), eq. 9 without its
    factor 1/2.
  """
  name, x = "gradient_penalty", widen(x)
  kept = row_mask(name, where, x.shape[0])

  def total(x: jax.Array) -> jax.Array:
    logits = widen(realness(x))
    check_rank(name, "logits", logits, 1)
    return jnp.sum(logits)

  slope = jax.grad(total)(keep(x, kept))
  return keep(jnp.sum(jnp.square(slope), axis=tuple(range(1, slope.ndim))), kept)


def _softplus(name: str, logits: jax.Array, sign: int, where: jax.Array | None) -> jax.Array:
  logits = widen(logits)
  check_rank(name, "logits", logits, 1)
  kept = row_mask(name, where, logits.shape[0])
  return keep(jax.nn.softplus(sign * keep(logits, kept)), kept)


def _difference(name: str, prediction, target, where) -> tuple[jax.Array, jax.Array]:
  """Prediction minus target, which has no gradient, with zeros where it is padding; and the mask."""
  prediction, target = widen(prediction), jax.lax.stop_gradient(widen(target))
  check_same_shape(name, prediction=prediction, target=target)
  if prediction.ndim < 2:
    raise ValueError(f"{name}: needs [B, ...] with elements per example, got {prediction.shape}")
  kept = row_mask(name, where, prediction.shape[0])
  return keep(prediction, kept) - keep(target, kept), kept


def _weighted(name: str, values: jax.Array, weight: jax.Array | None, kept: jax.Array) -> jax.Array:
  if weight is None:
    return keep(values, kept)
  check_rank(name, "weight", weight, 1)
  return keep(values * keep(widen(weight), kept), kept)
