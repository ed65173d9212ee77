"""Losses of logits that are never there at once: a head is applied to a few rows, or in a few columns, at a time.

Any loss of tokens that is a sum over the vocabulary, `l = sum_v f(log s_v, log t_v)` with `log s = z / T - lse(z / T)`,
has

    dl / dz_v = (f'_v - s_v sum_u f'_u) / T,   f' = df / d(log s)

The value needs whole rows: the forward pass takes a block of rows through the whole head, so that each product is
computed once, whatever the divergence. Beside the value it keeps a few numbers per row: highest logit, log-sum-exp and
`sum_u f'_u`. With those the gradient needs no whole row: the backward pass goes over chunks of columns, each of which
gives its part of the head's gradient and adds to that of the hidden states. Blocks of rows would have to add to the
whole gradient of the head each time.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.losses.divergence import summand
from jdistill.ops.logits import finite_logits


class Plan(NamedTuple):
  """What is known before anything is traced.

  Attributes:
    kind: of the divergence; `None` if there is none.
    labels: there are labels, whose cross entropy is wanted.
    vocabulary: tokens; the head's further rows are padding.
    chunk: columns at a time in the backward pass.
    rows: rows at a time in the forward pass.
    tied: whether the heads of student and teacher are `[V, D]`, as embeddings are, and not `[D, V]`.
  """

  kind: str | None
  labels: bool
  vocabulary: int
  chunk: int
  rows: int
  tied: tuple[bool, bool]


class Side(NamedTuple):
  """Hidden states `[N, D]`, a head `[D, V]` or `[V, D]`, and a bias `[V]` or `None`."""

  hidden: jax.Array
  head: jax.Array
  bias: jax.Array | None


class Numbers(NamedTuple):
  """Scalars that may be traced; `interpolation` is TAID's `t`, or `None` for the teacher itself."""

  temperature: jax.Array
  beta: jax.Array
  skew: jax.Array
  interpolation: jax.Array | None


class _Softmax(NamedTuple):
  """`log softmax(z / T) = (z - highest) / T - log_sum`, both `[n]`: dividing first would round large logits."""

  highest: jax.Array
  log_sum: jax.Array

  def log_probs(self, z: jax.Array, temperature: jax.Array) -> jax.Array:
    return (z - self.highest[:, None]) / temperature - self.log_sum[:, None]


class _Rows(NamedTuple):
  """What the backward pass needs of each row."""

  student: _Softmax
  teacher: _Softmax | None
  slope: jax.Array | None  # sum_u f'_u
  plain: _Softmax | None  # of the student at temperature 1


def accumulated(*kinds: jnp.dtype) -> jnp.dtype:
  """The type in which products of such arrays are added up and losses computed: as `widen`."""
  return jnp.dtype(jnp.float64 if jnp.float64 in kinds else jnp.float32)


def _logits(side: Side, tied: bool) -> jax.Array:
  """`[n, V]` in float32 (or float64), at least about -1e30."""
  wide = accumulated(side.hidden.dtype)
  contracted = (((1,), (1 if tied else 0,)), ((), ()))
  z = lax.dot_general(side.hidden, side.head, contracted, preferred_element_type=wide)
  return finite_logits(z if side.bias is None else z + side.bias.astype(wide)[None])


def _softmax(z: jax.Array, temperature: jax.Array) -> _Softmax:
  highest = jnp.max(z, axis=-1)
  return _Softmax(highest, jnp.log(jnp.sum(jnp.exp((z - highest[:, None]) / temperature), axis=-1)))


def _target(student: jax.Array, teacher: jax.Array, numbers: Numbers) -> jax.Array:
  t = numbers.interpolation
  return teacher if t is None else (1 - t) * student + t * teacher


def _functions(plan: Plan, numbers: Numbers):
  """`f` and `f'`, of `(log s, log t)`."""
  return summand("chunked_divergence", plan.kind, numbers.beta, numbers.skew)


def _block(plan: Plan, student: Side, teacher: Side | None, numbers: Numbers, labels: jax.Array | None):
  """Value of the divergence, cross entropy, and what is kept, of a few rows."""
  z = _logits(student, plan.tied[0])[:, : plan.vocabulary]
  none = jnp.zeros(z.shape[:1], z.dtype)
  divergence, entropy, kept = none, none, _Rows(_softmax(z, numbers.temperature), None, None, None)
  if plan.kind is not None:
    target = _target(z, _logits(teacher, plan.tied[1])[:, : plan.vocabulary], numbers)
    kept = kept._replace(teacher=_softmax(target, numbers.temperature))
    pair = [side.log_probs(x, numbers.temperature) for side, x in ((kept.student, z), (kept.teacher, target))]
    divergence, slope = (jnp.sum(function(*pair), axis=-1) for function in _functions(plan, numbers))
    kept = kept._replace(slope=slope)
  if plan.labels:
    kept = kept._replace(plain=_softmax(z, jnp.ones((), z.dtype)))
    own = lax.broadcasted_iota(jnp.int32, z.shape, 1) == labels[:, None]
    entropy = -jnp.sum(jnp.where(own, kept.plain.log_probs(z, jnp.ones((), z.dtype)), 0), axis=-1)
  return divergence, entropy, kept


