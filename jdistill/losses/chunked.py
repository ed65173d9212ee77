"""Exact losses of a large vocabulary from hidden states and heads: the same values and gradients, and no logits.

The logits of 512 tokens and 49,152 classes are 100 MB in float32, and a divergence holds several such arrays. These
functions take the last hidden states and the heads of both networks instead, and never hold more than `chunk` columns
of all tokens, or as many numbers of a few tokens, at once. A teacher's targets are then stored as hidden states, `D`
numbers per token in the place of `V`, and are exact.

Gradients are those of the student's hidden states, head and bias. The teacher, temperatures and the numbers of
divergences have none. There are neither forward-mode nor second derivatives.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import check_temperature, scaled
from jdistill.losses._vocabulary import Numbers, Plan, Side, accumulated, losses_of_heads
from jdistill.losses.divergence import Number, summand
from jdistill.ops.checks import check_labels, check_share, keep, leading_mask

CHUNK = 4096  # columns; docs/losses/language.md has what it costs and saves


def chunked_divergence(
  student_hidden: jax.Array,
  student_head: jax.Array,
  teacher_hidden: jax.Array,
  teacher_head: jax.Array,
  *,
  kind: str = "forward_kl",
  beta: Number = 0.5,
  skew: Number = 0.1,
  interpolation: Number | None = None,
  temperature: Number = 1.0,
  scale_t2: bool = True,
  student_bias: jax.Array | None = None,
  teacher_bias: jax.Array | None = None,
  student_tied: bool = False,
  teacher_tied: bool = False,
  vocabulary: int | None = None,
  chunk: int = CHUNK,
  where: jax.Array | None = None,
) -> jax.Array:
  """`token_divergence` of `hidden @ head + bias` on both sides, without the logits.

  Args:
    student_hidden: `[..., D_s]`, what the student's head is applied to (after the last norm).
    student_head: `[D_s, V]`, or `[V, D_s]` if `student_tied`.
    teacher_hidden: `[..., D_t]` of the same tokens, such as stored ones. No gradient.
    teacher_head: `[D_t, V]`, or `[V, D_t]` if `teacher_tied`. No gradient.
    kind: `"forward_kl"`, `"reverse_kl"`, `"jsd"`, `"skew_kl"`, `"skew_reverse_kl"`, `"total_variation"` or
      `"soft_cross_entropy"`.
    beta: of `"jsd"`, in (0, 1).
    skew: of `"skew_kl"` and `"skew_reverse_kl"`, in (0, 1).
    interpolation: TAID's `t` in [0, 1]: the target is `interpolated_target(student, teacher, t)` in the place of the
      teacher. `taid_loss` is that with `"soft_cross_entropy"`.
    temperature: `T > 0`, divides both sides' logits.
    scale_t2: multiply by `T^2`, so that gradients do not shrink with the temperature.
    student_bias, teacher_bias: `[V]`; minus infinity masks a token out.
    student_tied, teacher_tied: the head is an embedding table `[V, D]`; passing its transpose would copy it.
    vocabulary: how many tokens there are, if heads are padded; needed if student and teacher are padded differently.
      Padding is no part of any softmax and has the gradient 0.
    chunk: columns of the vocabulary at a time in the backward pass; the forward pass holds as many numbers.
    where: `[...]` or a leading part of it; the loss is 0 where it is false.

  Returns:
    `[...]` in nats (times `T^2`), one value per token, float32 (float64 for float64).

  Raises:
    ValueError: shapes that do not fit, an unknown kind, or a number out of range.

  Cost: forward, each side's product `2 N D V` once and about `2 N chunk` numbers; backward, each product once more, and
  the two of the gradients: `2 N V (D_s + D_t)` and `2 N V (3 D_s + D_t)` operations, where losses of stored logits need
  `4 N D_s V` backward. The gradient of the head is as large as the head.

  References:
    Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models" (arXiv 2411.09009), the idea, for cross
    entropy with labels. For the divergences see `generalized_jsd`, `skew_kl` and `taid_loss`.
  """
  name = "chunked_divergence"
  student = _side(name, "student", student_hidden, student_head, student_bias, student_tied)
  teacher = _side(name, "teacher", teacher_hidden, teacher_head, teacher_bias, teacher_tied)
  numbers = _numbers(name, kind, beta, skew, interpolation, temperature)
  plan = _plan(name, kind, False, chunk, vocabulary, (student, teacher), (student_tied, teacher_tied))
  mask = leading_mask(name, where, np.shape(student_hidden)[:-1])
  found, _ = _run(plan, student, teacher, numbers, None, mask)
  return keep(scaled(found, numbers.temperature, scale_t2), mask)


def chunked_cross_entropy(
  hidden: jax.Array,
  head: jax.Array,
  labels: jax.Array,
  *,
  bias: jax.Array | None = None,
  tied: bool = False,
  vocabulary: int | None = None,
  chunk: int = CHUNK,
  where: jax.Array | None = None,
) -> jax.Array:
  """`cross_entropy` of `hidden @ head + bias` with integer labels, without the logits.

  Args:
    hidden: `[..., D]`.
    head: `[D, V]`, or `[V, D]` if `tied`.
    labels: `[...]` integers in `[0, V)`. Values outside give the loss 0 for that token.
    bias, tied, vocabulary, chunk, where: as for `chunked_divergence`.

  Returns:
    `[...]` in nats, one value per token.

  Raises:
    ValueError: shapes that do not fit, or labels that are no integers.

  Cost: `2 N D V` operations forward and `6 N D V` backward, where stored logits need `4 N D V`.

  References:
    Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models" (arXiv 2411.09009).
  """
  name = "chunked_cross_entropy"
  side = _side(name, "student", hidden, head, bias, tied)
  labels = check_labels(name, labels, np.shape(hidden)[:-1])
  numbers = _numbers(name, "forward_kl", 0.5, 0.1, None, 1.0)
  plan = _plan(name, None, True, chunk, vocabulary, (side,), (tied, False))
  mask = leading_mask(name, where, labels.shape)
  return keep(_run(plan, side, None, numbers, labels, mask)[1], mask)


def chunked_kd_loss(
  student_hidden: jax.Array,
  student_head: jax.Array,
  teacher_hidden: jax.Array,
  teacher_head: jax.Array,
  labels: jax.Array,
  *,
  ce_weight: Number = 1.0,
  kd_weight: Number = 1.0,
  kind: str = "forward_kl",
  beta: Number = 0.5,
  skew: Number = 0.1,
  interpolation: Number | None = None,
  temperature: Number = 1.0,
  scale_t2: bool = True,
  student_bias: jax.Array | None = None,
  teacher_bias: jax.Array | None = None,
  student_tied: bool = False,
  teacher_tied: bool = False,
  vocabulary: int | None = None,
  chunk: int = CHUNK,
  where: jax.Array | None = None,
) -> jax.Array:
  """`ce_weight * chunked_cross_entropy + kd_weight * chunked_divergence`, with each product of a head computed once.

  Args:
    labels: `[...]` integers in `[0, V)`. Others, such as -1, mark tokens without one, without the first term.
    ce_weight, kd_weight: of labels and teacher; DDK has 1 and 0.2. They have gradients.
    Others: as for `chunked_divergence`.

  Returns:
    `[...]` in nats, one value per token.

  Raises, Cost: as for `chunked_divergence`.

  References:
    Liu et al., "DDK: Distilling Domain Knowledge for Efficient Large Language Models" (arXiv 2407.16154), its loss.
  """
  name, wanted = "chunked_kd_loss", {"kind": kind, "beta": beta, "skew": skew, "interpolation": interpolation}
  entropy, divergence = _both(
    name, student_hidden, student_head, teacher_hidden, teacher_head, labels, temperature, scale_t2, student_bias,
    teacher_bias, student_tied, teacher_tied, vocabulary, chunk, where, **wanted,
  )  # fmt: skip
  return ce_weight * entropy + kd_weight * divergence


def chunked_token_losses(
  student_hidden: jax.Array,
  student_head: jax.Array,
  teacher_hidden: jax.Array,
  teacher_head: jax.Array,
  labels: jax.Array,
  *,
  kind: str = "forward_kl",
  beta: Number = 0.5,
  skew: Number = 0.1,
  interpolation: Number | None = None,
  temperature: Number = 1.0,
  scale_t2: bool = True,
  student_bias: jax.Array | None = None,
  teacher_bias: jax.Array | None = None,
  student_tied: bool = False,
  teacher_tied: bool = False,
  vocabulary: int | None = None,
  chunk: int = CHUNK,
  where: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """`(chunked_cross_entropy, chunked_divergence)`, for a loss and reports that need both; see `chunked_kd_loss`.

  Args, Raises, Cost: as for `chunked_kd_loss`, without its weights.

  Returns:
    Two arrays `[...]` in nats, one value per token. Products of the heads are shared.
  """
  wanted = {"kind": kind, "beta": beta, "skew": skew, "interpolation": interpolation}
  return _both(
    "chunked_token_losses", student_hidden, student_head, teacher_hidden, teacher_head, labels, temperature, scale_t2,
    student_bias, teacher_bias, student_tied, teacher_tied, vocabulary, chunk, where, **wanted,
  )  # fmt: skip


def _both(
  name, student_hidden, student_head, teacher_hidden, teacher_head, labels, temperature, scale_t2, student_bias,
  teacher_bias, student_tied, teacher_tied, vocabulary, chunk, where, *, kind, beta, skew, interpolation,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
  """Cross entropy and divergence."""
  student = _side(name, "student", student_hidden, student_head, student_bias, student_tied)
  teacher = _side(name, "teacher", teacher_hidden, teacher_head, teacher_bias, teacher_tied)
  labels = check_labels(name, labels, np.shape(student_hidden)[:-1])
  numbers = _numbers(name, kind, beta, skew, interpolation, temperature)
  plan = _plan(name, kind, True, chunk, vocabulary, (student, teacher), (student_tied, teacher_tied))
  mask = leading_mask(name, where, labels.shape)
  divergence, entropy = _run(plan, student, teacher, numbers, labels, mask)
  return keep(entropy, mask), keep(scaled(divergence, numbers.temperature, scale_t2), mask)


def _numbers(name, kind, beta, skew, interpolation, temperature) -> Numbers:
  check_temperature(name, temperature)
  summand(name, kind, beta, skew)  # checks
  if interpolation is not None:
    check_share(name, interpolation=interpolation)
  given = Numbers(temperature, beta, skew, interpolation)
  return jax.tree.map(lambda x: jax.lax.stop_gradient(jnp.asarray(x)), given)


def _side(name, side, hidden, head, bias, tied) -> Side:
  """Arrays of one type, after a check of their shapes."""
  hidden, head = jnp.asarray(hidden), jnp.asarray(head)
  width, size = head.shape[::-1] if tied and head.ndim == 2 else (*head.shape, 0)[:2]
  if hidden.ndim < 1 or head.ndim != 2 or hidden.shape[-1] != width or not size:
    wanted = "[V, D]" if tied else "[D, V]"
    raise ValueError(f"{name}: the {side}'s head {head.shape} must be {wanted} for hidden states {hidden.shape}")
  if bias is not None and np.shape(bias) != (size,):
    raise ValueError(f"{name}: the {side}'s bias must have shape {(size,)}, got {np.shape(bias)}")
  alike = hidden.dtype == head.dtype and jnp.issubdtype(head.dtype, jnp.floating)
  kind = head.dtype if alike else accumulated(hidden.dtype, head.dtype)
  return Side(hidden.astype(kind), head.astype(kind), None if bias is None else jnp.asarray(bias))


def _plan(name, kind, labels, chunk, vocabulary, sides, tied) -> Plan:
  sizes = [side.head.shape[0 if one else 1] for side, one in zip(sides, tied, strict=False)]
  if vocabulary is None and len(set(sizes)) > 1:
    raise ValueError(
      f"{name}: heads of {sizes[0]} and {sizes[1]} tokens; give vocabulary, the number of tokens without padding"
    )
  vocabulary = sizes[0] if vocabulary is None else vocabulary
  if not 1 <= vocabulary <= min(sizes):
    raise ValueError(f"{name}: vocabulary={vocabulary} must lie in 1..{min(sizes)}")
  if chunk < 1:
    raise ValueError(f"{name}: chunk={chunk} must be at least 1")
  tokens = {side.hidden.shape[:-1] for side in sides}
  if len(tokens) > 1:
    raise ValueError(f"{name}: hidden states {sides[0].hidden.shape} and {sides[1].hidden.shape} differ in tokens")
  chunk = min(chunk, vocabulary)
  size = int(np.prod(tokens.pop()))
  blocks = -(-size * max(sizes) // max(size * chunk, 1)) or 1
  return Plan(kind, labels, vocabulary, chunk, -(-size // blocks), tied)


def _run(plan, student, teacher, numbers, labels, mask) -> tuple[jax.Array, jax.Array]:
  """Divergence and cross entropy, `[...]`."""
  shape, wide = student.hidden.shape[:-1], accumulated(student.hidden.dtype)
  if not plan.rows:
    return (jnp.sum(student.hidden, axis=-1).astype(wide),) * 2

  def flat(side):
    hidden = keep(side.hidden, mask)
    return side._replace(hidden=hidden.reshape(-1, hidden.shape[-1]))

  numbers = jax.tree.map(lambda x: x.astype(wide), numbers)
  teacher = None if teacher is None else jax.lax.stop_gradient(flat(teacher))
  labels = None if labels is None else labels.reshape(-1).astype(jnp.int32)
  return tuple(x.reshape(shape) for x in losses_of_heads(plan, flat(student), teacher, numbers, labels))
