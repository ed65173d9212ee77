"""Divergences between the next-token distributions of a teacher and a student, one value per token.

All take logits `[..., classes]`, such as `[B, T, V]`, and return `[...]`: summed over the vocabulary, without a mean.
`reduce_tokens` takes the mean, in one of the three ways that the field has. Mixtures of probabilities are computed from
log-probabilities (`logaddexp`), so that what both sides find impossible stays finite. Masked classes: as in
`jdistill.losses.logit`, whose `kl_divergence` and `reverse_kl` are the two ends of most of these.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdistill.losses._checks import check_inner_share, log_pair, scaled
from jdistill.ops.checks import check_share, keep

Number = float | jax.Array
Summand = Callable[[jax.Array, jax.Array], jax.Array]


def _mixture(first: jax.Array, second: jax.Array, share: Number) -> jax.Array:
  """`log(share exp(first) + (1 - share) exp(second))`."""
  return jnp.logaddexp(jnp.log(share) + first, jnp.log1p(-share) + second)


def _jsd(s, t, share):
  middle = _mixture(t, s, share)
  return share * jnp.exp(t) * (t - middle) + (1 - share) * jnp.exp(s) * (s - middle)


def _skew_reverse_slope(s, t, share):
  apart = s - _mixture(s, t, share)
  return jnp.exp(s) * (apart + 1 - share * jnp.exp(apart))


# (log-probabilities of the student, of the teacher, the number of this divergence) -> what is summed over classes
_SUMMANDS = {
  "forward_kl": lambda s, t, share: jnp.exp(t) * (t - s),
  "reverse_kl": lambda s, t, share: jnp.exp(s) * (s - t),
  "jsd": _jsd,
  "skew_kl": lambda s, t, share: jnp.exp(t) * (t - _mixture(t, s, share)),
  "skew_reverse_kl": lambda s, t, share: jnp.exp(s) * (s - _mixture(s, t, share)),
  "total_variation": lambda s, t, share: jnp.abs(jnp.exp(s) - jnp.exp(t)) / 2,
  "soft_cross_entropy": lambda s, t, share: -jnp.exp(t) * s,
}
# their derivatives in the log-probability of the student, in which most of what is differentiated cancels
_SLOPES = {
  "forward_kl": lambda s, t, share: -jnp.exp(t),
  "reverse_kl": lambda s, t, share: jnp.exp(s) * (s - t + 1),
  "jsd": lambda s, t, share: (1 - share) * jnp.exp(s) * (s - _mixture(t, s, share)),
  "skew_kl": lambda s, t, share: -(1 - share) * jnp.exp(s + (t - _mixture(t, s, share))),
  "skew_reverse_kl": _skew_reverse_slope,
  "total_variation": lambda s, t, share: jnp.exp(s) * jnp.sign(jnp.exp(s) - jnp.exp(t)) / 2,
  "soft_cross_entropy": lambda s, t, share: -jnp.exp(t),
}
SUMMED = tuple(_SUMMANDS)  # kinds that are a sum over the vocabulary of a function of the two log-probabilities
KINDS = (*SUMMED, "adaptive_kl")


def summand(name: str, kind: str, beta: Number, skew: Number) -> tuple[Summand, Summand]:
  """What a divergence sums over the vocabulary, and its derivative in `log s`: `(log s, log t) -> [...]`, elementwise.

  Raises:
    ValueError: an unknown kind, or a number of this kind that is not in (0, 1).
  """
  if kind not in _SUMMANDS:
    raise ValueError(f"{name}: kind={kind!r} is not one of {', '.join(SUMMED)}")
  share = None
  if kind == "jsd":
    check_inner_share(name, "0 would be forward_kl and 1 reverse_kl", beta=beta)
    share = beta
  elif kind.startswith("skew"):
    check_inner_share(name, "0 would be the plain divergence and 1 no loss at all", skew=skew)
    share = skew
  return tuple(functools.partial(table[kind], share=share) for table in (_SUMMANDS, _SLOPES))


def token_divergence(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  kind: str = "forward_kl",
  beta: Number = 0.5,
  skew: Number = 0.1,
  head_mass: Number = 0.5,
  temperature: Number = 1.0,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """One of the divergences of this module by its name, for configurations.

  Args:
    student_logits: `[..., classes]`.
    teacher_logits: `[..., classes]`. No gradient.
    kind: `"forward_kl"` (`kl_divergence`), `"reverse_kl"`, `"jsd"` (`generalized_jsd`), `"skew_kl"`,
      `"skew_reverse_kl"`, `"total_variation"`, `"adaptive_kl"` or `"soft_cross_entropy"`.
    beta: of `"jsd"`.
    skew: of `"skew_kl"` and `"skew_reverse_kl"`.
    head_mass: of `"adaptive_kl"`.
    temperature: `T > 0`, divides both sides.
    scale_t2: multiply by `T^2`, so that gradients do not shrink with the temperature.
    where: `[...]` or a leading part of it; the loss is 0 where it is false.

  Returns:
    `[...]` in nats (times `T^2`), one value per token.

  Raises:
    ValueError: an unknown kind, shapes that differ, or a number out of range.
  """
  name = "token_divergence"
  options = {"temperature": temperature, "scale_t2": scale_t2, "where": where}
  if kind == "adaptive_kl":
    return adaptive_kl(student_logits, teacher_logits, head_mass=head_mass, **options)
  if kind not in KINDS:
    raise ValueError(f"{name}: kind={kind!r} is not one of {', '.join(KINDS)}")
  return _summed(name, student_logits, teacher_logits, summand(name, kind, beta, skew), **options)


def _summed(name, student_logits, teacher_logits, functions, *, temperature, scale_t2, where):
  student, teacher, mask = log_pair(name, student_logits, teacher_logits, temperature, where)
  return keep(scaled(jnp.sum(functions[0](student, teacher), axis=-1), temperature, scale_t2), mask)


def generalized_jsd(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  beta: Number = 0.5,
  temperature: Number = 1.0,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """GKD: `T^2 (beta KL(t || m) + (1 - beta) KL(s || m))`, `m = beta t + (1 - beta) s`, `s, t = softmax(z / T)`.

  `beta` weights the *teacher*; other codes call `1 - beta` by that name. Near its ends the divergence vanishes: divided
  by `beta` it tends to `kl_divergence` as `beta -> 0`, and divided by `1 - beta` to `reverse_kl` as `beta -> 1`. So a
  sweep over `beta` changes the scale of the loss as well. Ends are refused; TRL puts the two KLs there, a jump.

  Args:
    beta: in (0, 1); 1/2 is `js_divergence`.
    Others: as for `kl_divergence`.

  Returns:
    `[...]` in nats (times `T^2`), at most `T^2 log 2`, one value per token.

  Raises:
    ValueError: if the shapes differ, `beta` is not in (0, 1) or `temperature <= 0`.

  Cost: two softmaxes and a logarithm per class.

  References:
    Agarwal et al., "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes" (arXiv
    2306.13649), eq. 1 (number unverified).
  """
  name = "generalized_jsd"
  options = {"temperature": temperature, "scale_t2": scale_t2, "where": where}
  return _summed(name, student_logits, teacher_logits, summand(name, "jsd", beta, 0.1), **options)


def skew_kl(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  skew: Number = 0.1,
  temperature: Number = 1.0,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """DistiLLM: `T^2 KL(t || skew t + (1 - skew) s)`, with `s, t = softmax(z / T)`.

  At most `-T^2 log skew`, where `kl_divergence` grows without bound as the student's probability of a token that the
  teacher wants tends to 0. The student's part of the mixture has a gradient; TAID mixes logits, with a stopped student
  (`interpolated_target`). The released code drops the entropy of the teacher: another value, the same gradient.

  Args:
    skew: the teacher's share of the mixture, in (0, 1).
    Others: as for `kl_divergence`.

  Returns:
    `[...]` in nats (times `T^2`), one value per token.

  Raises:
    ValueError: if the shapes differ, `skew` is not in (0, 1) or `temperature <= 0`.

  Cost: two softmaxes and a logarithm per class.

  References:
    Ko et al., "DistiLLM: Towards Streamlined Distillation for Large Language Models" (arXiv 2402.03898), sec. 3.1.
  """
  options = {"temperature": temperature, "scale_t2": scale_t2, "where": where}
  return _summed("skew_kl", student_logits, teacher_logits, summand("skew_kl", "skew_kl", 0.5, skew), **options)


def skew_reverse_kl(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  skew: Number = 0.1,
  temperature: Number = 1.0,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """DistiLLM: `T^2 KL(s || (1 - skew) t + skew s)`, with `s, t = softmax(z / T)`. At most `-T^2 log skew`.

  Args, Returns, Raises, Cost, References: as for `skew_kl`; `skew` is the student's share of the mixture.
  """
  name = "skew_reverse_kl"
  options = {"temperature": temperature, "scale_t2": scale_t2, "where": where}
  return _summed(name, student_logits, teacher_logits, summand(name, name, 0.5, skew), **options)


def total_variation(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  temperature: Number = 1.0,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """`T^2 / 2 sum_c |s_c - t_c|`, with `s, t = softmax(z / T)`: the mass that has to move. At most `T^2`.

  It has no gradient in a class where both sides agree, and hardly one where the student's probability is near 0.

  Args, Returns, Raises, Cost: as for `kl_divergence`.

  References:
    Wen et al., "f-Divergence Minimization for Sequence-Level Knowledge Distillation" (arXiv 2307.15190); a baseline of
    TAID (arXiv 2501.16937) and GKD (arXiv 2306.13649).
  """
  name = "total_variation"
  options = {"temperature": temperature, "scale_t2": scale_t2, "where": where}
  return _summed(name, student_logits, teacher_logits, summand(name, name, 0.5, 0.1), **options)


def adaptive_kl(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  head_mass: Number = 0.5,
  temperature: Number = 1.0,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """Forward and reverse KL, weighted by where student and teacher differ: `T^2 (w KL(t || s) + (1 - w) KL(s || t))`.

      w = sum_{c in head} |s_c - t_c| / sum_c |s_c - t_c|,   s, t = softmax(z / T)

  The head has the teacher's likeliest tokens, as many as have together at most `head_mass`, and the likeliest always.
  The weight has no gradient. (TAID's release of this baseline orders the head's mask by rank and the differences by
  token, so that its weights are others.)

  Args:
    head_mass: in [0, 1].
    Others: as for `kl_divergence`.

  Returns:
    `[...]` in nats (times `T^2`), one value per token.

  Raises:
    ValueError: if the shapes differ, `head_mass` is not in [0, 1] or `temperature <= 0`.

  Cost: two softmaxes and a sort of the vocabulary per token.

  References:
    Wu et al., "Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language Models" (arXiv
    2404.02657); which token crosses `head_mass` follows implementations, not the paper's text (unverified).
  """
  name = "adaptive_kl"
  check_share(name, head_mass=head_mass)
  student, teacher, mask = log_pair(name, student_logits, teacher_logits, temperature, where)
  order = jnp.argsort(-teacher, axis=-1)
  target = jnp.take_along_axis(jnp.exp(teacher), order, axis=-1)
  gap = jnp.abs(jnp.take_along_axis(jnp.exp(jax.lax.stop_gradient(student)), order, axis=-1) - target)
  rank = jax.lax.broadcasted_iota(jnp.int32, target.shape, target.ndim - 1)
  head = (jnp.cumsum(target, axis=-1) <= head_mass) | (rank == 0)
  whole = jnp.sum(gap, axis=-1)
  weight = jnp.sum(jnp.where(head, gap, 0), axis=-1) / jnp.where(whole > 0, whole, 1)
  forward = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
  reverse = jnp.sum(jnp.exp(student) * (student - teacher), axis=-1)
  return keep(scaled(weight * forward + (1 - weight) * reverse, temperature, scale_t2), mask)
