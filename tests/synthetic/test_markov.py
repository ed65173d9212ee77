"""Markov sources against brute force over all documents, and the oracle on rows of tokens."""

import itertools

import jax
import numpy as np
import pytest

from jdistill.synthetic import (
  document_entropy,
  entropy_rate,
  from_transitions,
  markov_oracle,
  markov_source,
  next_log_probs,
  oracle_logits,
  sample_markov,
)

LENGTH = 5


@pytest.mark.parametrize("order", [0, 1, 2])
def test_log_probs_and_entropy_are_those_of_all_documents(order):
  source = markov_source(3, symbols=3, order=order, concentration=0.7)
  documents = np.array(list(itertools.product(range(3), repeat=LENGTH)))
  logs = next_log_probs(source, documents)
  np.testing.assert_allclose(np.exp(logs).sum(-1), 1, atol=1e-12)
  total = np.take_along_axis(logs[:, :-1], documents[..., None], axis=2).sum((1, 2))
  np.testing.assert_allclose(np.exp(total).sum(), 1, atol=1e-12)
  assert document_entropy(source, LENGTH) == pytest.approx(-np.sum(np.exp(total) * total), abs=1e-12)
  # stationary: the marginal of every place is that of the first
  for place in range(LENGTH):
    marginal = [np.exp(total)[documents[:, place] == symbol].sum() for symbol in range(3)]
    np.testing.assert_allclose(marginal, source.conditionals[0][0], atol=1e-12)
  # and what follows `order` symbols depends on these alone
  rows = source.conditionals[-1][sum(documents[:, LENGTH - 1 - back] * 3**back for back in range(order))]
  np.testing.assert_allclose(np.exp(logs[:, -1]), np.broadcast_to(rows, (3**LENGTH, 3)), atol=1e-12)


def test_the_entropy_rate_of_a_coin_is_ln_2_and_of_a_chain_is_its_closed_form():
  assert entropy_rate(from_transitions([[0.5, 0.5]])) == pytest.approx(np.log(2), abs=1e-14)
  a, b = 0.1, 0.3  # leaving state 0 and state 1; stationary b / (a + b), a / (a + b)
  chain = from_transitions([[1 - a, a], [b, 1 - b]])
  h = lambda p: -p * np.log(p) - (1 - p) * np.log(1 - p)  # noqa: E731
  assert entropy_rate(chain) == pytest.approx((b * h(a) + a * h(b)) / (a + b), abs=1e-12)
  np.testing.assert_allclose(chain.conditionals[0], [[0.75, 0.25]], atol=1e-12)


def test_samples_have_the_frequencies_of_the_source():
  source = markov_source(1, symbols=3, order=2, concentration=1.0)
  documents = sample_markov(source, np.random.default_rng(0), 20_000, 4)
  found = np.zeros((3, 3, 3, 3))
  np.add.at(found, tuple(documents.T), 1)
  every = np.array(list(itertools.product(range(3), repeat=4)))
  logs = next_log_probs(source, every)[:, :-1]
  expected = np.exp(np.take_along_axis(logs, every[..., None], axis=2).sum((1, 2))) * len(documents)
  # chi-squared of 80 degrees of freedom has mean 80 and standard deviation 12.6
  assert np.sum((found.reshape(-1) - expected) ** 2 / expected) < 80 + 4 * 12.6


def test_the_oracle_reads_packed_rows_with_and_without_a_first_token():
  source = markov_source(5, symbols=4, order=2)
  one, two = sample_markov(source, np.random.default_rng(1), 2, 3)
  ids, begin, end, vocabulary = np.array([5, 2, 7, 4]), 8, 9, 11
  row = np.concatenate([[begin], ids[one], [end], ids[two], [end, 0]])
  segments = np.array([1] * 5 + [2] * 4 + [0])
  oracle = markov_oracle(source, ids, vocabulary, end, 3)
  found = np.asarray(jax.jit(oracle_logits, static_argnames="order")(oracle, row[None], segments[None], order=2))[0]
  first, second = next_log_probs(source, np.stack([one, two]))
  np.testing.assert_allclose(found[:3, ids], first[:3], rtol=1e-6)
  np.testing.assert_allclose(found[5:7, ids], second[1:3], rtol=1e-6)
  for finished in (3, 4, 7, 8):
    assert found[finished].argmax() == end and found[finished, end] == 0
  assert (np.delete(found[0], ids) == -1e30).all()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"symbols": 1}, "symbols=1 must be from 2 to 64"),
    ({"symbols": 64, "order": 4}, "order=4"),
    ({"concentration": 0.0}, "concentration=0.0"),
  ],
)
def test_bad_sources_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    markov_source(0, **options)


def test_bad_transitions_and_ids_are_refused():
  with pytest.raises(ValueError, match="not \\[S\\^order, S\\]"):
    from_transitions(np.full((3, 2), 0.5))
  with pytest.raises(ValueError, match="every row must be a distribution"):
    from_transitions([[0.5, 0.6]])
  with pytest.raises(ValueError, match="give 2 different ids below 5"):
    markov_oracle(from_transitions([[0.5, 0.5]]), [1, 5], 5, 0, 3)
