"""Losses in which an example must recognise its partner among others."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses._checks import check_temperature
from jdistill.ops.checks import (
  check_batch,
  check_rank,
  check_same_shape,
  check_share,
  keep,
  known,
  outside_range,
  row_mask,
)
from jdistill.ops.logits import EXCLUDED
from jdistill.ops.pairwise import gram, unit
from jdistill.ops.precision import widen


def _pair(name, first_name, first, second_name, second, temperature, where):
  check_temperature(name, temperature)
  check_rank(name, first_name, first, 2)
  check_same_shape(name, **{first_name: first, second_name: second})
  first, second = widen(first), widen(second)
  check_batch(name, first.shape[0], 2)
  valid = row_mask(name, where, first.shape[0])
  return unit(keep(first, valid)), unit(keep(second, valid)), valid


def _not_negative(loss: jax.Array) -> jax.Array:
  """0 where `loss` is below it: the own score is rounded otherwise than the same one among all, and NaN stays NaN."""
  return jnp.where(loss < 0, 0, loss)


def info_nce(
  anchors: jax.Array, positives: jax.Array, *, temperature: float, where: jax.Array | None = None
) -> jax.Array:
  """Each anchor against all positives: `-log(exp(cos(a_i, b_i) / T) / sum_j exp(cos(a_i, b_j) / T))`.

  **Coupled over the batch.** Gradients flow into both arguments; stop the one that belongs to a frozen network.

  Args:
    anchors: `[n, D]`, any length: rows are normalised.
    positives: `[n, D]`; row `i` is the partner of anchor `i` and a negative for all others.
    temperature: `T > 0` on cosine similarities.
    where: `[n]`; excluded pairs are nobody's negatives and get the loss 0.

  Returns:
    `[n]` in nats; `log(n)` where all similarities are equal.

  Raises:
    ValueError: if the arguments are not matrices of one shape with at least two rows, `temperature <= 0`, or `where`
      is not `[n]`.

  Cost: `n^2 * D` on matrix units.

  References:
    van den Oord et al., "Representation Learning with Contrastive Predictive Coding" (arXiv 1807.03748), eq. 4
    (number unverified), with cosine similarities.
  """
  a, b, valid = _pair("info_nce", "anchors", anchors, "positives", positives, temperature, where)
  scores = gram(a, b) / temperature  # [n, n]
  own = jnp.sum(a * b, axis=1) / temperature
  return jnp.where(valid, _not_negative(jax.nn.logsumexp(jnp.where(valid[None], scores, EXCLUDED), axis=1) - own), 0)


def nt_xent(first: jax.Array, second: jax.Array, *, temperature: float, where: jax.Array | None = None) -> jax.Array:
  """Two views of each example among all `2n` views: `-log(exp(cos(v, v') / T) / sum_{u != v} exp(cos(v, u) / T))`.

  Other views of the *same* side are negatives too, which distinguishes it from `info_nce`. **Coupled over the
  batch.** Gradients flow into both arguments.

  Args:
    first: `[n, D]`, any length: rows are normalised.
    second: `[n, D]`, the other view of the same examples.
    temperature: `T > 0` on cosine similarities; 0.3 in KD^3.
    where: `[n]`; both views of excluded examples are nobody's negatives and get the loss 0.

  Returns:
    `[2n]` in nats, the views of `first`, then those of `second`; `log(2n - 1)` where all similarities are equal.

  Raises:
    ValueError: if the arguments are not matrices of one shape with at least two rows, `temperature <= 0`, or `where`
      is not `[n]`.

  Cost: `4 n^2 * D` on matrix units.

  References:
    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations" (arXiv 2002.05709), eq. 1.
  """
  a, b, valid = _pair("nt_xent", "first", first, "second", second, temperature, where)
  views, partners = jnp.concatenate([a, b]), jnp.concatenate([b, a])
  valid = jnp.concatenate([valid, valid])
  others = valid[None] & ~jnp.eye(valid.shape[0], dtype=bool)
  own = jnp.sum(views * partners, axis=1) / temperature
  scores = jnp.where(others, gram(views, views) / temperature, EXCLUDED)
  return jnp.where(valid, _not_negative(jax.nn.logsumexp(scores, axis=1) - own), 0)


def crd_inbatch(
  student_embeddings: jax.Array,
  teacher_embeddings: jax.Array,
  *,
  temperature: float = 0.07,
  where: jax.Array | None = None,
) -> jax.Array:
  """Contrastive distillation without a memory: `nt_xent` with student and teacher as the two views.

  The practical stand-in for CRD, and not CRD: negatives are those of the batch, examples of the same class included.
  **Coupled over the batch.** As in `crd_loss`, gradients reach the teacher's side, whose head is trained.

  Args:
    student_embeddings: `[B, D]`, the output of the student's head.
    teacher_embeddings: `[B, D]`, the output of the teacher's head on stopped features.
    temperature: > 0.
    where: `[B]`; excluded examples are nobody's negatives and get the loss 0.

  Returns:
    `[B]` in nats, the mean of both directions.

  Raises:
    ValueError: if the embeddings are not matrices of one shape with at least two rows, `temperature <= 0`, or `where`
      is not `[B]`.

  Cost: `4 B^2 * D` on matrix units.

  References:
    Tian et al., "Contrastive Representation Distillation" (arXiv 1910.10699), for the idea.
  """
  both = nt_xent(student_embeddings, teacher_embeddings, temperature=temperature, where=where)
  return jnp.mean(both.reshape(2, -1), axis=0)


class CRDState(NamedTuple):
  """What CRD remembers between steps.

  Attributes:
    bank_s: `[N, D]`, the student's embedding of every training example, of unit length once it was seen.
    bank_t: `[N, D]`, the teacher's.
    log_z_s: scalar, log of the constant that normalises scores of the student's embeddings (against `bank_t`); minus
      infinity until the first step sets it for good. A logarithm, since the constant overflows at low temperatures.
    log_z_t: scalar, the same for the teacher's embeddings (against `bank_s`).
  """

  bank_s: jax.Array
  bank_t: jax.Array
  log_z_s: jax.Array
  log_z_t: jax.Array


def crd_init(key: jax.Array, num_examples: int, *, features: int = 128) -> CRDState:
  """Banks with independent entries uniform in `+-sqrt(3 / features)`, rows of about unit length, and no constants.

  Args:
    key: `jax.random.key`.
    num_examples: `N`, the size of the training set.
    features: `D`, the width of the heads.

  Returns:
    A `CRDState` in float32; `2 * N * D * 4` bytes (51 MB for 50,000 examples).

  Raises:
    ValueError: if a size is below 1.
  """
  if num_examples < 1 or features < 1:
    raise ValueError(f"crd_init: num_examples and features must be at least 1, got {num_examples} and {features}")
  bound = (3 / features) ** 0.5
  banks = jax.random.uniform(key, (2, num_examples, features), jnp.float32, -bound, bound)
  return CRDState(banks[0], banks[1], jnp.float32(-jnp.inf), jnp.float32(-jnp.inf))


def crd_negatives(
  key: jax.Array, labels: jax.Array, train_labels: jax.Array, count: int, *, where: jax.Array | None = None
) -> jax.Array:
  """Draws examples of other classes, uniformly and with repetition.

  Args:
    key: `jax.random.key`.
    labels: `[B]` integers, the classes of the batch.
    train_labels: `[N]` integers, the classes of the training set; at least two of them must occur.
    count: `K`, negatives per example; 16384 in the paper. (The released code repeats only when a class has fewer
      others than `K`.)
    where: `[N]`, which training examples may be drawn; at least two classes must be among them.

  Returns:
    `[B, count]` int32 indices into the training set, none of the class of its row.

  Raises:
    ValueError: if the labels are not integer vectors, `count < 1`, or `where` is not `[N]`.

  Cost: a sort of the training labels.
  """
  labels, train_labels = jnp.asarray(labels), jnp.asarray(train_labels)
  for side, x in (("labels", labels), ("train_labels", train_labels)):
    if x.ndim != 1 or not jnp.issubdtype(x.dtype, jnp.integer):
      raise ValueError(f"crd_negatives: {side} must be a vector of integers, got {x.dtype} {x.shape}")
  if count < 1:
    raise ValueError(f"crd_negatives: count must be at least 1, got {count}")
  allowed = row_mask("crd_negatives", where, train_labels.shape[0])
  train_labels = jnp.where(allowed, train_labels, jnp.iinfo(train_labels.dtype).max)  # the excluded come last
  order = jnp.argsort(train_labels)
  ordered = train_labels[order]
  first = jnp.searchsorted(ordered, labels, side="left").astype(jnp.int32)[:, None]  # [B, 1]
  own = jnp.searchsorted(ordered, labels, side="right").astype(jnp.int32)[:, None] - first
  others = jnp.maximum(jnp.sum(allowed).astype(jnp.int32) - own, 1)
  drawn = jax.random.randint(key, (labels.shape[0], count), 0, jnp.broadcast_to(others, (labels.shape[0], count)))
  return order[jnp.where(drawn >= first, drawn + own, drawn)].astype(jnp.int32)  # steps over the block of its class


def _scores(embeddings: jax.Array, bank: jax.Array, ids: jax.Array) -> jax.Array:
  """`<embeddings_i, bank[ids_ij]>`, `[B, 1 + K]`."""
  if bank.shape[0] <= ids.shape[1] * bank.shape[1]:  # all N scores take less memory than [B, 1 + K, D] gathered rows
    return jnp.take_along_axis(gram(embeddings, bank), ids, axis=1)
  return gram(embeddings[:, None], bank[ids])[:, 0]


def _normaliser(log_z: jax.Array, scores: jax.Array, valid: jax.Array, size: int) -> jax.Array:
  """`log(N * mean(exp(scores)))` of this batch if there is none yet."""
  kept = jnp.where(valid[:, None], jax.lax.stop_gradient(scores), -jnp.inf)
  count = jnp.sum(valid).astype(scores.dtype) * scores.shape[1]
  fresh = jax.nn.logsumexp(kept) + jnp.log(size / jnp.maximum(count, 1))
  return jnp.where(jnp.isneginf(log_z), fresh.astype(log_z.dtype), log_z)


def _noise_contrast(scores: jax.Array, log_z: jax.Array, noise: float) -> jax.Array:
  ratio = scores - jnp.where(jnp.isneginf(log_z), 0, log_z) - jnp.log(jnp.asarray(noise, scores.dtype))
  return jax.nn.softplus(-ratio[:, 0]) + jnp.sum(jax.nn.softplus(ratio[:, 1:]), axis=1)


def _remember(bank: jax.Array, embeddings: jax.Array, rows: jax.Array, momentum: float) -> jax.Array:
  old = bank.at[rows].get(mode="clip")
  mixed = momentum * old + (1 - momentum) * jax.lax.stop_gradient(embeddings).astype(bank.dtype)
  return bank.at[rows].set(unit(mixed), mode="drop")


def crd_loss(
  state: CRDState,
  student_embeddings: jax.Array,
  teacher_embeddings: jax.Array,
  indices: jax.Array,
  negatives: jax.Array,
  *,
  temperature: float = 0.07,
  momentum: float = 0.5,
  where: jax.Array | None = None,
) -> tuple[jax.Array, CRDState]:
  """CRD: tell the own entry of the other network's memory from `K` entries of other classes, in both directions.

  With `s(v, m) = exp(<v, m> / T) / Z` and noise `c = K / N`, one direction is
  `-log(s_0 / (s_0 + c)) - sum_k log(c / (s_k + c))`; entry 0 is the example's own. `Z` is `N` times the mean of
  `exp(<v, m> / T)` over all pairs of the **first** batch and then stays. The student's embeddings meet the teacher's
  bank and the other way round; both losses are added. Then the bank's entries of this batch become
  `normalise(momentum * old + (1 - momentum) * new)`.

  Gradients reach the teacher's embeddings, because its head is trained as well: stop the features that enter the
  head. Banks have no gradient. Per example, except that the first batch fixes `Z`.

  Args:
    state: from `crd_init`, then from the step before.
    student_embeddings: `[B, D]`, the output of the student's head; normalised here.
    teacher_embeddings: `[B, D]`, the output of the teacher's head; normalised here.
    indices: `[B]` integers in `[0, N)`, which training examples these are, no two (kept ones) alike. Where traced code
      has one outside the bank, or such a negative, which it cannot refuse, that example has the loss NaN without a
      gradient, and neither the banks nor `Z` see it.
    negatives: `[B, K]` integers in `[0, N)`, see `crd_negatives`.
    temperature: `T > 0`.
    momentum: of the banks, in [0, 1].
    where: `[B]`; excluded examples get the loss 0, do not count for `Z` and leave the banks alone.

  Returns:
    `(loss [B] in nats, new state)`. The usual weight is 0.8.

  Raises:
    ValueError: if the embeddings are not matrices of one shape and of the banks' width, `indices` or `negatives` are
      not integers of these shapes or are seen to leave the bank, `temperature <= 0`, `momentum` is outside [0, 1], or
      `where` is not `[B]`.

  Cost: two products of the batch with a whole bank (`2 B * N * D`), or for very large sets `2 B * K` gathered rows,
  whichever needs less memory; and the banks themselves.

  References:
    Tian et al., "Contrastive Representation Distillation" (arXiv 1910.10699), eqs. 17-19 (numbers unverified). Differs
    from the released code in working with logarithms, so without its 1e-7 in the denominators.
  """
  name = "crd_loss"
  student, teacher = widen(student_embeddings), widen(teacher_embeddings)
  check_rank(name, "student_embeddings", student, 2)
  given = row_mask(name, where, student.shape[0])
  _check_crd(name, state, student, teacher, indices, negatives, temperature, momentum, where)
  indices, negatives = jnp.asarray(indices), jnp.asarray(negatives)
  size = state.bank_s.shape[0]
  ids = jnp.concatenate([indices[:, None], negatives.astype(indices.dtype)], axis=1)
  inside = jnp.all((ids >= 0) & (ids < size), axis=1)
  valid = given & inside
  student, teacher = unit(keep(student, valid)), unit(keep(teacher, valid))
  ids = jnp.where(valid[:, None], ids, 0)
  banks = jax.lax.stop_gradient((state.bank_s, state.bank_t))
  scores_s = _scores(student, widen(banks[1]).astype(student.dtype), ids) / temperature  # [B, 1 + K]
  scores_t = _scores(teacher, widen(banks[0]).astype(teacher.dtype), ids) / temperature
  log_z_s = _normaliser(state.log_z_s, scores_s, valid, size)
  log_z_t = _normaliser(state.log_z_t, scores_t, valid, size)
  noise = negatives.shape[1] / size
  loss = _noise_contrast(scores_s, log_z_s.astype(scores_s.dtype), noise)
  loss = loss + _noise_contrast(scores_t, log_z_t.astype(scores_t.dtype), noise)
  rows = jnp.where(valid, indices, size)  # beyond the bank: dropped
  new = CRDState(
    _remember(banks[0], student, rows, momentum), _remember(banks[1], teacher, rows, momentum), log_z_s, log_z_t
  )
  return jnp.where(valid, loss, jnp.where(given, jnp.nan, 0)), new


def _check_crd(name, state, student, teacher, indices, negatives, temperature, momentum, where):
  check_temperature(name, temperature)
  check_share(name, momentum=momentum)
  check_same_shape(name, student_embeddings=student, teacher_embeddings=teacher)
  (batch, width), size = student.shape, state.bank_s.shape[0]
  if state.bank_s.shape[1] != width:
    raise ValueError(f"{name}: embeddings {student.shape} and banks {state.bank_s.shape} differ in width")
  for argument, given, shape in (("indices", indices, (batch,)), ("negatives", negatives, (batch, "K"))):
    x = jnp.asarray(given)
    fits = x.ndim == len(shape) and x.shape[:1] == (batch,) and (x.ndim == 1 or x.shape[1] > 0)
    if not fits or not jnp.issubdtype(x.dtype, jnp.integer):
      raise ValueError(f"{name}: {argument} must be integers of shape {shape}, got {x.dtype} {x.shape}")
    if known(given) and known(where):
      kept = np.ones(batch, bool) if where is None else np.asarray(where).astype(bool)
      if outside := outside_range(np.asarray(given)[kept], size):
        raise ValueError(f"{name}: {argument} must be rows of the bank, in [0, {size}), got {outside}")
