"""Robust queries: the closed forms against linear programs, random rates and nature's best reply; the draw's rates."""

import itertools

import jax
import numpy as np
import pytest
from scipy.optimize import linprog

from jdistill.base import UserError
from jdistill.selection import capped_distribution, rad_distribution, systematic_sample

GAMES = [(n, m, b, seed) for seed, (n, m) in enumerate(itertools.product((2, 5, 7), (0, 1, 3, 4))) for b in (1, 2, 5)]
GAMES = [(n, m, b, seed) for n, m, b, seed in GAMES if m < n and b <= n]


def gains(n, seed):
  """Some of them equal."""
  return np.random.default_rng(seed).choice([0.02, 0.1, 0.3, 0.31, 0.5, 0.9, 1.0], n)


def certain(q, g, m):
  """What is gained where the mistakes are the worst `m`."""
  return np.sort(q * g)[: len(g) - m].sum()


def program(g, m, b, most):
  """The value by linear programming: `max v` with `v <= sum_{i not in E} q_i g_i` for every set of `m` mistakes."""
  n = len(g)
  rows = [[*(0 if i in spoiled else -g[i] for i in range(n)), 1] for spoiled in itertools.combinations(range(n), m)]
  bounds = [(0, most)] * n + [(None, None)]
  found = linprog([0] * n + [-1], rows, np.zeros(len(rows)), [[1] * n + [0]], [b], bounds)
  assert found.success
  return -found.fun


@pytest.mark.parametrize(("n", "m", "b", "seed"), GAMES)
def test_closed_forms_are_those_of_linear_programs(n, m, b, seed):
  g = gains(n, seed)
  for solve, most in ((rad_distribution, None), (capped_distribution, 1)):
    q, h, value = (np.asarray(part, np.float64) for part in solve(g, m, b))
    assert value == pytest.approx(program(g, m, b, most), abs=1e-5)
    assert certain(q, g, m) == pytest.approx(value, abs=1e-5)  # nature's best reply attains it
    assert q.sum() == pytest.approx(b, abs=1e-5) and q.min() >= 0 and (q > 0).sum() == h
    assert most is None or q.max() <= 1


def test_no_random_rates_are_better():
  rng = np.random.default_rng(0)
  for n, m, b in ((6, 2, 3), (30, 10, 5), (200, 30, 100)):
    g = rng.uniform(0.01, 1, n)
    free, capped = rad_distribution(g, m, b), capped_distribution(g, m, b)
    assert capped.value <= free.value + 1e-5
    for _ in range(200):
      q = rng.dirichlet(np.full(n, rng.choice([0.1, 1, 10]))) * b
      assert certain(q, g, m) <= free.value + 1e-5
      if q.max() <= 1:
        assert certain(q, g, m) <= capped.value + 1e-9


def test_known_numbers():
  """`V(1) = 0, V(2) = 1 / 3, V(3) = 2 / 7` for the gains 1, 1/2, 1/4 and one mistake."""
  q, h, value = rad_distribution(np.array([0.5, 1.0, 0.25]), 1, 2)
  np.testing.assert_allclose(q, [4 / 3, 2 / 3, 0], rtol=1e-6)
  assert h == 2 and value == pytest.approx(2 / 3)
  # not twice the same: both greatest products are 1/2, one of them is spoiled, and 1/8 comes from the third
  q, h, value = capped_distribution(np.array([0.5, 1.0, 0.25]), 1, 2)
  np.testing.assert_allclose(q, [1, 1 / 2, 1 / 2])
  assert h == 3 and value == pytest.approx(5 / 8)


def test_without_mistakes_the_greatest_gains_are_asked_about():
  g = np.random.default_rng(3).uniform(0.1, 1, 50)
  q, h, value = rad_distribution(g, 0, 4)
  assert h == 1 and q[g.argmax()] == pytest.approx(4) and value == pytest.approx(4 * g.max(), rel=1e-6)
  q, h, value = capped_distribution(g, 0, 4)
  assert h == 4 and set(np.flatnonzero(q)) == set(np.argsort(-g)[:4]) and np.allclose(q[q > 0], 1)


