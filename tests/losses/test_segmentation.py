"""Losses and scores of label maps against loops and scikit-learn, and LAD's noised label channel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from sklearn import metrics

from jdistill import ops
from jdistill.evaluation import segmentation as scores
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


def test_confusion_and_iou():
  predictions = RNG.integers(0, 3, size=LABELS.shape)
  confusion = scores.confusion_matrix(jnp.asarray(predictions), jnp.asarray(LABELS), 3, ignore=255)
  kept = LABELS != 255
  np.testing.assert_array_equal(confusion, metrics.confusion_matrix(LABELS[kept], predictions[kept]))
  wanted = metrics.jaccard_score(LABELS[kept], predictions[kept], average="macro")
  np.testing.assert_allclose(scores.mean_iou(confusion), wanted, rtol=1e-6)
  where = jnp.arange(2).reshape(2, 1, 1) * jnp.ones((1, 3, 4), int)
  parts = [scores.confusion_matrix(jnp.asarray(predictions), jnp.asarray(LABELS), 3, ignore=255, where=m)
           for m in (where, 1 - where)]  # fmt: skip
  np.testing.assert_array_equal(parts[0] + parts[1], confusion)


def test_literal_iou():
  # class 0: 3 / (3 + 1), class 1: 0 / 1, class 2 neither occurs nor is predicted
  assert scores.mean_iou(jnp.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]])) == pytest.approx(0.375)
  assert np.isnan(scores.mean_iou(jnp.zeros((2, 2))))


def test_encoding_is_one_code_per_image_and_class():
  labels = jnp.asarray(LABELS)
  code = ops.encode_noised_labels(jax.random.key(0), labels, 3, sigma=0.0, ignore=255)
  assert code.shape == (2, 3, 4, 1)
  values = {(b, c): np.unique(np.asarray(code)[b][LABELS[b] == c]) for b in range(2) for c in (0, 1, 2, 255)}
  assert all(len(v) == 1 for v in values.values())
  assert len({float(v[0]) for v in values.values()}) == 8
  other = ops.encode_noised_labels(jax.random.key(1), labels, 3, sigma=0.0, ignore=255)
  assert (np.asarray(code) != np.asarray(other)).all()


def test_encoding_with_fixed_codes():
  np.testing.assert_allclose(ops.fixed_codes(21), (np.arange(22) - 11) / 10, rtol=1e-6)
  labels = jnp.asarray(LABELS)
  codes = jnp.array([1.0, 2.0, 3.0, 4.0])
  wanted = np.where(LABELS == 255, 4, LABELS + 1)[..., None]
  encode = lambda sigma: ops.encode_noised_labels(  # noqa: E731
    jax.random.key(0), labels, 3, sigma=sigma, scale=10.0, codes=codes, ignore=255
  )
  np.testing.assert_allclose(encode(0.0), 10 * wanted)
  noise = np.asarray(encode(0.02)) / 10 - wanted
  assert 0.01 < noise.std() < 0.03 and len(np.unique(noise)) == noise.size


def test_errors():
  key, labels, logits = jax.random.key(0), jnp.zeros((1, 2, 2), int), jnp.zeros((1, 2, 2, 3))
  for call, match in (
    (lambda: ops.encode_noised_labels(key, labels + 5, 3), r"must be in \[0, 3\) or ignore=-1, got \[5\]"),
    (lambda: ops.encode_noised_labels(key, labels, 3, codes=jnp.ones(3)), "codes must be"),
    (lambda: ops.encode_noised_labels(key, labels, 3, sigma=-1.0), "sigma"),
    (lambda: ops.encode_noised_labels(key, labels[0], 3), "3 axes"),
    (lambda: seg.segmentation_cross_entropy(logits, labels + 255), "got .255"),
    (lambda: seg.segmentation_cross_entropy(logits, logits[..., 0]), "labels must be integers"),
    (lambda: seg.segmentation_cross_entropy(logits, jnp.zeros((2, 2, 2), int)), "same examples"),
    (
      lambda: seg.segmentation_cross_entropy(logits, labels, where=jnp.ones(2, bool)),
      "must be a leading part",
    ),
    (lambda: scores.confusion_matrix(labels, labels[0], 3), "predictions must be integers of shape"),
    (lambda: scores.mean_iou(jnp.ones((2, 3))), "square"),
  ):
    with pytest.raises(ValueError, match=match):
      call()
