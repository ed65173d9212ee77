"""Scores of label maps against scikit-learn."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from jdistill.evaluation.segmentation import confusion_matrix, mean_iou

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, size=(2, 3, 4))
LABELS[0, 0, :2] = LABELS[1, 2, 3] = 255


def test_confusion_and_iou():
  predictions = RNG.integers(0, 3, size=LABELS.shape)
  confusion = confusion_matrix(jnp.asarray(predictions), jnp.asarray(LABELS), 3, ignore=255)
  kept = LABELS != 255
  np.testing.assert_array_equal(confusion, metrics.confusion_matrix(LABELS[kept], predictions[kept]))
  wanted = metrics.jaccard_score(LABELS[kept], predictions[kept], average="macro")
  np.testing.assert_allclose(mean_iou(confusion), wanted, rtol=1e-6)
  where = jnp.arange(2).reshape(2, 1, 1) * jnp.ones((1, 3, 4), int)
  parts = [confusion_matrix(jnp.asarray(predictions), jnp.asarray(LABELS), 3, ignore=255, where=m)
           for m in (where, 1 - where)]  # fmt: skip
  np.testing.assert_array_equal(parts[0] + parts[1], confusion)


def test_literal_iou():
  # class 0: 3 / (3 + 1), class 1: 0 / 1, class 2 neither occurs nor is predicted
  assert mean_iou(jnp.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]])) == pytest.approx(0.375)
  assert np.isnan(mean_iou(jnp.zeros((2, 2))))


def test_errors():
  labels = jnp.zeros((1, 2, 2), int)
  for call, match in (
    (lambda: confusion_matrix(labels, labels[0], 3), "predictions must be integers of shape"),
    (lambda: mean_iou(jnp.ones((2, 3))), "square"),
  ):
    with pytest.raises(ValueError, match=match):
      call()