def _by_rows(plan: Plan, student: Side, teacher: Side | None, numbers: Numbers, labels: jax.Array | None):
  """`_block` over all rows."""
  size = student.hidden.shape[0]
  blocks = -(-size // plan.rows)

  def split(x):
    if x is None:
      return None
    padded = jnp.concatenate([x, jnp.zeros((blocks * plan.rows - size, *x.shape[1:]), x.dtype)])
    return padded.reshape(blocks, plan.rows, *x.shape[1:])

  def one(rows):
    hidden, other, y = rows
    sides = student._replace(hidden=hidden), None if teacher is None else teacher._replace(hidden=other)
    return _block(plan, *sides, numbers, y)

  rows = split(student.hidden), None if teacher is None else split(teacher.hidden), split(labels)
  return jax.tree.map(lambda x: x.reshape(blocks * plan.rows)[:size], lax.map(one, rows))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def losses_of_heads(
  plan: Plan, student: Side, teacher: Side | None, numbers: Numbers, labels: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
  """Divergence and cross entropy with labels, `[N]` each; 0 for what the plan does not have.

  The gradient is that of the student's hidden states, head and bias; numbers have none.
  """
  return _by_rows(plan, student, teacher, numbers, labels)[:2]


def _forward(plan, student, teacher, numbers, labels):
  divergence, entropy, kept = _by_rows(plan, student, teacher, numbers, labels)
  return (divergence, entropy), (student, teacher, numbers, labels, kept)


def _columns(side: Side, tied: bool, start: jax.Array, size: int) -> Side:
  head = lax.dynamic_slice_in_dim(side.head, start, size, axis=0 if tied else 1)
  return Side(side.hidden, head, None if side.bias is None else lax.dynamic_slice_in_dim(side.bias, start, size))


def _slopes(plan, student, teacher, numbers, labels, kept, cotangents, start):
  """`dl / dz [N, chunk]` of a chunk of columns, times the cotangents."""
  z = _logits(student, plan.tied[0])
  out = jnp.zeros_like(z)
  if plan.kind is not None:
    target = _target(z, _logits(teacher, plan.tied[1]), numbers)
    log_s = kept.student.log_probs(z, numbers.temperature)
    slope = _functions(plan, numbers)[1](log_s, kept.teacher.log_probs(target, numbers.temperature))
    out += (slope - jnp.exp(log_s) * kept.slope[:, None]) * (cotangents[0] / numbers.temperature)[:, None]
  if plan.labels:
    own = start + lax.broadcasted_iota(jnp.int32, z.shape, 1) == labels[:, None]
    known = ((labels >= 0) & (labels < plan.vocabulary))[:, None]
    gap = jnp.exp(kept.plain.log_probs(z, jnp.ones((), z.dtype))) - own.astype(z.dtype)
    out += jnp.where(known, gap, 0) * cotangents[1][:, None]
  return out


def _backward(plan, saved, cotangents):
  student, teacher, numbers, labels, kept = saved
  chunks = -(-plan.vocabulary // plan.chunk)
  tied = plan.tied[0]

  def step(gradient: Side, number):
    # the last chunk ends with the vocabulary. It comes first: what it shares with the one before is written again
    start = jnp.minimum(number * plan.chunk, plan.vocabulary - plan.chunk)
    sides = _columns(student, tied, start, plan.chunk), None
    if teacher is not None:
      sides = sides[0], _columns(teacher, plan.tied[1], start, plan.chunk)
    slopes = _slopes(plan, *sides, numbers, labels, kept, cotangents, start)
    place = start + lax.broadcasted_iota(jnp.int32, slopes.shape, 1)
    slopes = jnp.where(place >= number * plan.chunk, slopes, 0)
    narrow = slopes.astype(student.head.dtype)
    by_rows = (((1,), (0 if tied else 1,)), ((), ()))
    hidden = gradient.hidden + lax.dot_general(narrow, sides[0].head, by_rows, preferred_element_type=slopes.dtype)
    pair = (narrow, student.hidden) if tied else (student.hidden, narrow)
    part = lax.dot_general(*pair, (((0,), (0,)), ((), ())), preferred_element_type=slopes.dtype)
    head = lax.dynamic_update_slice_in_dim(gradient.head, part.astype(gradient.head.dtype), start, 0 if tied else 1)
    bias = gradient.bias
    if bias is not None:
      bias = lax.dynamic_update_slice_in_dim(bias, jnp.sum(slopes, axis=0).astype(bias.dtype), start, 0)
    return Side(hidden, head, bias), None

  wide = cotangents[0].dtype
  zero = Side(jnp.zeros(student.hidden.shape, wide), *jax.tree.map(jnp.zeros_like, student[1:]))
  gradient, _ = lax.scan(step, zero, jnp.arange(chunks - 1, -1, -1, dtype=jnp.int32))
  return gradient._replace(hidden=gradient.hidden.astype(student.hidden.dtype)), None, None, None


losses_of_heads.defvjp(_forward, _backward)
