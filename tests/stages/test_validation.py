"""The choice of a learning rate: from the largest downwards, until it is clearly worse."""

import math

import pytest

from jdistill.stages import validation


@pytest.fixture
def tried(monkeypatch):
  """`(accuracy by rate) -> (what was found, rates in the order in which they were tried)`."""

  def choose(known):
    asked = []

    def accuracy(run, network, one, rate, *, seeds, mesh=None):
      asked.append(rate)
      return known[rate]

    monkeypatch.setattr(validation, "accuracy", accuracy)
    return validation.accuracies(None, None, None, [*known, *known], seeds=1), asked

  return choose


def test_rates_below_a_clear_loss_are_not_tried(tried):
  found, asked = tried({0.003: 0.9, 0.01: 0.6, 0.03: 0.7, 0.1: 0.69})
  assert asked == [0.1, 0.03, 0.01] and found == {0.1: 0.69, 0.03: 0.7, 0.01: 0.6}


def test_all_are_tried_where_smaller_ones_are_as_good(tried):
  known = {0.003: 0.7, 0.01: 0.69, 0.03: 0.68, 0.1: 0.4}
  assert tried(known) == (known, [0.1, 0.03, 0.01, 0.003])


def test_a_rate_that_diverges_does_not_end_the_search(tried):
  found, asked = tried({0.01: 0.7, 0.1: math.nan, 1.0: math.nan})
  assert asked == [1.0, 0.1, 0.01] and found[0.01] == 0.7
