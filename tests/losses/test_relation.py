"""Relational losses against loops over pairs and triplets in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill.losses import relation

RNG = np.random.default_rng(3)
S, T = RNG.normal(size=(5, 2)) * 3, RNG.normal(size=(5, 3))
BOTH = [relation.rkd_distance_loss, relation.rkd_angle_loss]


def huber(x):
  return np.where(np.abs(x) < 1, x * x / 2, np.abs(x) - 0.5)


def reference_distance(s, t):
  def relative(x):
    d = np.linalg.norm(x[:, None] - x[None], axis=-1)
    return d / d[~np.eye(len(x), dtype=bool)].mean()

  return huber(relative(s) - relative(t)).mean(1)


def reference_angle(s, t):
  def cosine(x, i, j, k):
    a, b = x[j] - x[i], x[k] - x[i]
    if not (a.any() and b.any()):
      return 0.0
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

  n = range(len(s))
  return np.array([np.mean([huber(cosine(s, i, j, k) - cosine(t, i, j, k)) for j in n for k in n]) for i in n])


@pytest.mark.parametrize("loss, reference", list(zip(BOTH, [reference_distance, reference_angle], strict=True)))
def test_equals_numpy(x64, loss, reference):
  s, t = jnp.asarray(S), jnp.asarray(T)
  got = jax.jit(loss)
  np.testing.assert_allclose(got(s, t), reference(S, T), rtol=1e-10)
  check_grads(lambda s: got(s, t), (s,), order=1, modes=["rev"])
  assert not jax.grad(lambda t: got(s, t).sum())(t).any()


def test_literal_numbers():
  # distances 3, 4, 5 and 1, 1, 2 with the means 4 and 4/3: relative ones 0.75, 1, 1.25 and 0.75, 0.75, 1.5
  s, t = jnp.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]), jnp.array([[0.0], [1.0], [-1.0]])
  error = 0.25**2 / 2
  want = [error / 3, error / 3, 2 * error / 3]
  np.testing.assert_allclose(jax.jit(relation.rkd_distance_loss)(s, t), want, rtol=1e-5)
  # cosines at the three corners: 0, 0.6, 0.8 and -1, 1, 1; each pair counts twice among nine
  angles = jax.jit(relation.rkd_angle_loss)(s, t)
  np.testing.assert_allclose(angles, [2 * 0.5 / 9, 2 * 0.08 / 9, 2 * 0.02 / 9], rtol=1e-5)


def test_huber_turns_linear_at_delta():
  np.testing.assert_allclose(relation._huber(jnp.array([0.5, 2.0, -3.0]), 2.0), [0.125, 2.0, 4.0])


@pytest.mark.parametrize("loss", BOTH)
def test_invariances(x64, loss):
  rotation = np.linalg.qr(RNG.normal(size=(2, 2)))[0]
  s, t = jnp.asarray(S), jnp.asarray(T)
  got = jax.jit(loss)
  base = got(s, t)
  np.testing.assert_allclose(got(jnp.asarray(7 * S @ rotation + 5), t), base, rtol=1e-9)
  np.testing.assert_allclose(got(s, jnp.asarray(0.1 * T - 3)), base, rtol=1e-9)
  order = np.array([3, 0, 4, 1, 2])
  np.testing.assert_allclose(got(s[order], t[order]), base[order], rtol=1e-9)
  np.testing.assert_allclose(got(jnp.asarray(2 * S @ rotation), s), 0, atol=1e-15)


@pytest.mark.parametrize("loss", BOTH)
def test_mask_is_slice(x64, loss):
  where = np.array([1, 0, 1, 1, 0], bool)
  s = jnp.asarray(np.where(where[:, None], S, np.nan))
  got = jax.jit(lambda s: loss(s, jnp.asarray(T), where=jnp.asarray(where)))
  want = jax.jit(loss)(jnp.asarray(S[where]), jnp.asarray(T[where]))
  np.testing.assert_allclose(got(s)[where], want, rtol=1e-10)
  assert not got(s)[~where].any()
  gradient = jax.jit(jax.grad(lambda s: got(s).sum()))(s)
  alone = jax.jit(jax.grad(lambda s: loss(s, jnp.asarray(T[where])).sum()))(jnp.asarray(S[where]))
  np.testing.assert_allclose(gradient[where], alone, rtol=1e-9)
  assert not gradient[~where].any()


@pytest.mark.parametrize("loss", BOTH)
def test_coinciding_examples_and_empty_masks(loss):
  s = jnp.zeros((4, 2)).at[3].set(1.0)
  gradient = jax.jit(jax.value_and_grad(lambda s, where: loss(s, jnp.float32(T[:4]), where=where).sum()))
  for where in (jnp.ones(4), jnp.array([0, 0, 0, 1]), jnp.zeros(4)):
    value, slope = gradient(s, where)
    assert np.isfinite(value) and np.isfinite(slope).all()
  assert value == 0 and not slope.any()


def test_floor_decides_whether_coinciding_examples_count():
  s, t = jnp.array([[0.0], [0.0], [2.0]]), jnp.array([[0.0], [1.0], [2.0]])
  # of the student's distances 0, 2, 2 the mean is 4/3 with the pair that coincides and 2 without
  with_pair, without = relation.rkd_distance_loss(s, t)[2], relation.rkd_distance_loss(s, t, floor=0.0)[2]
  np.testing.assert_allclose(with_pair, (huber(1.5 - 1.5) + huber(1.5 - 0.75)) / 3, rtol=1e-5)
  np.testing.assert_allclose(without, (huber(1.0 - 1.5) + huber(1.0 - 0.75)) / 3, rtol=1e-5)


def test_angle_chunks_change_nothing(x64):
  s, t = jnp.asarray(S), jnp.asarray(T)
  whole = jax.jit(jax.value_and_grad(lambda s: relation.rkd_angle_loss(s, t).sum()))(s)
  chunks = jax.jit(jax.value_and_grad(lambda s: relation.rkd_angle_loss(s, t, chunk=2).sum()))(s)
  for a, b in zip(whole, chunks, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("loss", BOTH)
def test_bfloat16(loss):
  s, t = jnp.asarray(S * 1e4, jnp.bfloat16), jnp.asarray(T, jnp.float32)
  got = jax.jit(loss)(s, t)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, jax.jit(loss)(s.astype(jnp.float32), t), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
  "call, match",
  [
    (lambda: relation.rkd_distance_loss(jnp.zeros((1, 3)), jnp.zeros((1, 3))), "at least 2"),
    (lambda: relation.rkd_angle_loss(jnp.zeros((2, 3)), jnp.zeros((2, 3))), "at least 3"),
    (lambda: relation.rkd_distance_loss(jnp.zeros((3, 3)), jnp.zeros((4, 3))), "same examples"),
    (lambda: relation.rkd_angle_loss(jnp.zeros((3, 3)), jnp.zeros(3)), "teacher_embeddings"),
    (lambda: relation.rkd_distance_loss(jnp.zeros((3, 3)), jnp.zeros((3, 3)), delta=0), "delta must be > 0"),
    (lambda: relation.rkd_angle_loss(jnp.zeros((3, 3)), jnp.zeros((3, 3)), chunk=0), "chunk must be"),
    (lambda: relation.rkd_angle_loss(jnp.zeros((600, 1)), jnp.zeros((600, 1))), "pass chunk"),
    (lambda: relation.rkd_angle_loss(jnp.zeros((3, 3)), jnp.zeros((3, 3)), where=jnp.ones(2)), "where must have"),
  ],
)
def test_wrong_arguments(call, match):
  with pytest.raises(ValueError, match=match):
    call()
