"""CKA, unbiased HSIC and channel-wise KL against NumPy written from their definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill.losses import similarity

RNG = np.random.default_rng(4)
X, Y = RNG.normal(size=(8, 3)), RNG.normal(size=(8, 2))
Y[:, 0] += X[:, 0]


def reference_cka(x, y):
  """By centred kernels, `tr(K H L H)`, not by features."""
  h = np.eye(len(x)) - 1 / len(x)
  k, l = x @ x.T, y @ y.T

  def hsic(a, b):
    return np.trace(a @ h @ b @ h)

  return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))


def reference_hsic1(x, y):
  """The U-statistic itself: means over tuples of different indices."""
  n = len(x)
  k, l = x @ x.T, y @ y.T

  def mean(size, term):
    return np.mean([term(*t) for t in itertools.permutations(range(n), size)])

  both = mean(2, lambda i, j: k[i, j] * l[i, j])
  apart = mean(4, lambda i, j, q, r: k[i, j] * l[q, r])
  shared = mean(3, lambda i, j, q: k[i, j] * l[i, q])
  return both + apart - 2 * shared


def test_cka(x64):
  x, y = jnp.asarray(X), jnp.asarray(Y)
  cka = jax.jit(similarity.cka_linear)
  np.testing.assert_allclose(cka(x, y), reference_cka(X, Y), rtol=1e-11)
  wide = np.concatenate([Y, RNG.normal(size=(8, 5))], axis=1)  # p + q > n: by kernels
  np.testing.assert_allclose(cka(x, jnp.asarray(wide)), reference_cka(X, wide), rtol=1e-11)
  check_grads(cka, (x, y), order=1, modes=["rev"])


def test_cka_invariances(x64):
  rotation = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
  x, y = jnp.asarray(X), jnp.asarray(Y)
  cka = jax.jit(similarity.cka_linear)
  base = cka(x, y)
  np.testing.assert_allclose(cka(jnp.asarray(1e100 * X @ rotation), y), base, rtol=1e-9)
  np.testing.assert_allclose(cka(jnp.asarray(X + 3), y), base, rtol=1e-9)
  np.testing.assert_allclose(cka(x, jnp.asarray(5 * X @ rotation - 1)), 1, rtol=1e-9)
  assert abs(cka(jnp.asarray(X * np.array([1, 5, 25])), y) - base) > 1e-2  # not to general invertible maps


def test_cka_literal_number():
  # centred columns (-1, 0, 1) and (-1, 1, 0) have the product 1 and squared lengths 2: (1 / 2)^2
  x, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[3.0], [5.0], [4.0]])
  np.testing.assert_allclose(similarity.cka_linear(x, y), 0.25, rtol=1e-6)


def test_cka_mask_is_slice_and_constants_give_no_nan(x64):
  where = np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)
  x = jnp.asarray(np.where(where[:, None], X, np.nan))
  got = jax.jit(jax.value_and_grad(lambda x: similarity.cka_linear(x, jnp.asarray(Y), where=jnp.asarray(where))))
  value, gradient = got(x)
  np.testing.assert_allclose(value, reference_cka(X[where], Y[where]), rtol=1e-10)
  assert np.isfinite(gradient).all() and not gradient[~where].any()
  value, gradient = got(jnp.ones((8, 3)))
  assert value == 0 and not gradient.any()


def test_cka_warns_of_too_few_examples():
  with pytest.warns(UserWarning, match="2 examples of width 3"):
    similarity.cka_linear(jnp.float32(X[:2]), jnp.float32(Y[:2]))


def test_hsic1(x64):
  x, y = jnp.asarray(X), jnp.asarray(Y)
  hsic1 = jax.jit(similarity.hsic1)
  np.testing.assert_allclose(hsic1(x, y), reference_hsic1(X, Y), rtol=1e-10)
  np.testing.assert_allclose(hsic1(jnp.asarray(X + 4), y), hsic1(x, y), rtol=1e-8)
  check_grads(hsic1, (x, y), order=1, modes=["rev"])


def test_hsic1_literal_number():
  # four points on a line against themselves: Gram matrix i * j without diagonal
  x = jnp.arange(4.0)[:, None]
  trace, total, rows = 2 * (4 + 9 + 36), 22.0, np.array([0.0, 5.0, 8.0, 9.0])
  want = (trace + total**2 / 6 - (rows**2).sum()) / 4
  np.testing.assert_allclose(similarity.hsic1(x, x), want, rtol=1e-6)


def test_hsic1_mask_is_slice(x64):
  where = np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)
  x = jnp.asarray(np.where(where[:, None], X, np.nan))
  got = jax.jit(jax.value_and_grad(lambda x, w: similarity.hsic1(x, jnp.asarray(Y), where=w)))
  value, gradient = got(x, jnp.asarray(where))
  np.testing.assert_allclose(value, reference_hsic1(X[where], Y[where]), rtol=1e-10)
  assert not gradient[~where].any() and np.isfinite(gradient).all()
  value, gradient = got(x, jnp.arange(8) < 2)
  assert value == 0 and not np.isnan(gradient).any()


MAPS_S, MAPS_T = RNG.normal(size=(2, 3, 2, 4)) * 5, RNG.normal(size=(2, 3, 2, 4)) * 5


def reference_cwd(s, t, temperature):
  def places(f):
    z = f.reshape(len(f), -1, f.shape[-1]) / temperature
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)

  p, q = places(t), places(s)
  return (p * np.log(p / q)).sum(1)


def test_channel_wise_kl(x64):
  s, t = jnp.asarray(MAPS_S), jnp.asarray(MAPS_T)
  want = reference_cwd(MAPS_S, MAPS_T, 4.0)
  np.testing.assert_allclose(similarity.channel_wise_kl(s, t), 16 * want, rtol=1e-10)
  np.testing.assert_allclose(similarity.channel_wise_kl(s, t, scale_t2=False), want, rtol=1e-10)
  loss = jax.jit(lambda s, t: similarity.channel_wise_kl(s, t, temperature=2.0))
  np.testing.assert_allclose(loss(s, t), 4 * reference_cwd(MAPS_S, MAPS_T, 2.0), rtol=1e-10)
  shift = jnp.arange(4.0).reshape(1, 1, 1, 4)
  np.testing.assert_allclose(loss(s + shift, t - shift), loss(s, t), rtol=1e-9)
  np.testing.assert_allclose(loss(s, s), 0, atol=1e-15)
  check_grads(lambda s: loss(s, t), (s,), order=1, modes=["rev"])
  assert not jax.grad(lambda t: loss(s, t).sum())(t).any()


def test_channel_wise_kl_literal_number():
  # teacher (2/3, 1/3) over two places, student (1/2, 1/2)
  t = jnp.log(jnp.array([2.0, 1.0])).reshape(1, 2, 1, 1)
  want = 2 / 3 * np.log(4 / 3) + 1 / 3 * np.log(2 / 3)
  np.testing.assert_allclose(similarity.channel_wise_kl(jnp.zeros_like(t), t, temperature=1.0), [[want]], rtol=1e-5)


def test_channel_wise_kl_mask(x64):
  where = np.ones((2, 3, 2), bool)
  where[0, 0], where[1] = False, False
  s = jnp.asarray(np.where(where[..., None], MAPS_S, np.nan))
  got = jax.jit(
    jax.value_and_grad(
      lambda s: (
        (v := similarity.channel_wise_kl(s, jnp.asarray(MAPS_T), temperature=1.0, where=jnp.asarray(where))).sum(),
        v,
      ),
      has_aux=True,
    )
  )
  (_, value), gradient = got(s)
  np.testing.assert_allclose(value[0], reference_cwd(MAPS_S[:1, 1:], MAPS_T[:1, 1:], 1.0)[0], rtol=1e-10)
  assert not value[1].any() and not gradient[~where].any() and np.isfinite(gradient).all()


def test_bfloat16():
  s, t = jnp.asarray(MAPS_S * 1e4, jnp.bfloat16), jnp.asarray(MAPS_T * 1e4, jnp.float32)
  value, gradient = jax.jit(jax.value_and_grad(lambda s: similarity.channel_wise_kl(s, t).sum()))(s)
  assert value.dtype == jnp.float32 and np.isfinite(value) and bool(jnp.isfinite(gradient).all())
  x = jnp.asarray(X * 1e4, jnp.bfloat16)
  for function in (similarity.cka_linear, similarity.hsic1):
    function = jax.jit(function)
    value = function(x, jnp.float32(Y))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, function(x.astype(jnp.float32), jnp.float32(Y)), rtol=1e-5)


@pytest.mark.parametrize(
  "call, match",
  [
    (lambda: similarity.cka_linear(jnp.zeros((1, 3)), jnp.zeros((1, 3))), "at least 2"),
    (lambda: similarity.cka_linear(jnp.zeros((4, 3)), jnp.zeros((5, 3))), "same examples"),
    (lambda: similarity.hsic1(jnp.zeros((3, 1)), jnp.zeros((3, 1))), "at least 4"),
    (lambda: similarity.hsic1(jnp.zeros((4, 1)), jnp.zeros(4)), "hsic1.*y"),
    (lambda: similarity.hsic1(jnp.zeros((4, 1)), jnp.zeros((4, 1)), where=jnp.ones(3)), "where must have"),
    (lambda: similarity.channel_wise_kl(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 3)), temperature=0), "temperature"),
    (lambda: similarity.channel_wise_kl(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 4))), "channel_wise_kl"),
    (lambda: similarity.channel_wise_kl(jnp.zeros((2, 3)), jnp.zeros((2, 3))), "with places"),
    (
      lambda: similarity.channel_wise_kl(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 3)), where=jnp.ones((1, 2, 3))),
      "leading part",
    ),
  ],
)
def test_wrong_arguments(call, match):
  with pytest.raises(ValueError, match=match):
    call()


def test_barlow_twins_of_whitened_features_and_of_correlations(x64):
  """Features that correlate with themselves alone cost nothing; NumPy's own correlations give the rest."""
  rng = np.random.default_rng(3)
  x = rng.normal(size=(9, 4))
  white = np.linalg.svd(x - x.mean(0), full_matrices=False)[0]
  loss = jax.jit(similarity.barlow_twins, static_argnames=("redundancy_weight", "eps"))
  np.testing.assert_allclose(loss(jnp.asarray(white), jnp.asarray(3 * white), eps=1e-16), 0, atol=1e-12)
  y = x @ rng.normal(size=(4, 4)) + rng.normal(size=(9, 4))
  cross = np.corrcoef(x.T, y.T)[:4, 4:]
  same, other = np.sum((1 - np.diag(cross)) ** 2), np.sum(cross**2) - np.sum(np.diag(cross) ** 2)
  np.testing.assert_allclose(
    loss(jnp.asarray(x), jnp.asarray(y), redundancy_weight=0.25, eps=1e-16), same + 0.25 * other
  )
  with pytest.raises(ValueError, match="redundancy_weight must be >= 0"):
    similarity.barlow_twins(jnp.asarray(x), jnp.asarray(y), redundancy_weight=-1.0)
