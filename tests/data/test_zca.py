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
  for value, expected in zip(got, (mean, whiten, colour), strict=True):
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_the_default_eps_and_the_unbiased_covariance():
  # two images that differ by 0.4 in one pixel: the variance is 0.08 with n - 1, 0.04 with n
  x = np.array([[[[0.3], [0.5]]], [[[0.7], [0.5]]]], np.float32)
  mean, whiten, colour = zca.fit(x)
  np.testing.assert_allclose(mean, [0.5, 0.5], rtol=1e-6)
  np.testing.assert_allclose(whiten, np.diag([(0.08 + 0.1) ** -0.5, 0.1**-0.5]), rtol=1e-5)
  np.testing.assert_allclose(colour, np.diag([(0.08 + 0.1) ** 0.5, 0.1**0.5]), rtol=1e-5)


def test_more_images_than_one_chunk(monkeypatch):
  x = _images(50)
  whole = zca.fit(x)
  monkeypatch.setattr(zca, "_CHUNK", 7)
  for a, b in zip(whole, zca.fit(x), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_whitened_covariance_is_shrunk_to_s_over_s_plus_eps():
  x, eps = load("digits").train_x, 0.1
  _, _, _, u, s = _reference(x, eps)
  mean, whiten, _ = zca.fit(x, eps)
  covariance = np.cov(zca.apply(x, mean, whiten).reshape(len(x), -1).astype(np.float64), rowvar=False)
  np.testing.assert_allclose(covariance, u @ np.diag(s / (s + eps)) @ u.T, atol=2e-5)


@pytest.mark.parametrize("library", [np, jnp])
def test_the_inverse_gives_the_pixels_back(library):
  x = _images(30)
  mean, whiten, colour = zca.fit(x)
  unseen = library.asarray(_images(5, seed=1))
  z = zca.apply(unseen, mean, whiten)
  back = zca.invert(z, mean, colour)
  assert isinstance(back, jax.Array if library is jnp else np.ndarray)
  assert z.shape == unseen.shape and z.dtype == back.dtype == np.float32
  np.testing.assert_allclose(np.asarray(back), np.asarray(unseen), atol=2e-6)
  assert np.abs(np.asarray(z) - np.asarray(unseen)).max() > 0.1  # and the whitened ones are something else


def test_components_are_flattened_height_width_channel():
  x = _images(40)
  mean, whiten, _ = zca.fit(x)
  h, w, c = 2, 1, 1
  i = (h * 4 + w) * 2 + c
  assert mean[i] == pytest.approx(x[:, h, w, c].mean(dtype=np.float64), rel=1e-6)
  z = zca.apply(x, mean, whiten)
  np.testing.assert_allclose(z[:, h, w, c], (x.reshape(40, -1) - mean) @ whiten[:, i], atol=1e-5)


def test_jit_and_gradient():
  x = _images(20)
  mean, whiten, _ = zca.fit(x)
  weights = np.random.default_rng(2).normal(size=(2, 3, 4, 2)).astype(np.float32)
  grad = jax.jit(jax.grad(lambda pixels: (zca.apply(pixels, mean, whiten) * weights).sum()))(jnp.asarray(x[:2]))
  np.testing.assert_allclose(grad.reshape(2, -1), weights.reshape(2, -1) @ whiten.T, rtol=1e-4, atol=1e-4)


def test_integers_become_float32_and_half_stays_half():
  mean, whiten, _ = zca.fit(_images(20))
  assert zca.apply(np.ones((1, 3, 4, 2), np.int32), mean, whiten).dtype == np.float32
  assert zca.apply(jnp.ones((1, 3, 4, 2), jnp.bfloat16), mean, whiten).dtype == jnp.bfloat16


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
  mean, whiten, _ = zca.fit(_images(5))
  with pytest.raises(UserError, match=r"images of shape \(4, 4, 2\) have 32 values, but it was fitted on 24"):
    zca.apply(np.zeros((1, 4, 4, 2), np.float32), mean, whiten)
