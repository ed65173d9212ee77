"""Targets of a large vocabulary of which the likeliest tokens were kept: what they still say, and what was lost.

The exact alternative that is as small is the teacher's hidden states: `chunked_divergence`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import check_classes, check_temperature, scaled
from jdistill.losses.divergence import Number, summand, token_divergence
from jdistill.ops.checks import keep, leading_mask
from jdistill.ops.logits import EXCLUDED, is_excluded, log_probs
from jdistill.ops.precision import widen
from jdistill.ops.top_k import greatest, spread

MISSING = ("even", "bucket", "drop")


class TopK(NamedTuple):
  """The likeliest tokens of a distribution.

  Attributes:
    log_probs: `[..., k]`, descending.
    classes: `[..., k]` integers, which tokens these are.
    rest: `[...]`, log of the probability of all other tokens together.
  """

  log_probs: jax.Array
  classes: jax.Array
  rest: jax.Array


def top_k_targets(teacher_logits: jax.Array, k: int, *, temperature: Number = 1.0) -> TopK:
  """What is kept of a teacher: the log-probabilities of its `k` likeliest tokens, and that of all others together.

  Args:
    teacher_logits: `[..., V]`. No gradient.
    k: in `1..V - 1`.
    temperature: `T > 0`, at which the student will learn; the kept numbers are those of `softmax(z / T)`.

  Returns:
    `TopK`, `2 k + 1` numbers per token, float32 (float64 for float64) and int32. Minus infinity (masked tokens) has
    about -1e30 in its place.

  Raises:
    ValueError: `k` out of range, or `temperature <= 0`.

  Cost: one softmax and one selection per token.
  """
  name = "top_k_targets"
  check_classes(name, teacher_logits, 2)
  check_temperature(name, temperature)
  size = np.shape(teacher_logits)[-1]
  if not 1 <= k < size:
    raise ValueError(f"{name}: k={k} must lie in 1..{size - 1} for a vocabulary of {size}")
  kept, classes, rest = greatest(log_probs(jax.lax.stop_gradient(widen(teacher_logits)), temperature), k)
  return TopK(kept, classes, jnp.maximum(rest, EXCLUDED))


def top_k_divergence(
  student_logits: jax.Array,
  targets: TopK,
  *,
  kind: str = "forward_kl",
  missing: str = "even",
  beta: Number = 0.5,
  skew: Number = 0.1,
  temperature: Number = 1.0,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """A divergence from a teacher of which `top_k_targets` were kept.

  What is not known of the teacher is filled in (`missing`):

      even    the other tokens share the rest evenly, but for those that the student masks out
      bucket  the other tokens are one outcome on both sides: a divergence over `k + 1` outcomes, at most the exact one
      drop    the kept tokens are everything: their probabilities are divided by their sum

  Args:
    student_logits: `[..., V]`.
    targets: of `top_k_targets` at the same temperature; numbers of another type, such as stored float16, are widened.
      Log-probabilities need not add up to 1 exactly: they are normalised. No gradient.
    kind: `"forward_kl"`, `"reverse_kl"`, `"jsd"`, `"skew_kl"`, `"skew_reverse_kl"`, `"total_variation"` or
      `"soft_cross_entropy"`. With `"drop"` the reverse KL is about 1e30 for a student that gives other tokens anything.
    missing: as above.
    beta: of `"jsd"`.
    skew: of `"skew_kl"` and `"skew_reverse_kl"`.
    temperature: `T > 0`, divides the student's logits; the targets have theirs already.
    scale_t2: multiply by `T^2`, so that gradients do not shrink with the temperature.
    where: `[...]` or a leading part of it; the loss is 0 where it is false.

  Returns:
    `[...]` in nats (times `T^2`), one value per token. Exact for all three if the rest has no probability.

  Raises:
    ValueError: shapes that do not fit, an unknown name, or a number out of range.

  Cost: one softmax of the student, and for `even` and `drop` a target `[..., V]`.
  """
  name = "top_k_divergence"
  check_classes(name, student_logits, 2)
  check_temperature(name, temperature)
  targets = _checked(name, targets, student_logits, missing)
  function, _ = summand(name, kind, beta, skew)
  mask = leading_mask(name, where, np.shape(student_logits)[:-1])
  targets = TopK(*(keep(leaf, mask) for leaf in targets))
  student = log_probs(keep(widen(student_logits), mask), temperature)
  if missing == "bucket":
    teacher = log_probs(jnp.concatenate([targets.log_probs, targets.rest[..., None]], axis=-1))
    student = _bucketed(student, targets.classes)
  else:
    teacher = log_probs(_filled(targets, ~is_excluded(student_logits), missing))
  return keep(scaled(jnp.sum(function(student, teacher), axis=-1), temperature, scale_t2), mask)


class TopKFidelity(NamedTuple):
  """What kept targets lost, per token `[...]`.

  Attributes:
    kept_mass: the teacher's probability of the kept tokens.
    divergence: `KL(teacher || targets)` in nats: what a student that learns the targets perfectly loses against one
      that learns the teacher. About 1e30 where targets exclude what the teacher does not.
    total_variation: half the sum of differences of probabilities, which is half the error of the gradient of
      `forward_kl` (in the 1-norm, at temperature 1).
  """

  kept_mass: jax.Array
  divergence: jax.Array
  total_variation: jax.Array


def top_k_fidelity(
  teacher_logits: jax.Array, targets: TopK, *, missing: str = "even", temperature: Number = 1.0
) -> TopKFidelity:
  """How far kept targets, as a loss would fill them in, are from the teacher that they were taken from.

  Args:
    teacher_logits: `[..., V]`.
    targets: of `top_k_targets`, or what was stored of them.
    missing: `"even"` or `"drop"`; a `"bucket"` is no distribution over the vocabulary.
    temperature: `T > 0`, that of the targets.

  Returns:
    `TopKFidelity`, float32 (float64 for float64), without a gradient. Report means over the valid tokens of real text.

  Raises:
    ValueError: shapes that do not fit or an unknown name.

  Cost: two softmaxes per token.
  """
  name = "top_k_fidelity"
  if missing == "bucket":
    raise ValueError(f"{name}: missing='bucket' is no distribution over the vocabulary; choose 'even' or 'drop'")
  check_temperature(name, temperature)
  targets = _checked(name, targets, teacher_logits, missing)
  teacher = log_probs(jax.lax.stop_gradient(widen(teacher_logits)), temperature)
  kept = jnp.sum(jnp.exp(jnp.take_along_axis(teacher, targets.classes, axis=-1)), axis=-1)
  filled = _filled(targets, ~is_excluded(teacher_logits), missing)
  compare = lambda kind: token_divergence(filled, teacher, kind=kind)  # noqa: E731
  return TopKFidelity(*map(jax.lax.stop_gradient, (kept, compare("forward_kl"), compare("total_variation"))))


def _checked(name: str, targets: TopK, logits: jax.Array, missing: str) -> TopK:
  """The targets stopped, in the type in which losses of these logits are computed."""
  shape, wide = np.shape(logits), widen(logits).dtype
  if missing not in MISSING:
    raise ValueError(f"{name}: missing={missing!r} is not one of {', '.join(MISSING)}")
  kept, classes, rest = targets
  k = np.shape(kept)[-1] if np.ndim(kept) else 0
  fits = np.shape(kept) == np.shape(classes) == (*shape[:-1], k) and np.shape(rest) == shape[:-1]
  if not fits or not 1 <= k < shape[-1]:
    raise ValueError(
      f"{name}: targets {np.shape(kept)}, {np.shape(classes)} and {np.shape(rest)} do not fit logits {shape}"
    )
  kept, rest = (jax.lax.stop_gradient(jnp.maximum(jnp.asarray(x).astype(wide), EXCLUDED)) for x in (kept, rest))
  return TopK(kept, jnp.asarray(classes).astype(jnp.int32), rest)


def _filled(targets: TopK, allowed: jax.Array, missing: str) -> jax.Array:
  """Logits `[..., V]` of the target distribution; only `allowed` tokens get a share of the rest."""
  kept = jnp.sum(jnp.take_along_axis(allowed, targets.classes, axis=-1), axis=-1)
  others = jnp.maximum(jnp.sum(allowed, axis=-1) - kept, 1).astype(targets.rest.dtype)
  share = jnp.full_like(targets.rest, EXCLUDED) if missing == "drop" else targets.rest - jnp.log(others)
  whole = jnp.where(allowed, share[..., None], jnp.asarray(EXCLUDED, share.dtype))
  return spread(targets.log_probs, targets.classes, whole)


def _bucketed(log_p: jax.Array, classes: jax.Array) -> jax.Array:
  """Log-probabilities `[..., k + 1]`: of `classes`, and of all others together."""
  kept = jnp.take_along_axis(log_p, classes, axis=-1)
  left_out = jnp.put_along_axis(log_p, classes, jnp.asarray(EXCLUDED, log_p.dtype), axis=-1, inplace=False)
  return jnp.concatenate([kept, jax.nn.logsumexp(left_out, axis=-1, keepdims=True)], axis=-1)
