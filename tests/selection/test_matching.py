"""Matching pursuit, CRAIG's weights and Glister against scikit-learn, SciPy and a layer that really takes the steps."""

import numpy as np
import pytest
import scipy.optimize
from sklearn.linear_model import OrthogonalMatchingPursuit

from jdistill.selection import embeddings, objectives
from jdistill.selection.embeddings import Embedding
from jdistill.selection.greedy import maximise
from jdistill.selection.matching import cluster_sizes, matching_pursuit, validation_alignment

RNG = np.random.default_rng


@pytest.mark.parametrize("seed", range(4))
def test_matching_pursuit_is_that_of_scikit_learn(seed):
  x = RNG(seed).normal(size=(40, 25))
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  target = RNG(seed + 9).normal(size=25)
  for count in (1, 4, 9):
    theirs = OrthogonalMatchingPursuit(n_nonzero_coefs=count, fit_intercept=False).fit(x.T, target)
    ours = matching_pursuit(embeddings.points(x), target, count)
    np.testing.assert_array_equal(np.sort(ours.index), np.flatnonzero(theirs.coef_))
    np.testing.assert_allclose(ours.weight, theirs.coef_[ours.index], rtol=1e-8)
    assert ours.error == pytest.approx(np.linalg.norm(target - x.T @ theirs.coef_))


def written_out(e):
  return np.concatenate([e.outer, np.einsum("nc,nd->ncd", e.outer, e.hidden).reshape(len(e.outer), -1)], axis=1)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_matching_pursuit_of_gradients_is_that_of_their_vectors(nonnegative, ridge):
  e = Embedding(RNG(0).normal(size=(50, 3)), RNG(1).normal(size=(50, 4)))
  x = written_out(e)
  found = matching_pursuit(e, embeddings.combination(e) / 50, 10, nonnegative=nonnegative, ridge=ridge)
  target, lacking, picked = x.mean(0), x.mean(0), []
  for _ in range(10):
    product = x @ lacking if nonnegative else np.abs(x @ lacking)
    picked.append(int(np.where(np.isin(np.arange(50), picked), -np.inf, product).argmax()))
    rows = np.concatenate([x[picked].T, np.sqrt(ridge) * np.eye(len(picked))])
    right = np.concatenate([target, np.zeros(len(picked))])
    weight = scipy.optimize.nnls(rows, right)[0] if nonnegative else np.linalg.lstsq(rows, right)[0]
    lacking = target - weight @ x[picked]
  assert found.index.tolist() == picked
  np.testing.assert_allclose(found.weight, weight, atol=1e-10)
  assert found.error == pytest.approx(np.linalg.norm(lacking))
  assert not nonnegative or (found.weight >= 0).all()


@pytest.mark.parametrize("seed", range(20))
def test_weights_of_at_least_nothing_are_the_best_of_all_active_sets(seed):
  """Vectors that nearly cancel, so that weights leave and come back."""
  x = RNG(seed).normal(size=(9, 4)) + np.where(np.arange(9) % 2, 2, -2)[:, None]
  target = RNG(seed + 50).normal(size=4)
  found = matching_pursuit(embeddings.points(x), target, 7, nonnegative=True)
  best = scipy.optimize.nnls(x[found.index].T, target)[1]
  assert found.error == pytest.approx(best, abs=1e-9) and (found.weight >= 0).all()


def test_further_choices_count_for_nothing_where_nothing_is_lacking():
  x = np.repeat(np.eye(3), 2, axis=0)
  for nonnegative in (False, True):
    found = matching_pursuit(embeddings.points(x), np.array([3.0, 2.0, 1.0]), 6, nonnegative=nonnegative)
    assert found.index[:3].tolist() == [0, 2, 4] and sorted(found.index) == list(range(6))
    assert found.error < 1e-12 and np.isfinite(found.weight).all()
    np.testing.assert_allclose(found.weight @ x[found.index], [3, 2, 1], atol=1e-12)


def test_weights_are_the_sizes_of_clusters():
  x = RNG(0).normal(size=(30, 3))
  x[7] = x[3]
  similarity = objectives.distance_similarity(embeddings.points(x))
  index = np.array([3, 7, 12, 20])
  near = np.linalg.norm(x[:, None] - x[index][None], axis=-1)
  owner = near.argmin(1)
  owner[7] = 1  # a choice stands for itself, whatever is at the same place
  np.testing.assert_array_equal(cluster_sizes(similarity.rows, index), np.bincount(owner, minlength=4))
  picked = maximise(objectives.facility_location(similarity), 5).index
  weights = cluster_sizes(similarity.rows, picked)
  assert weights.sum() == 30 and weights.min() >= 1 and weights.dtype == np.float32


def softmax(z):
  p = np.exp(z - z.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_glister_is_the_choice_of_a_layer_that_takes_the_steps(eta):
  """The logits are linear in the last layer, so that the Taylor step is the step itself."""
  h, y, h_val, y_val = (
    RNG(0).normal(size=(40, 4)),
    RNG(1).integers(3, size=40),
    RNG(2).normal(size=(9, 4)),
    np.arange(9) % 3,
  )
  weight, bias = RNG(3).normal(size=(4, 3)), RNG(4).normal(size=3)
  e = embeddings.last_layer_gradients(h, h @ weight + bias, y)
  found = maximise(validation_alignment(e, h_val, h_val @ weight + bias, y_val, eta=eta), 8).index
  g, picked = softmax(h @ weight + bias) - np.eye(3)[y], []
  for _ in range(8):
    residual = softmax(h_val @ weight + bias) - np.eye(3)[y_val]
    slope_bias, slope = residual.mean(0), h_val.T @ residual / 9
    gain = g @ slope_bias + np.einsum("nd,dc,nc->n", h, slope, g)
    picked.append(int(np.where(np.isin(np.arange(40), picked), -np.inf, gain).argmax()))
    weight, bias = weight - eta * np.outer(h[picked[-1]], g[picked[-1]]), bias - eta * g[picked[-1]]
  assert found.tolist() == picked


def test_the_update_of_glister_changes_the_choice():
  h, y = RNG(0).normal(size=(40, 4)), RNG(1).integers(3, size=40)
  logits = RNG(3).normal(size=(40, 3))
  e = embeddings.last_layer_gradients(h, logits, y)
  fixed, updated = (maximise(validation_alignment(e, h, logits, y, eta=eta), 8).index for eta in (0.0, 0.5))
  first = embeddings.along(e, embeddings.combination(e))
  np.testing.assert_array_equal(fixed, np.argsort(-first, kind="stable")[:8])  # alignment alone: the top of one list
  assert fixed[0] == updated[0] and set(fixed) != set(updated)
