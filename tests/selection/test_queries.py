"""Selectors of queries: each against a plain computation, the probabilities they read, and what they refuse."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jdistill import selection
from jdistill.base import UserError
from jdistill.selection import Pool, coresets, dual_head_probs, entropy, least_confidence, margin_gain, queries
from jdistill.selection.queries import as_probabilities

RNG = np.random.default_rng(0)
P, Q = as_probabilities(RNG.normal(size=(40, 4)) * 2), as_probabilities(RNG.normal(size=(6, 4)))
H, HQ = RNG.normal(size=(40, 3)), RNG.normal(size=(6, 3))
POOL = Pool(P, H, Q, HQ, np.array([3, 0, 2, 1]), 10.0, RNG.random(40) < 0.7)


def draw(name, count=8, pool=POOL, seed=1, **options):
  found = getattr(queries, name)(**options)(np.random.default_rng(seed), pool, count)
  assert len(set(found.tolist())) == count == len(found) and found.min() >= 0 and found.max() < len(pool.probabilities)
  return found.tolist()


def test_scores_of_probabilities():
  p = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [1 / 3] * 3])
  np.testing.assert_allclose(margin_gain(p), [0.8, 1e-6, 1.0], rtol=1e-6)
  want = [-(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2)), 0, np.log(3)]
  np.testing.assert_allclose(entropy(p), want, rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(least_confidence(p), [0.5, 0, 2 / 3], rtol=1e-6, atol=1e-7)


def test_two_heads_are_mixed_as_probabilities():
  a, b = RNG.normal(size=(5, 4)), RNG.normal(size=(5, 4))
  want = 0.3 * as_probabilities(a) + 0.7 * as_probabilities(b / 2)
  np.testing.assert_allclose(dual_head_probs(np.float32(a), np.float32(b), alpha=0.3, beta=2.0), want, rtol=1e-5)


@pytest.mark.parametrize(("name", "score"), [("entropy", entropy), ("least_confidence", least_confidence)])
def test_the_most_unsure_are_asked_about(name, score):
  assert draw(name) == np.argsort(-np.asarray(score(P)), kind="stable")[:8].tolist()


def test_margins():
  top = np.sort(P, axis=1)
  assert draw("margin") == np.argsort(top[:, -1] - top[:, -2], kind="stable")[:8].tolist()
  assert set(draw("rad", mistakes=0)) == set(draw("margin"))  # a perfect teacher
  right = np.flatnonzero(POOL.right)
  assert draw("oracle") == right[np.argsort((top[:, -1] - top[:, -2])[right], kind="stable")[:8]].tolist()


def greedy(points, init, count):
  """k-center from all distances."""
  centres, picked = list(init), []
  for _ in range(count):
    far = cdist(points, np.stack(centres)).min(1)
    far[picked] = -1
    picked.append(int(far.argmax()))
    centres.append(points[picked[-1]])
  return picked


def test_coverage_starts_from_what_has_an_answer():
  assert draw("pcoreset") == greedy(P, Q, 8)
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
  assert draw("k_center") == greedy(unit(H), unit(HQ), 8)
  assert draw("pcoreset") != draw("k_center")


def test_coverage_without_any_answer_starts_nearest_to_the_mean():
  first = int(np.linalg.norm(P - P.mean(0), axis=1).argmin())
  empty = POOL._replace(labelled_probabilities=Q[:0])
  assert draw("pcoreset", pool=empty) == [first, *greedy(P, P[[first]], 7)]
  assert coresets.k_center(None, P, 8).tolist() == draw("pcoreset", pool=empty)


def embeddings():
  g = P - np.eye(4)[P.argmax(1)]
  return np.concatenate([g, (g[:, :, None] * H[:, None, :]).reshape(40, -1)], axis=1)


def test_badge_is_k_means_plus_plus_on_gradient_embeddings():
  e = embeddings()
  assert draw("badge")[0] == np.linalg.norm(e, axis=1).argmax()
  rng, picked = np.random.default_rng(1), [int(np.linalg.norm(e, axis=1).argmax())]
  while len(picked) < 8:
    far = np.square(cdist(e, e[picked])).min(1)
    far[picked] = 0
    picked.append(int(rng.choice(40, p=far / far.sum())))
  assert draw("badge") == picked
  unit = e / np.linalg.norm(e, axis=1, keepdims=True)
  assert draw("badge", farthest_first=True) == [picked[0], *greedy(unit, unit[[picked[0]]], 7)]


def test_badge_among_copies():
  same = Pool(P[[0] * 5], H[[0] * 5], Q, HQ, POOL.counts)
  assert draw("badge", 5, same)[0] == 0


def test_rare_classes_are_drawn_more_often():
  predicted = P.argmax(1)
  weight = 1 / np.maximum(POOL.counts, 1)[predicted]
  found = np.array([draw("class_balanced", 1, seed=seed)[0] for seed in range(1500)])
  shares = np.bincount(predicted[found], minlength=4) / 1500
  want = np.bincount(predicted, weights=weight / weight.sum(), minlength=4)
  assert np.abs(shares - want).max() < 4.5 * np.sqrt(0.25 / 1500)


def test_robust_queries_use_the_estimate_and_its_rates():
  q = selection.capped_distribution(np.asarray(margin_gain(P)), 10, 8).q
  hits = np.zeros(40)
  for seed in range(400):
    hits[draw("rad", seed=seed)] += 1
  assert np.abs(hits / 400 - q).max() < 4.5 * np.sqrt(0.25 / 400)
  q = selection.capped_distribution(np.asarray(margin_gain(P)), 2, 8).q
  assert set(draw("rad", mistakes=2)) <= set(np.flatnonzero(q))


REFUSED = {
  "an exhausted pool": (lambda: draw("random", 41), r"active\.queries=41: only 40 examples are left in the pool"),
  "logits": (lambda: margin_gain(np.log(P)), r"margin_gain: rows are no probabilities \(least value -.*take softmax"),
  "unscaled rows": (lambda: entropy(2 * P), r"entropy: rows are no probabilities .* a sum of 2"),
  "NaN": (lambda: least_confidence(np.full((2, 3), np.nan)), r"least_confidence: 6 probabilities are not finite"),
  "one class": (lambda: margin_gain(np.ones((3, 1))), r"probabilities of shape \(3, 1\)"),
  "logits for coverage": (lambda: draw("pcoreset", pool=POOL._replace(probabilities=5 * P)), r"pcoreset: rows are no"),
  "no estimate": (
    lambda: draw("rad", pool=POOL._replace(teacher_mistakes=None)),
    r"selector\.mistakes: open, and no held-out examples to estimate it",
  ),
  "negative mistakes": (lambda: queries.rad(mistakes=-1), r"selector\.mistakes=-1: must be at least 0"),
  "an oracle without truth": (lambda: draw("oracle", pool=POOL._replace(right=None)), r"selector\.name='oracle'"),
  "other classes": (
    lambda: draw("pcoreset", pool=POOL._replace(labelled_probabilities=Q[:, :3])),
    r"k_center: init of shape \(6, 3\) beside points of width 4",
  ),
  "too many centres": (lambda: coresets.k_center(None, P, 41), r"k_center: 41 of 40 points"),
  "heads of other classes": (lambda: dual_head_probs(P, P[:, :3]), r"dual_head_probs: heads of shapes"),
  "a share above 1": (lambda: dual_head_probs(P, P, alpha=1.5), r"dual_head_probs: alpha=1\.5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
  call, message = REFUSED[case]
  with pytest.raises(UserError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)
