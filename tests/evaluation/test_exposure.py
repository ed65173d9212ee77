"""Exposure of canaries against literal numbers, brute force and the distributions it is defined by."""

import itertools

import numpy as np
import pytest
from scipy import stats

from jdistill.evaluation.exposure import check_references, exposure, filling_log_perplexities, log_perplexity

RNG = np.random.default_rng(0)


def test_log_perplexity_counts_slots_only():
  probabilities = np.array([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.25, 0.25, 0.5]]] * 2)
  tokens, slots = np.array([[0, 2, 1], [1, 1, 0]]), np.array([[False, True, True], [True, False, True]])
  want = [-np.log(0.7 * 0.25), -np.log(0.25 * 0.25)]
  shift = np.array([[[3.0], [-500.0], [0.0]]])  # logits are defined up to a constant per position
  got = log_perplexity(np.log(probabilities) + shift, tokens, slots)
  assert got.dtype == np.float64
  np.testing.assert_allclose(got, want, rtol=1e-12)


def test_exposure_is_literal():
  every = np.arange(128.0)
  np.testing.assert_allclose(exposure([0.0, 1.0, 3.0, 127.0], every), [7.0, 6.0, 5.0, 0.0], atol=1e-12)
  tied = np.array([1.0] * 4 + [2.0] * 124)  # equal fillings are not more likely ones: the rank is 1, then 5
  np.testing.assert_allclose(exposure([1.0, 2.0], tied), [7.0, 7 - np.log2(5)], rtol=1e-12)


def test_interpolation_counts_ties_against_the_canary():
  references = np.arange(1.0, 129.0)
  got = exposure([0.5, 1.0, 3.5, 128.0, 500.0], references, method="interpolation")
  want = [7.0, 6.0, 5.0, 7 - np.log2(129), 7 - np.log2(129)]
  np.testing.assert_allclose(got, want, rtol=1e-12)


def test_a_random_ordering_has_an_exposure_of_about_1_44_bits():
  every = RNG.permutation(10_000).astype(float)
  assert exposure(every, every).mean() == pytest.approx(1 / np.log(2), abs=0.002)
  some = exposure(every[:200], every)
  assert some.mean() == pytest.approx(1.4427, abs=4 * 1.4427 / np.sqrt(200))  # exponential: deviation equals mean


def test_extrapolation_is_the_tail_of_a_fitted_skew_normal():
  shape, location, scale = 2.0, 10.0, 3.0
  references = stats.skewnorm.rvs(shape, location, scale, size=4000, random_state=1)
  canaries = np.array([7.0, 9.0, 12.0])
  true = -np.log2(stats.skewnorm.cdf(canaries, shape, location, scale))
  np.testing.assert_allclose(exposure(canaries, references, method="extrapolation"), true, rtol=0.1)
  far = exposure([-10.0], references, method="extrapolation")
  assert np.isfinite(far).all() and far[0] > np.log2(4000)  # beyond what ranks can say


def test_auto_extrapolates_only_where_no_reference_beats_the_canary():
  references = RNG.normal(10, 1, 500)
  canaries = np.array([references.min() - 1, references.min(), 10.0])
  auto, fitted, ranked = (exposure(canaries, references, method=m) for m in ("auto", "extrapolation", "interpolation"))
  np.testing.assert_array_equal(auto, [fitted[0], ranked[1], ranked[2]])
  np.testing.assert_array_equal(exposure(canaries[1:], references, method="auto"), ranked[1:])


def recurrent(x, seed=3, size=6):
  """Logits that depend on everything so far and on nothing later."""
  table = np.random.default_rng(seed).normal(size=(size, size))
  return np.cumsum(table[x] * (1 + np.arange(x.shape[1]))[None, :, None], axis=1)


@pytest.mark.parametrize("length", [None, 9])
def test_fillings_by_their_beginnings_equal_one_sequence_each(length):
  prefix, symbols, slots, asked = np.array([4, 0, 5]), np.array([1, 3, 2, 5, 0]), 3, []

  def predict(x):
    asked.append(x.shape)
    return recurrent(x)

  got = filling_log_perplexities(predict, prefix, symbols, slots, length=length)
  assert asked == [(25, length or 5)]
  fillings = np.array(list(itertools.product(symbols, repeat=slots)))
  whole = np.concatenate([np.tile(prefix, (125, 1)), fillings], axis=1)
  mask = np.tile(np.arange(5) >= 2, (125, 1))
  want = log_perplexity(recurrent(whole[:, :-1]), whole[:, 1:], mask)
  np.testing.assert_allclose(got, want, rtol=1e-12)
  logits = recurrent(whole[:1, :-1])[0, 2:]  # one of them by hand
  by_hand = sum(np.log(np.exp(row).sum()) - row[token] for row, token in zip(logits, fillings[0], strict=True))
  assert got[0] == pytest.approx(by_hand, rel=1e-12)
  assert np.exp(-got).sum() < 1  # other characters have the rest of the probability


def test_one_slot_needs_one_sequence():
  symbols = np.arange(100)
  got = filling_log_perplexities(lambda x: recurrent(x, size=100), np.array([7]), symbols, 1)
  logits = recurrent(np.array([[7]]), size=100)[0, 0]
  np.testing.assert_allclose(got, np.log(np.exp(logits).sum()) - logits, rtol=1e-12)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: exposure([1.0], np.arange(99.0)), "99 references are fewer than 100"),
    (lambda: exposure([0.5], np.arange(200.0)), "a canary is not among them; use 'interpolation'"),
    (lambda: exposure([1.0], np.arange(200.0), method="median"), "method='median' is unknown; choose one of rank,"),
    (lambda: exposure([np.nan], np.arange(200.0)), "must be finite"),
    (lambda: exposure(1.0, np.arange(200.0)), r"takes \[K\] and \[m\], got \(\) and \(200,\)"),
    (lambda: log_perplexity(np.zeros((2, 3, 4)), np.zeros((2, 3), int), np.zeros((2, 2))), "need tokens and slot_mask"),
    (lambda: log_perplexity(np.zeros((1, 3, 4)), np.zeros((1, 3), int), np.zeros((1, 3))), "has no slot"),
    (lambda: filling_log_perplexities(recurrent, np.array([1]), np.arange(5), 2), r"5\^2 fillings are fewer than 100"),
    (lambda: filling_log_perplexities(recurrent, np.array([], int), np.arange(5), 3), "prefix of 0 tokens"),
    (lambda: filling_log_perplexities(recurrent, np.array([1]), np.arange(5), 3, length=2), "length=2"),
    (lambda: check_references(["1234", "5678"], ["0000", "5678"]), "'5678' is a canary; draw reference fillings"),
  ],
)
def test_bad_input_is_named(call, message):
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)
  check_references(["1234"], ["0000"])
