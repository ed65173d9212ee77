"""Scores against NumPy in float64, one example at a time."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.selection import scores

RNG = np.random.default_rng
Z, Y, H = RNG(0).normal(size=(3, 12, 4)), RNG(1).integers(4, size=12), RNG(2).normal(size=(3, 12, 5))
P = np.exp(Z) / np.exp(Z).sum(-1, keepdims=True)


def test_errors_of_predictions():
  wanted = [np.mean([np.linalg.norm(P[r, i] - np.eye(4)[Y[i]]) for r in range(3)]) for i in range(12)]
  np.testing.assert_allclose(scores.el2n(Z, Y), wanted, rtol=1e-12)
  lengths = [
    np.mean([np.linalg.norm(np.outer(P[r, i] - np.eye(4)[Y[i]], [1, *H[r, i]])) for r in range(3)]) for i in range(12)
  ]
  np.testing.assert_allclose(scores.grand(H, Z, Y), lengths, rtol=1e-12)


def test_sure_predictions_are_told_apart():
  """1 - p rounds to 0 in float32, and some day in float64, long before the other probabilities do."""
  z = np.array([[[30.0, 0.0], [40.0, 0.0], [20.0, 0.0]]], np.float32)
  found = np.asarray(scores.el2n(z, np.zeros(3, int)))
  np.testing.assert_allclose(found, np.sqrt(2) * np.exp([-30.0, -40.0, -20.0]), rtol=1e-7)


@pytest.mark.parametrize("kind", ["confidence", "entropy", "margin"])
def test_uncertainty(kind):
  ordered = np.sort(P, axis=-1)
  wanted = {
    "confidence": 1 - ordered[..., -1],
    "entropy": -(P * np.log(P)).sum(-1),
    "margin": 1 - ordered[..., -1] + ordered[..., -2],
  }[kind]
  np.testing.assert_allclose(scores.uncertainty(Z, kind=kind), wanted.mean(0), rtol=1e-12)


def test_forgetting_counts_what_was_right_and_is_wrong():
  history = np.array([[0, 1, 1, 1, 0], [0, 0, 1, 0, 1], [0, 1, 1, 1, 1], [0, 0, 1, 0, 0]], bool)
  np.testing.assert_array_equal(scores.forgetting(history), [4, 2, 0, 2, 1])
  np.testing.assert_array_equal(scores.forgetting(history, never_learned="zero"), [0, 2, 0, 2, 1])
  with pytest.raises(UserError, match=r"evidence.history: 1 checks, and forgetting takes two; look at least twice"):
    scores.forgetting(history[:1])


def test_contrast_is_the_symmetric_divergence_from_neighbours():
  near = np.stack([RNG(i).permutation(np.delete(np.arange(12), i))[:3] for i in range(12)])
  kl = lambda p, q: (p * np.log(p / q)).sum()  # noqa: E731
  wanted = [
    np.mean([(kl(P[r, i], P[r, j]) + kl(P[r, j], P[r, i])) / 2 for r in range(3) for j in near[i]]) for i in range(12)
  ]
  np.testing.assert_allclose(scores.contrast(Z, near), wanted, rtol=1e-10)


def test_neighbours_are_the_nearest_others_and_the_first_of_equals():
  x = RNG(3).integers(3, size=(40, 2)).astype(float)  # many at the same place
  far = np.square(x[:, None] - x[None]).sum(-1)
  np.fill_diagonal(far, np.inf)
  found = scores.nearest_neighbours(x, 5)
  np.testing.assert_array_equal(np.sort(found), np.sort(np.argsort(far, axis=1, kind="stable")[:, :5]))
  with pytest.raises(UserError, match=r"select.neighbours=40: there are only 40 examples; lower it"):
    scores.nearest_neighbours(x, 40)
