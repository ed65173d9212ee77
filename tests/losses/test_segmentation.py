"""The loss of label maps against a loop, and its interpolation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill.losses import segmentation as seg

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, 3, 4, 3))
LABELS = RNG.integers(0, 3, size=(2, 3, 4))
LABELS[0, 0, :2] = LABELS[1, 2, 3] = 255


def reference(logits, labels):
  costs = []
  for place in np.argwhere(labels != 255):
    z = logits[tuple(place)]
    costs.append(np.log(np.exp(z).sum()) - z[labels[tuple(place)]])
  return np.mean(costs)


def test_cross_entropy(x64):
  logits, labels = jnp.asarray(LOGITS), jnp.asarray(LABELS)
  np.testing.assert_allclose(
    seg.segmentation_cross_entropy(logits, labels, ignore=255), reference(LOGITS, LABELS), rtol=1e-12
  )
  loss = jax.jit(lambda logits: seg.segmentation_cross_entropy(logits, labels, ignore=255))
  check_grads(loss, (logits,), order=1, modes=["rev"])
  np.testing.assert_array_equal(jax.grad(loss)(logits)[LABELS == 255], 0)
  first = seg.segmentation_cross_entropy(logits, labels, ignore=255, where=jnp.array([True, False]))
  np.testing.assert_allclose(first, reference(LOGITS[:1], LABELS[:1]), rtol=1e-12)


def test_all_ignored_is_zero():
  value, grad = jax.value_and_grad(seg.segmentation_cross_entropy)(jnp.ones((1, 2, 2, 3)), -jnp.ones((1, 2, 2), int))
  assert value == 0 and not grad.any()


def test_smaller_logits_are_interpolated_with_aligned_corners(x64):
  small = jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1)
  np.testing.assert_allclose(seg._resized(small, (1, 5)).ravel(), [0, 1, 2, 3, 4])
  ramp = np.add.outer(np.arange(3.0), 10 * np.arange(2.0))  # bilinear interpolation keeps planes
  wanted = np.add.outer(np.linspace(0, 2, 7), 10 * np.linspace(0, 1, 4))
  np.testing.assert_allclose(seg._resized(jnp.asarray(ramp)[None, ..., None], (7, 4))[0, ..., 0], wanted, atol=1e-12)
  labels = jnp.zeros((2, 6, 8), int)
  full = seg._resized(jnp.asarray(LOGITS), (6, 8))
  np.testing.assert_allclose(
    seg.segmentation_cross_entropy(jnp.asarray(LOGITS), labels), seg.segmentation_cross_entropy(full, labels)
  )


def test_bfloat16():
  logits = jnp.array([1e4, -1e4], jnp.bfloat16).reshape(1, 1, 1, 2)
  loss = seg.segmentation_cross_entropy(logits, jnp.ones((1, 1, 1), int))
  assert loss.dtype == jnp.float32 and np.isfinite(loss)


def test_errors():
  labels, logits = jnp.zeros((1, 2, 2), int), jnp.zeros((1, 2, 2, 3))
  for call, match in (
    (lambda: seg.segmentation_cross_entropy(logits, labels + 255), "got .255"),
    (lambda: seg.segmentation_cross_entropy(logits, logits[..., 0]), "labels must be integers"),
    (lambda: seg.segmentation_cross_entropy(logits, jnp.zeros((2, 2, 2), int)), "same examples"),
    (
      lambda: seg.segmentation_cross_entropy(logits, labels, where=jnp.ones(2, bool)),
      "must be a leading part",
    ),
  ):
    with pytest.raises(ValueError, match=match):
      call()
