"""Means by class against NumPy, with classes that nobody belongs to."""

import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.ops import check_class_counts, class_means

RNG = np.random.default_rng(2)
S, T = RNG.normal(size=(5, 4)), RNG.normal(size=(5, 4))
S[:2] *= 5  # longer than the teacher's
MEANS, LABELS = RNG.normal(size=(3, 4)), np.array([0, 2, 1, 1, 0])


def test_class_means(x64):
  means, counts = class_means(jnp.asarray(S), jnp.asarray(LABELS), 4)
  for c in range(3):
    np.testing.assert_allclose(means[c], S[c == LABELS].mean(0), rtol=1e-12)
  np.testing.assert_array_equal(counts, [2, 2, 1, 0])
  assert not means[3].any()
  check_class_counts(counts[:3])
  with pytest.raises(ValueError, match=r"classes \[3\]"):
    check_class_counts(counts)


def test_class_means_ignore_masked_and_unknown_labels():
  labels = jnp.array([0, -2, 7, 0, 1])
  features = jnp.float32(S).at[3].set(jnp.nan)
  means, counts = class_means(features, labels, 2, where=jnp.array([1, 1, 1, 0, 1]))
  np.testing.assert_allclose(means, S[[0, 4]], rtol=1e-6)
  np.testing.assert_array_equal(counts, [1, 1])


@pytest.mark.parametrize(
  "call, match",
  [
    (lambda: class_means(jnp.zeros(3), jnp.zeros(3, int), 2), "class_means"),
    (lambda: class_means(jnp.zeros((3, 2)), jnp.zeros((3, 2)), 2), "labels must be integers"),
    (lambda: class_means(jnp.zeros((3, 2)), jnp.zeros(3, int), 0), "num_classes"),
  ],
)
def test_wrong_arguments(call, match):
  with pytest.raises(ValueError, match=match):
    call()
