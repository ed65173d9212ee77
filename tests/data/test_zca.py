"""Whitening against an eigendecomposition in float64, and what it must do to a covariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.data import load, zca


def _images(n, shape=(3, 4, 2), seed=0):
  """Correlated pixels in [0, 1]."""
  rng = np.random.default_rng(seed)
  size = int(np.prod(shape))
  mixed = rng.random((n, size)) @ rng.random((size, size)) / size
  return np.clip(mixed, 0, 1).reshape(n, *shape).astype(np.float32)


def _matrix(factors, vectors):
  """The `D x D` matrix that a whitening stands for."""
  return factors[-1] * np.eye(len(vectors)) + (vectors * (factors[:-1] - factors[-1])) @ vectors.T


def _reference(x, eps):
  flat = x.reshape(len(x), -1).astype(np.float64)
  u, s, _ = np.linalg.svd(np.cov(flat, rowvar=False))  # np.cov divides by n - 1
  return flat.mean(0), u @ np.diag((s + eps) ** -0.5) @ u.T, u @ np.diag((s + eps) ** 0.5) @ u.T, u, s


@pytest.mark.parametrize("n", [200, 10])  # 10 images span fewer directions than there are pixels (24)
@pytest.mark.parametrize("eps", [0.1, 1e-3])
def test_fit_equals_float64(n, eps):
  x = _images(n)
  mean, whiten, colour, _, _ = _reference(x, eps)
  got = zca.fit(x, eps)
  assert all(array.dtype == np.float32 for array in got)
  found, scale, inverse, vectors = got
  assert vectors.shape == (24, min(n - 1, 24)) and scale.shape == inverse.shape == (vectors.shape[1] + 1,)
  np.testing.assert_allclose(vectors.T @ vectors, np.eye(vectors.shape[1]), atol=1e-5)
  for value, expected in ((found, mean), (_matrix(scale, vectors), whiten), (_matrix(inverse, vectors), colour)):
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_images_that_repeat_span_fewer_directions():
  x = np.repeat(_images(4), 3, axis=0)  # twelve images of 24 values, rank three
  _, scale, _, vectors = zca.fit(x)
  assert vectors.shape == (24, 3)
  np.testing.assert_allclose(_matrix(scale, vectors), _reference(x, 0.1)[1], rtol=1e-4, atol=1e-5)
  constant = np.full((5, 2, 3, 1), 0.5, np.float32)
  mean, scale, inverse, vectors = zca.fit(constant)
  assert vectors.shape == (6, 0) and scale == pytest.approx([0.1**-0.5]) and inverse == pytest.approx([0.1**0.5])
  assert not zca.apply(constant, mean, scale, vectors).any()


def test_the_routes_agree_where_there_are_as_many_images_as_values():
  x = _images(24).reshape(24, -1)
  mean = x.mean(axis=0, dtype=np.float64)
  matrices = []
  for values, vectors in (zca._of_gram(x, mean), zca._of_covariance(x, mean)):
    factors = np.append(values + 0.1, 0.1) ** -0.5
    matrices.append(_matrix(factors, vectors.astype(np.float64)))
  np.testing.assert_allclose(*matrices, rtol=1e-4, atol=1e-5)


def test_the_default_eps_and_the_unbiased_covariance():
  # two images that differ by 0.4 in one pixel: the variance is 0.08 with n - 1, 0.04 with n
  x = np.array([[[[0.3], [0.5]]], [[[0.7], [0.5]]]], np.float32)
  mean, scale, inverse, vectors = zca.fit(x)
  np.testing.assert_allclose(mean, [0.5, 0.5], rtol=1e-6)
  np.testing.assert_allclose(_matrix(scale, vectors), np.diag([(0.08 + 0.1) ** -0.5, 0.1**-0.5]), rtol=1e-5)
  np.testing.assert_allclose(_matrix(inverse, vectors), np.diag([(0.08 + 0.1) ** 0.5, 0.1**0.5]), rtol=1e-5)


@pytest.mark.parametrize("n", [50, 10])
def test_chunks_change_nothing(monkeypatch, n):
  x = _images(n)
  _, scale, _, vectors = zca.fit(x)
  monkeypatch.setattr(zca, "_CHUNK", 7)
  _, other_scale, _, other = zca.fit(x)
  np.testing.assert_allclose(_matrix(scale, vectors), _matrix(other_scale, other), rtol=1e-5, atol=1e-5)


def test_the_whitened_covariance_is_shrunk_to_s_over_s_plus_eps():
  x, eps = load("digits").train_x, 0.1
  _, _, _, u, s = _reference(x, eps)
  mean, scale, _, vectors = zca.fit(x, eps)
  covariance = np.cov(zca.apply(x, mean, scale, vectors).reshape(len(x), -1).astype(np.float64), rowvar=False)
  np.testing.assert_allclose(covariance, u @ np.diag(s / (s + eps)) @ u.T, atol=2e-5)


@pytest.mark.parametrize("library", [np, jnp])
def test_the_inverse_gives_the_pixels_back(library):
  x = _images(30)
  mean, scale, inverse, vectors = zca.fit(x)
  unseen = library.asarray(_images(5, seed=1))
  z = zca.apply(unseen, mean, scale, vectors)
  back = zca.invert(z, mean, inverse, vectors)
  assert isinstance(back, jax.Array if library is jnp else np.ndarray)
  assert z.shape == unseen.shape and z.dtype == back.dtype == np.float32
  np.testing.assert_allclose(np.asarray(back), np.asarray(unseen), atol=2e-6)
  assert np.abs(np.asarray(z) - np.asarray(unseen)).max() > 0.1  # and the whitened ones are something else


def test_components_are_flattened_height_width_channel():
  x = _images(40)
  mean, scale, _, vectors = zca.fit(x)
  h, w, c = 2, 1, 1
  i = (h * 4 + w) * 2 + c
  assert mean[i] == pytest.approx(x[:, h, w, c].mean(dtype=np.float64), rel=1e-6)
  z = zca.apply(x, mean, scale, vectors)
  np.testing.assert_allclose(z[:, h, w, c], (x.reshape(40, -1) - mean) @ _matrix(scale, vectors)[:, i], atol=1e-5)


def test_jit_and_gradient():
  x = _images(20)
  mean, scale, _, vectors = zca.fit(x)
  weights = np.random.default_rng(2).normal(size=(2, 3, 4, 2)).astype(np.float32)
  whiten = jax.jit(jax.grad(lambda pixels: (zca.apply(pixels, mean, scale, vectors) * weights).sum()))
  grad, expected = whiten(jnp.asarray(x[:2])), weights.reshape(2, -1) @ _matrix(scale, vectors)
  np.testing.assert_allclose(grad.reshape(2, -1), expected, rtol=1e-4, atol=1e-4)


def test_integers_become_float32_and_half_stays_half():
  mean, scale, _, vectors = zca.fit(_images(20))
  assert zca.apply(np.ones((1, 3, 4, 2), np.int32), mean, scale, vectors).dtype == np.float32
  assert zca.apply(jnp.ones((1, 3, 4, 2), jnp.bfloat16), mean, scale, vectors).dtype == jnp.bfloat16


def test_bad_input():
  with pytest.raises(UserError, match=r"eps=0: must be above 0"):
    zca.fit(_images(5), 0)
  with pytest.raises(UserError, match=r"eps=nan"):
    zca.fit(_images(5), float("nan"))
  with pytest.raises(UserError, match=r"1 images given; a covariance needs at least 2"):
    zca.fit(_images(1))
  spoilt = _images(5)
  spoilt[2, 0, 0, 0] = np.nan
  with pytest.raises(UserError, match=r"NaN or infinite"):
    zca.fit(spoilt)
  mean, scale, _, vectors = zca.fit(_images(5))
  with pytest.raises(UserError, match=r"images of shape \(4, 4, 2\) have 32 values, but it was fitted on 24"):
    zca.apply(np.zeros((1, 4, 4, 2), np.float32), mean, scale, vectors)
