"""Losses that ask for a linear relation between student and teacher, not for equality."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import check_temperature, masked_mean, scaled, student_teacher
from jdistill.ops.checks import check_batch, check_positive, check_rank, check_same_shape, row_mask
from jdistill.ops.logits import log_probs
from jdistill.ops.precision import widen


def pearson(
  a: jax.Array, b: jax.Array, *, axis: int = -1, eps: float = 1e-8, where: jax.Array | None = None
) -> jax.Array:
  """Pearson's correlation along an axis: `<a', b'> / sqrt((|a'|^2 + eps) (|b'|^2 + eps))`, `x' = x - mean(x)`.

  Args:
    a: any shape. Differentiable.
    b: the same shape. Differentiable.
    axis: the axis that is summed over.
    eps: added to the sums of squares, in squared units of `a` and `b`: what varies less than `sqrt(eps)` correlates
      with nothing, and a constant has a finite gradient. Scale and shift do not matter beyond it.
    where: the shape of `a`; other entries count for nothing.

  Returns:
    The shape of `a` without `axis`, in [-1, 1].

  Raises:
    ValueError: if the shapes differ or `eps <= 0`.

  Cost: one pass.

  References:
    Huang et al., "Knowledge Distillation from A Stronger Teacher" (arXiv 2205.10536), eq. 4 (number unverified). The
    released code adds `eps` to the product of the norms instead, whose gradient is NaN for constants.
  """
  check_same_shape("pearson", a=a, b=b)
  check_positive("pearson", eps=eps)
  kept = jnp.ones(np.shape(a), bool) if where is None else jnp.asarray(where).astype(bool)
  check_same_shape("pearson", a=a, where=kept)
  count = jnp.maximum(jnp.sum(kept, axis=axis, keepdims=True), 1)

  def centred(x):
    x = jnp.where(kept, widen(x), 0)
    return jnp.where(kept, x - jnp.sum(x, axis=axis, keepdims=True) / count.astype(x.dtype), 0)

  a, b = centred(a), centred(b)
  spread_a, spread_b = (jnp.sqrt(jnp.sum(jnp.square(x), axis=axis) + eps) for x in (a, b))
  return jnp.sum(a * b, axis=axis) / (spread_a * spread_b)


def dist_loss(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  temperature: float = 4.0,
  beta: float = 2.0,
  gamma: float = 2.0,
  eps: float = 1e-8,
  scale_t2: bool = True,
  where: jax.Array | None = None,
) -> jax.Array:
  """DIST: `T^2 (beta * inter + gamma * intra)`, correlations of probabilities within rows and within columns.

  With `S, T = softmax(z / T)` of shape `[B, classes]`: `inter = 1 - mean_i pearson(S[i, :], T[i, :])` relates the
  classes of each example, `intra = 1 - mean_c pearson(S[:, c], T[:, c])` the examples for each class. A strong
  teacher's probabilities need not be matched, only their pattern. **Coupled over the batch** by `intra`. Without the
  cross entropy that the method adds.

  Args:
    student_logits: `[B, classes]`. Classes that are masked out with minus infinity stay, with the probability 0: a
      column of zeros correlates with nothing.
    teacher_logits: `[B, classes]`. No gradient.
    temperature: `T > 0`; 4 on CIFAR-100, 1 on ImageNet.
    beta: weight of `inter`; 2.
    gamma: weight of `intra`; 2. (Ports of the code default to 1 for both and `T = 1`.)
    eps: see `pearson`.
    scale_t2: multiply by `T^2`; some ports leave it out.
    where: `[B]`; excluded examples count for nothing. With one example left `intra` is 0, with none the loss.

  Returns:
    A scalar, the mean over examples and over classes; in [0, 2 T^2 (beta + gamma)].

  Raises:
    ValueError: if the logits are not matrices of one shape, there is one example, `temperature <= 0`, `eps <= 0`, or
      `where` is not `[B]`.

  Cost: two softmaxes and two passes over the batch.

  References:
    Huang et al., "Knowledge Distillation from A Stronger Teacher" (arXiv 2205.10536), eqs. 7-9 (numbers unverified).
  """
  name = "dist_loss"
  check_temperature(name, temperature)
  check_rank(name, "student_logits", student_logits, 2)
  check_batch(name, np.shape(student_logits)[0], 2)
  valid = row_mask(name, where, np.shape(student_logits)[0])
  student, teacher, _ = student_teacher(name, student_logits, teacher_logits, valid)
  student, teacher = (jnp.exp(log_probs(z, temperature)) for z in (student, teacher))
  inter = masked_mean(1 - pearson(student, teacher, axis=1, eps=eps), valid)
  columns = jnp.broadcast_to(valid[:, None], student.shape)
  intra = jnp.mean(1 - pearson(student, teacher, axis=0, eps=eps, where=columns))
  loss = beta * inter + gamma * jnp.where(jnp.sum(valid) >= 2, intra, 0)
  return scaled(loss, temperature, scale_t2)
