"""Losses from hidden states and heads against those of the whole logits: values and gradients, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import losses

RNG = np.random.default_rng(0)
N, V, WIDTH, TEACHER_WIDTH = 7, 29, 5, 6  # 29 is prime: the last chunk is never whole
NAMES = ("student_hidden", "student_head", "student_bias")
SHAPES = {
  "student_hidden": (N, WIDTH), "student_head": (WIDTH, V), "student_bias": (V,),
  "teacher_hidden": (N, TEACHER_WIDTH), "teacher_head": (TEACHER_WIDTH, V), "teacher_bias": (V,),
}  # fmt: skip
ARRAYS = {name: RNG.normal(size=shape) for name, shape in SHAPES.items()}
LABELS = RNG.integers(0, V, N)
WEIGHT = RNG.normal(size=N)  # cotangents of both signs
KINDS = ("forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "total_variation", "soft_cross_entropy")


def arguments(arrays):
  four = [arrays[name] for name in ("student_hidden", "student_head", "teacher_hidden", "teacher_head")]
  return four, {name: arrays[name] for name in ("student_bias", "teacher_bias") if name in arrays}


def chunked(function, arrays, **options):
  four, biases = arguments(arrays)
  return function(*four, **biases, **options)


def logits(arrays, side):
  z = arrays[f"{side}_hidden"] @ arrays[f"{side}_head"]
  return z + arrays[f"{side}_bias"].reshape(*(1,) * (z.ndim - 1), -1) if f"{side}_bias" in arrays else z


def full(arrays, *, interpolation=None, **options):
  student, teacher = logits(arrays, "student"), logits(arrays, "teacher")
  if interpolation is not None:
    teacher = losses.interpolated_target(student, teacher, interpolation)
  return losses.token_divergence(student, teacher, **options)


def both(function, arrays, names=NAMES):
  """Values `[N]`, and the gradients of their weighted sum."""

  def total(learned):
    values = function(arrays | learned)
    return jnp.sum(values * WEIGHT.astype(values.dtype)), values

  learned = {name: jnp.asarray(arrays[name]) for name in names if name in arrays}
  (_, values), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(learned)
  return values, gradient


def same(function, other, arrays, names=NAMES):
  (values, gradient), (want, slope) = both(function, arrays, names), both(other, arrays, names)
  np.testing.assert_allclose(values, want, rtol=1e-10, atol=1e-12)
  for name, value in slope.items():
    assert np.abs(value).max() > 1e-3
    np.testing.assert_allclose(gradient[name], value, rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
  "kind, chunk", [*((kind, 4) for kind in KINDS), *(("jsd", chunk) for chunk in (1, 28, 29, 1000))]
)
def test_equal_to_the_whole_loss(x64, kind, chunk):
  options = {"kind": kind, "temperature": 1.7, "beta": 0.3, "skew": 0.2}
  same(
    lambda arrays: chunked(losses.chunked_divergence, arrays, chunk=chunk, **options),
    lambda arrays: full(arrays, **options),
    ARRAYS,
  )


@pytest.mark.parametrize("kind", ["soft_cross_entropy", "jsd"])
@pytest.mark.parametrize("interpolation", [0.0, 0.4, 1.0])
def test_a_target_between_student_and_teacher(x64, kind, interpolation):
  options = {"kind": kind, "interpolation": interpolation, "temperature": 2.0}
  if interpolation:
    same(
      lambda arrays: chunked(losses.chunked_divergence, arrays, chunk=8, **options),
      lambda arrays: full(arrays, **options),
      ARRAYS,
    )
  else:
    _, gradient = both(lambda arrays: chunked(losses.chunked_divergence, arrays, chunk=8, **options), ARRAYS)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) < 1e-14


def test_cross_entropy_with_labels(x64):
  labels = np.where(np.arange(N) == 3, -1, LABELS)
  same(
    lambda a: losses.chunked_cross_entropy(
      a["student_hidden"], a["student_head"], labels, bias=a["student_bias"], chunk=8
    ),
    lambda a: losses.cross_entropy(logits(a, "student"), labels),
    ARRAYS,
  )


@pytest.mark.parametrize("kind", ["forward_kl", "skew_reverse_kl"])
def test_both_terms_at_once(x64, kind):
  labels = np.where(np.arange(N) == 3, -1, LABELS)
  options = {"kind": kind, "temperature": 3.0, "skew": 0.2}
  same(
    lambda a: chunked(
      functools.partial(losses.chunked_kd_loss, labels=labels, ce_weight=0.3, kd_weight=2.0), a, chunk=8, **options
    ),
    lambda a: 0.3 * losses.cross_entropy(logits(a, "student"), labels) + 2.0 * full(a, **options),
    ARRAYS,
  )


@pytest.mark.parametrize("kind", KINDS)
def test_finite_differences(x64, kind):
  """Against nothing but the values, along a direction in all that learns."""
  function = jax.jit(
    lambda learned: jnp.sum(chunked(losses.chunked_divergence, ARRAYS | learned, kind=kind, chunk=8) * WEIGHT)
  )
  learned = {name: ARRAYS[name] for name in NAMES}
  direction = {name: RNG.normal(size=value.shape) for name, value in learned.items()}
  moved = [jax.tree.map(lambda x, d, e=e: x + e * d, learned, direction) for e in (1e-6, -1e-6)]
  want = (function(moved[0]) - function(moved[1])) / 2e-6
  gradient = jax.grad(function)(learned)
  found = sum(jnp.sum(gradient[name] * direction[name]) for name in NAMES)
  np.testing.assert_allclose(found, want, rtol=1e-6)


@pytest.mark.parametrize("kind", ["forward_kl", "jsd", "skew_kl", "total_variation"])
def test_masked_tokens_of_the_vocabulary(x64, kind):
  biases = {side: ARRAYS[side].copy() for side in ("student_bias", "teacher_bias")}
  biases["student_bias"][[3, 28]] = biases["teacher_bias"][[3, 28]] = -np.inf  # on both sides
  biases["teacher_bias"][11] = -np.inf
  arrays = ARRAYS | biases
  options = {"kind": kind, "temperature": 2.0}
  function = lambda a: chunked(losses.chunked_divergence, a, chunk=8, **options)  # noqa: E731
  same(function, lambda a: full(a, **options), arrays)
  _, gradient = both(function, arrays)
  assert not gradient["student_head"][:, [3, 28]].any() and not gradient["student_bias"][jnp.array([3, 28])].any()


def test_a_label_that_is_masked_out_is_expensive_but_finite():
  bias = jnp.zeros(V).at[4].set(-jnp.inf)
  hidden, head = jnp.float32(ARRAYS["student_hidden"]), jnp.float32(ARRAYS["student_head"])
  value, gradient = jax.value_and_grad(
    lambda h: losses.chunked_cross_entropy(h, head, jnp.full(N, 4), bias=bias, chunk=8).sum()
  )(hidden)
  assert 1e20 < value < np.inf and np.isfinite(gradient).all()


@pytest.mark.parametrize("tied", [(True, False), (False, True), (True, True)])
def test_heads_that_are_embeddings(x64, tied):
  def flipped(function):
    def call(arrays):
      turned = {
        f"{side}_head": arrays[f"{side}_head"].T for side, one in zip(("student", "teacher"), tied, strict=True) if one
      }
      return function(arrays | turned)

    return call

  call = lambda a: chunked(losses.chunked_divergence, a, student_tied=tied[0], teacher_tied=tied[1], chunk=8)  # noqa: E731
  same(flipped(call), full, ARRAYS)
  one = {"head": jnp.asarray(ARRAYS["student_head"].T)}
  found = jax.grad(
    lambda p: losses.chunked_cross_entropy(ARRAYS["student_hidden"], p["head"], LABELS, tied=True, chunk=8).sum()
  )(one)
  want = jax.grad(lambda p: losses.cross_entropy(ARRAYS["student_hidden"] @ p["head"].T, LABELS).sum())(one)
  np.testing.assert_allclose(found["head"], want["head"], rtol=1e-10, atol=1e-12)


def test_heads_padded_to_different_sizes(x64):
  """Padding is no part of a softmax and has no gradient."""
  pads = {"student": 3, "teacher": 11}
  padded = {
    f"{side}_head": np.concatenate([ARRAYS[f"{side}_head"], np.full((len(ARRAYS[f"{side}_head"]), extra), 9.0)], axis=1)
    for side, extra in pads.items()
  } | {f"{side}_hidden": ARRAYS[f"{side}_hidden"] for side in pads}
  plain = {name: value for name, value in ARRAYS.items() if "bias" not in name}
  values, gradient = both(lambda a: chunked(losses.chunked_divergence, a, vocabulary=V, chunk=8), padded)
  want, slope = both(full, plain)
  np.testing.assert_allclose(values, want, rtol=1e-10)
  np.testing.assert_allclose(gradient["student_hidden"], slope["student_hidden"], rtol=1e-10, atol=1e-12)
  np.testing.assert_allclose(gradient["student_head"][:, :V], slope["student_head"], rtol=1e-10, atol=1e-12)
  assert not gradient["student_head"][:, V:].any()
  with pytest.raises(ValueError, match="heads of 32 and 40 tokens; give vocabulary"):
    chunked(losses.chunked_divergence, padded)


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean", "sequence_sum"])
def test_masks_of_sequences_and_reductions(x64, reduction):
  arrays = {name: value.reshape(1, 7, -1) if "hidden" in name else value for name, value in ARRAYS.items()}
  arrays = {name: np.concatenate([v, 2 * v, v]) if "hidden" in name else v for name, v in arrays.items()}  # [3, 7, D]
  where = np.arange(7)[None] < np.array([7, 2, 0])[:, None]

  def total(function, learned, mask):
    return losses.reduce_tokens(function(arrays | learned, mask), mask, reduction=reduction)

  def clean(a, mask):
    return full(a, kind="jsd")

  def call(a, mask):
    spoilt = {name: jnp.where(where[..., None], a[name], jnp.nan) for name in ("student_hidden", "teacher_hidden")}
    return chunked(losses.chunked_divergence, a | spoilt, kind="jsd", chunk=8, where=mask)

  learned = {name: jnp.asarray(arrays[name]) for name in NAMES}
  value, gradient = jax.value_and_grad(lambda p: total(call, p, where))(learned)
  want, slope = jax.value_and_grad(lambda p: total(clean, p, where))(learned)
  np.testing.assert_allclose(value, want, rtol=1e-10)
  for name in NAMES:
    np.testing.assert_allclose(gradient[name], slope[name], rtol=1e-10, atol=1e-12)
  nothing, none = jax.value_and_grad(lambda p: total(call, p, np.zeros_like(where)))(learned)
  assert nothing == 0 and not any(leaf.any() for leaf in jax.tree.leaves(none))


def test_half_precision_is_as_good_as_whole_logits():
  half = {name: jnp.bfloat16(value) for name, value in ARRAYS.items() if "bias" not in name}
  wide = {name: np.float32(value) for name, value in half.items()}
  values, gradient = both(lambda a: chunked(losses.chunked_divergence, a, chunk=8), half)
  want, slope = both(full, wide)
  assert values.dtype == jnp.float32 and {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("bfloat16")}
  np.testing.assert_allclose(values, want, rtol=1e-4, atol=1e-5)
  for name, value in gradient.items():
    # slopes and results are rounded to 8 bits
    np.testing.assert_allclose(np.float32(value), slope[name], rtol=2**-7, atol=2**-7 * np.abs(slope[name]).max())


def test_no_gradient_for_the_teacher_and_the_numbers():
  arrays = {name: jnp.float32(value) for name, value in ARRAYS.items()}
  teacher = {name: value for name, value in arrays.items() if "teacher" in name}
  gradient = jax.grad(lambda t: chunked(losses.chunked_divergence, arrays | t, chunk=8).sum())(teacher)
  assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))
  call = lambda x: chunked(losses.chunked_divergence, arrays, kind="jsd", temperature=x, beta=x / 4, chunk=8).sum()  # noqa: E731
  assert jax.grad(call)(2.0) == 0


def test_the_largest_array_of_the_compiled_program_is_a_chunk():
  """Shapes of everything that is computed, forward and backward: nothing has as many numbers as the logits."""
  rows, width, size, chunk = 64, 4, 1000, 50
  shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((rows, width), (width, size)) * 2]

  def largest(function):
    text = jax.jit(jax.grad(lambda *a: jnp.sum(function(*a)), argnums=(0, 1))).lower(*shapes).as_text()
    found = [
      np.prod([int(n) for n in part.split("x")[:-1]])
      for part in (piece.split(">")[0] for piece in text.split("tensor<")[1:])
      if part.endswith("xf32")
    ]
    return max(found)

  assert largest(functools.partial(losses.chunked_divergence, kind="jsd", chunk=chunk)) <= max(
    width * size, rows * chunk + size
  )
  assert largest(lambda s, a, t, b: losses.kl_divergence(s @ a, t @ b)) == rows * size


@pytest.mark.parametrize(
  "change, message",
  [
    ({"kind": "adaptive_kl"}, "kind='adaptive_kl' is not one of forward_kl"),
    ({"kind": "jsd", "beta": 0.0}, r"beta must be in \(0, 1\)"),
    ({"kind": "skew_kl", "skew": 1.0}, r"skew must be in \(0, 1\)"),
    ({"interpolation": 1.5}, r"interpolation must be in \[0, 1\]"),
    ({"chunk": 0}, "chunk=0 must be at least 1"),
    ({"vocabulary": V + 1}, f"vocabulary={V + 1} must lie in 1..{V}"),
    ({"student_tied": True}, r"student's head \(5, 29\) must be \[V, D\]"),
    ({"teacher_bias": np.zeros(3)}, r"teacher's bias must have shape \(29,\), got \(3,\)"),
    ({"temperature": 0.0}, "temperature must be > 0"),
    ({"where": np.ones(3, bool)}, r"where \(3,\) must be a leading part of \(7,\)"),
  ],
)
def test_bad_arguments(change, message):
  arrays = {name: np.float32(value) for name, value in ARRAYS.items() if "bias" not in name}
  with pytest.raises(ValueError, match=message) as caught:
    chunked(losses.chunked_divergence, arrays, **change)
  assert "\n" not in str(caught.value)
  with pytest.raises(ValueError, match="differ in tokens"):
    chunked(losses.chunked_divergence, arrays | {"teacher_hidden": arrays["teacher_hidden"][:3]})
