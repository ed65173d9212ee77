"""Losses that pull the embeddings of two groups of examples together: by label, by distribution, by their means."""

import jax
import jax.numpy as jnp

from jdistill.losses._checks import check_temperature
from jdistill.ops.checks import check_batch, check_labels, check_positive, check_rank, keep, row_mask
from jdistill.ops.logits import EXCLUDED
from jdistill.ops.pairwise import gram, pairwise_sq_dists, safe_norm, unit
from jdistill.ops.precision import widen

_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the scale


def supervised_contrastive(
  embeddings: jax.Array, labels: jax.Array, *, temperature: float = 0.07, where: jax.Array | None = None
) -> jax.Array:
  """Examples of one class among all others: SupCon with the mean outside the logarithm.

      loss_i = -1 / |P(i)| sum_{p in P(i)} log(exp(cos(z_i, z_p) / T) / sum_{a != i} exp(cos(z_i, z_a) / T))

  with `P(i)` the other examples with the label of `i`. An example that is the only one of its class has no positives
  and the loss 0; where all examples are of one class there are no negatives, and the loss is at least `log(n - 1)`.
  **Coupled over the batch.** Gradients flow into all rows.

  Args:
    embeddings: `[n, D]`, any length: rows are normalised.
    labels: `[n]` integers.
    temperature: `T > 0` on cosine similarities.
    where: `[n]`; excluded examples are nobody's positives or negatives and get the loss 0.

  Returns:
    `[n]` in nats.

  Raises:
    ValueError: embeddings that are no matrix of at least two rows, labels that are not integers `[n]`, `temperature <=
      0`, or `where` that is not `[n]`.

  Cost: `n^2 * D` on matrix units.

  References:
    Khosla et al., "Supervised Contrastive Learning" (arXiv 2004.11362), eq. 2. The released code multiplies by the
    ratio of the temperature to a base temperature, which is 1 for equal ones.
  """
  name = "supervised_contrastive"
  check_temperature(name, temperature)
  check_rank(name, "embeddings", embeddings, 2)
  z = widen(embeddings)
  count = z.shape[0]
  check_batch(name, count, 2)
  labels, valid = check_labels(name, labels, (count,)), row_mask(name, where, count)
  z = unit(keep(z, valid))
  others = valid[None] & valid[:, None] & ~jnp.eye(count, dtype=bool)
  scores = jnp.where(others, gram(z, z) / temperature, EXCLUDED)
  positives = others & (labels[None] == labels[:, None])
  gaps = jnp.where(positives, jax.nn.logsumexp(scores, axis=1)[:, None] - scores, 0)
  size = jnp.sum(positives, axis=1)
  return jnp.where(size > 0, jnp.sum(gaps, axis=1) / jnp.maximum(size, 1).astype(z.dtype), 0)


def rbf_mmd(
  first: jax.Array,
  second: jax.Array,
  *,
  scale: float | None = None,
  where: jax.Array | None = None,
  second_where: jax.Array | None = None,
) -> jax.Array:
  """Squared maximum mean discrepancy under a sum of five Gaussian kernels, with means over all pairs (biased).

      mean k(x, x') + mean k(y, y') - 2 mean k(x, y),    k(u, v) = sum_{i = -2..2} exp(-|u - v|^2 / (2^i scale))

  **Coupled over the batch.** Gradients flow into both arguments.

  Args:
    first: `[n, D]`.
    second: `[m, D]`.
    scale: squared bandwidth in the middle, > 0; `None` for the mean squared distance between two different rows of both
      groups together, which has no gradient.
    where: `[n]`; excluded rows of `first` do not count.
    second_where: `[m]`; excluded rows of `second` do not count.

  Returns:
    A scalar, at least 0 up to rounding; 0 where one group is empty.

  Raises:
    ValueError: arguments that are no matrices of one width, masks of another length, or `scale <= 0`.

  Cost: `(n + m)^2 * D`.

  References:
    Gretton et al., "A Kernel Two-Sample Test" (JMLR 2012). The five bandwidths are those of the released code of deep
    adaptation networks (arXiv 1502.02791).
  """
  x, y, x_kept, y_kept = _groups("rbf_mmd", first, second, where, second_where)
  if scale is not None:
    check_positive("rbf_mmd", scale=scale)
  rows, valid = jnp.concatenate([x, y]), jnp.concatenate([x_kept, y_kept])
  distance = pairwise_sq_dists(rows, rows)
  if scale is None:
    both = (valid[:, None] & valid[None]).astype(rows.dtype)
    pairs = jnp.maximum(jnp.sum(both) - jnp.sum(valid).astype(rows.dtype), 1)
    mean = jax.lax.stop_gradient(jnp.sum(both * distance) / pairs)
    scale = jnp.where(mean > 0, mean, 1)
  kernel = sum(jnp.exp(-distance / (factor * scale)) for factor in _BANDWIDTHS)
  share = jnp.concatenate([_share(x_kept, rows.dtype), -_share(y_kept, rows.dtype)])
  found = jnp.sum(share[:, None] * kernel * share[None])
  return jnp.where(jnp.any(x_kept) & jnp.any(y_kept), found, 0)


def mean_distance(
  first: jax.Array, second: jax.Array, *, where: jax.Array | None = None, second_where: jax.Array | None = None
) -> jax.Array:
  """Euclidean distance between the means of two groups of embeddings.

  **Coupled over the batch.** Gradients flow into both arguments.

  Args:
    first: `[n, D]`.
    second: `[m, D]`.
    where: `[n]`; excluded rows of `first` do not count.
    second_where: `[m]`; excluded rows of `second` do not count.

  Returns:
    A scalar, with the gradient 0 where the means agree; 0 where one group is empty.

  Raises:
    ValueError: arguments that are no matrices of one width, or masks of another length.
  """
  x, y, x_kept, y_kept = _groups("mean_distance", first, second, where, second_where)
  means = [jnp.sum(_share(kept, z.dtype)[:, None] * z, axis=0) for z, kept in ((x, x_kept), (y, y_kept))]
  return jnp.where(jnp.any(x_kept) & jnp.any(y_kept), safe_norm(means[0] - means[1]), 0)


def _groups(name, first, second, where, second_where):
  """Two matrices of one width without what the masks exclude, and the masks."""
  check_rank(name, "first", first, 2)
  check_rank(name, "second", second, 2)
  x, y = widen(first), widen(second)
  if x.shape[1] != y.shape[1]:
    raise ValueError(f"{name}: first {x.shape} and second {y.shape} must have one width")
  kept = row_mask(name, where, x.shape[0]), row_mask(name, second_where, y.shape[0])
  return keep(x, kept[0]), keep(y, kept[1]), *kept


def _share(kept: jax.Array, dtype) -> jax.Array:
  """`1 / n` for the `n` rows that are kept, 0 for the others."""
  return kept.astype(dtype) / jnp.maximum(jnp.sum(kept), 1).astype(dtype)
