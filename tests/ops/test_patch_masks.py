"""Masks of patches: the most important are kept, as many as the share says, and what stands in for the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.ops import tokenize_feature_map, untokenize
from jdistill.ops.patch_masks import (
  mean_of_kept,
  patch_mask_from_cam,
  patches_kept,
  pixel_mask,
  random_patch_mask,
  reconstruct,
  zeros,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
  ("count", "theta", "kept"),
  [(196, 0.2, 156), (16, 0.25, 12), (16, 0.0, 16), (10, 0.9, 1), (10, 0.3, 7), (9, 0.5, 4), (16, 0.9, 1), (1, 0.0, 1)],
)
def test_how_many_are_kept(count, theta, kept):
  assert patches_kept(count, theta) == kept
  assert random_patch_mask(jax.random.key(0), 3, count, theta).sum(1).tolist() == [count - kept] * 3


@pytest.mark.parametrize("run", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_the_highest_are_kept(run):
  cam = jnp.float32([[[0.1, 0.9], [0.5, 0.3]], [[0.0, 0.0], [0.0, 1.0]]])
  mask = run(lambda cam: patch_mask_from_cam(cam, 0.5))(cam)
  assert mask.dtype == bool
  np.testing.assert_array_equal(
    mask, [[True, False, False, True], [False, True, True, False]]
  )  # of equal ones the first
  large = RNG.permutation(5 * 49).reshape(5, 7, 7).astype(np.float32)
  mask = np.asarray(run(lambda cam: patch_mask_from_cam(cam, 0.2))(jnp.asarray(large)))
  for one, row in zip(large.reshape(5, 49), mask, strict=True):
    assert set(np.flatnonzero(~row)) == set(np.argsort(-one)[:39])


def test_random_masks_are_uniform_and_drawn_for_every_image():
  mask = np.asarray(random_patch_mask(jax.random.key(1), 3000, 8, 0.25))
  assert (mask.sum(1) == 2).all() and len(np.unique(mask, axis=0)) == 28  # all pairs
  assert abs(mask.mean(0) - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 3000)


def test_patches_are_squares_of_pixels_in_reading_order():
  mask = jnp.asarray([[1, 0, 0, 0, 0, 1]], bool)
  found = pixel_mask(mask, (4, 6))
  assert found.shape == (1, 4, 6, 1)
  np.testing.assert_array_equal(found[0, ..., 0], [[1, 1, 0, 0, 0, 0]] * 2 + [[0, 0, 0, 0, 1, 1]] * 2)
  x = jnp.float32(RNG.normal(size=(2, 4, 6, 3)))
  np.testing.assert_array_equal(untokenize(tokenize_feature_map(x, patch=2), (4, 6)), x)


def test_what_is_kept_stays_and_the_rest_is_decoded_from_it():
  x = jnp.float32(RNG.normal(size=(2, 4, 4, 2)))
  mask = jnp.asarray([[0, 1, 0, 0], [1, 0, 0, 1]], bool)
  seen = []

  def decode(x, mask):
    seen.append((np.asarray(x), np.asarray(mask)))
    return 10 + x

  found = np.asarray(reconstruct(x, mask, decode))
  m = np.repeat(np.repeat(np.asarray(mask).reshape(2, 2, 2), 2, 1), 2, 2)[..., None]
  np.testing.assert_array_equal(found, np.where(m, 10, np.asarray(x)))  # decode saw 0 where a patch was left out
  np.testing.assert_array_equal(seen[0][0], np.where(m, 0, np.asarray(x)))
  np.testing.assert_array_equal(seen[0][1], mask)
  hidden = jnp.where(jnp.asarray(m), jnp.nan, x)
  assert np.isfinite(reconstruct(hidden, mask, mean_of_kept)).all()
  np.testing.assert_array_equal(reconstruct(x, mask, zeros), np.where(m, 0, np.asarray(x)))
  kept = [np.asarray(x)[i][~m[i, ..., 0]].mean(0) for i in range(2)]  # by channel
  want = np.where(m, np.stack(kept)[:, None, None], np.asarray(x))
  np.testing.assert_allclose(jax.jit(lambda x: reconstruct(x, mask, mean_of_kept))(x), want, rtol=1e-5)


IMAGES = jnp.zeros((1, 4, 4, 1))


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: patches_kept(16, 1.0), r"^theta=1.0: must be at least 0 and below 1$"),
    (lambda: patches_kept(16, -0.1), r"^theta=-0.1: must be at least 0 and below 1$"),
    (lambda: patches_kept(16, float("nan")), r"^theta=nan: must be at least 0"),
    (lambda: patches_kept(4, 0.9), r"^theta=0.9: keeps none of the 4 patches; lower it to at most 0.75$"),
    (lambda: patch_mask_from_cam(jnp.zeros((2, 4)), 0.5), "cam must have 3 axes"),
    (lambda: pixel_mask(jnp.zeros((1, 5), bool), (4, 4)), "images of 4x4 pixels do not have 5 square patches"),
    (lambda: pixel_mask(jnp.zeros((1, 4), bool), (4, 6)), "images of 4x6 pixels do not have 4 square patches"),
    (lambda: untokenize(jnp.zeros((1, 4, 3)), (4, 4)), "does not have 4 square patches of 3 numbers"),
    (lambda: reconstruct(IMAGES, jnp.zeros((1, 4), bool), lambda x, mask: x[:, :2]), r"decode gives \(1, 2, 4, 1\)"),
  ],
)
def test_what_cannot_be_is_refused_in_one_line(call, message):
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)
