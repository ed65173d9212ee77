"""Selection by confidence against loops and literal numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import selection
from jdistill.base import UserError

P = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55]])


def test_mining_literal():
  mined = selection.mine_top_k_per_class(P, 2)
  np.testing.assert_array_equal(np.flatnonzero(mined.chosen), [0, 1, 3, 4])  # of 1 and 2, equally likely, the first
  np.testing.assert_array_equal(mined.taken, [2, 2])
  assert selection.mine_top_k_per_class(P, 3).chosen.all()


def test_mining_counts_an_image_once_and_reports_the_shortfall():
  mined = selection.mine_top_k_per_class(P, 9)
  assert mined.chosen.all()
  np.testing.assert_array_equal(mined.taken, [5, 5])
  predicted = selection.mine_top_k_per_class(P, 3, predicted_only=True)
  np.testing.assert_array_equal(predicted.taken, [3, 2])


def test_mining_leaves_out_what_is_not_in_the_pool():
  mined = selection.mine_top_k_per_class(P, 1, where=np.array([False, True, True, False, True]))
  np.testing.assert_array_equal(np.flatnonzero(mined.chosen), [1, 4])
  p = np.random.default_rng(0).dirichlet([0.3, 0.2, 0.1], size=50)
  pool = np.arange(50) % 3 > 0
  wanted = {i for c in range(3) for i in sorted(np.flatnonzero(pool), key=lambda i, c=c: -p[i, c])[:4]}
  assert set(np.flatnonzero(selection.mine_top_k_per_class(p, 4, where=pool).chosen)) == wanted


def test_near_duplicates():
  pool = jnp.array([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0], [-1.0, 0.0], [0.1, 3.0]])
  validation = jnp.array([[5.0, 0.0], [0.0, 1.0]])
  wanted = [True, False, False, False, True]
  for chunk_size in (2, 1024):
    mask = selection.near_duplicate_mask(pool, validation, 0.95, chunk_size=chunk_size)
    np.testing.assert_array_equal(mask, wanted)
  np.testing.assert_array_equal(selection.near_duplicate_mask(pool, validation, 0.7), [True, True, False, False, True])
  assert not selection.near_duplicate_mask(pool, validation[:0], 0.95).any()


def test_mixing_weight():
  weights = selection.selection_mixing_weight(jnp.array([0, 119, 120, 239]))
  np.testing.assert_allclose(weights, [0.992827, 0.268384, 0, 0], rtol=1e-4)


def loop(p, cutoff):
  predicted = p.argmax(1)
  counts = [int((predicted == c).sum()) for c in range(p.shape[1])]
  keep = []
  for row, c in zip(p, predicted, strict=True):
    b = counts[c] / max(counts)
    keep.append(row.max() > cutoff * b / (2 - b))
  return np.array(keep)


def test_classwise_selection(x64):
  # counts 3 and 2: thresholds 0.95 and 0.95 * (2/3) / (4/3) = 0.475
  np.testing.assert_array_equal(selection.classwise_confidence_select(jnp.asarray(P)), [False] * 3 + [True] * 2)
  p = np.random.default_rng(0).dirichlet([0.3, 0.2, 0.1], size=50)
  wanted = loop(p, 0.9)
  assert 0 < wanted.sum() < 50
  np.testing.assert_array_equal(selection.classwise_confidence_select(jnp.asarray(p), cutoff=0.9), wanted)
  padded = jnp.asarray(np.concatenate([p, np.tile([[1.0, 0, 0]], (30, 1))]))
  kept = selection.classwise_confidence_select(padded, cutoff=0.9, where=jnp.arange(80) < 50)
  np.testing.assert_array_equal(kept, np.concatenate([wanted, np.zeros(30, bool)]))


def test_errors():
  for call, match in (
    (lambda: selection.mine_top_k_per_class(P, 0), "k: 0"),
    (lambda: selection.mine_top_k_per_class(P[0], 1), "probabilities: shape"),
    (lambda: selection.near_duplicate_mask(P, P[:, :1], 0.9), "validation_features: width 1"),
    (lambda: selection.near_duplicate_mask(P, P, 2), "threshold: 2"),
    (lambda: selection.classwise_confidence_select(P, cutoff=1.0), "cutoff: 1.0"),
    (lambda: selection.classwise_confidence_select(P, where=np.ones(2)), "where: shape"),
    (lambda: selection.selection_mixing_weight(0, ramp=0), "ramp: 0"),
  ):
    with pytest.raises(UserError, match=match):
      call()