def test_compiled_rates_are_the_same_and_equalise_what_can_be_spoiled():
  g = np.random.default_rng(4).uniform(0.05, 1, 40)
  plain, compiled = rad_distribution(g, 12, 6), jax.jit(rad_distribution)(g, 12, 6)
  for one, other in zip(plain, compiled, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-6)
  products = (np.asarray(plain.q) * g)[np.asarray(plain.q) > 0]
  np.testing.assert_allclose(products, products[0], rtol=1e-5)


@pytest.mark.parametrize("solve", [rad_distribution, capped_distribution])
def test_nothing_but_mistakes_gives_uniform_rates_and_a_warning(solve):
  for m in (5, 6):
    with pytest.warns(UserWarning, match=rf"m={m} mistakes among 5 examples leave nothing to gain"):
      q, h, value = solve(np.linspace(0.1, 1, 5), m, 2)
    np.testing.assert_allclose(q, 0.4, rtol=1e-6)
    assert h == 5 and value == 0


REFUSED = {
  "more queries than examples": (lambda f: f(np.ones(3), 0, 4), r"b=4 queries of 3 examples; give 1 to 3"),
  "no query": (lambda f: f(np.ones(3), 0, 0), r"b=0 queries of 3 examples"),
  "negative mistakes": (lambda f: f(np.ones(3), -1, 1), r"m=-1 mistakes; give 0 or more"),
  "NaN": (lambda f: f(np.array([1.0, np.nan]), 0, 1), r"gains must be finite and not negative"),
  "negative gains": (lambda f: f(np.array([1.0, -0.1]), 0, 1), r"gains must be finite and not negative"),
  "a matrix": (lambda f: f(np.ones((2, 2)), 0, 1), r"gains of shape \(2, 2\); give one per example"),
}


@pytest.mark.parametrize("solve", [rad_distribution, capped_distribution])
@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, solve):
  call, message = REFUSED[case]
  with pytest.raises(UserError, match=message) as caught:
    call(solve)
  assert "\n" not in str(caught.value)


def test_gains_of_zero_count_as_the_floor():
  q, _, value = rad_distribution(np.zeros(4), 1, 2)
  assert np.isfinite(q).all() and 0 < value < 1e-5


@pytest.mark.parametrize("q", [[0.5, 1.0, 0.25, 0.25], [0.2] * 10, [1.0, 1.0], [0.9, 0.7, 0.4, 0.0, 1.0]])
def test_the_rates_of_the_draw_are_exact(q):
  """Frequencies of 4,000 draws within 4.5 standard errors, and never an example twice."""
  b, count = round(sum(q)), 4_000
  rng, hits = np.random.default_rng(5), np.zeros(len(q))
  for _ in range(count):
    drawn = systematic_sample(rng, np.array(q), b)
    assert len(drawn) == b == len(set(drawn.tolist()))
    hits[drawn] += 1
  error = np.sqrt(np.array(q) * (1 - np.array(q)) / count)
  assert np.all(np.abs(hits / count - q) <= 4.5 * error + 1e-12)


def test_draws_of_many_are_different_examples():
  rng = np.random.default_rng(6)
  for m in (0, 50, 300):
    g = rng.uniform(0, 1, 1000)
    drawn = systematic_sample(rng, capped_distribution(g, m, 200).q, 200)
    assert len(set(drawn.tolist())) == 200


@pytest.mark.parametrize(
  ("q", "b", "message"),
  [
    ([1.5, 0.5], 2, r"rates must be a vector in \[0, 1\]; cap them"),
    ([0.5, 0.5], 2, r"rates with a sum of 1 for 2 queries"),
    ([0.5, np.nan], 1, r"rates must be a vector"),
  ],
)
def test_rates_that_cannot_be_drawn(q, b, message):
  with pytest.raises(UserError, match=message):
    systematic_sample(np.random.default_rng(0), np.array(q), b)
