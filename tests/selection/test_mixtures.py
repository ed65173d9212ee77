"""Weights of domains against float64 and published numbers, their bounds, and draws of examples domain by domain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.selection import domain_discrepancy, mixture_sampler, smooth_discrepancy_update

RATIOS = np.array([1.2, 1.4, 1.8, 1.3])
TEACHER = np.array([2.0, 7.0, 1.5, 30.0])
STUDENT = RATIOS * TEACHER


def softmax(z):
  e = np.exp(z - z.max())
  return e / e.sum()


def test_the_first_weights_are_a_softmax_of_ratios():
  found = domain_discrepancy(STUDENT, TEACHER)
  np.testing.assert_allclose(found, softmax(RATIOS), rtol=1e-5)
  np.testing.assert_allclose(found, [0.194, 0.237, 0.354, 0.215], atol=5e-4)  # of the card
  np.testing.assert_allclose(jax.jit(domain_discrepancy)(STUDENT, TEACHER), found, rtol=1e-6)


def test_constant_ratios_have_a_fixed_point():
  r = domain_discrepancy(STUDENT, TEACHER)
  step = jax.jit(lambda r: smooth_discrepancy_update(r, STUDENT, TEACHER, alpha=0.5))
  for _ in range(200):
    r = step(r)
  np.testing.assert_allclose(r, [0.196, 0.225, 0.370, 0.209], atol=5e-4)  # of the card
  np.testing.assert_allclose(step(r), r, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_an_update_is_the_formula_and_stays_within_its_bounds(alpha):
  rng = np.random.default_rng(0)
  for _ in range(20):
    r, ppl_t = rng.dirichlet(np.ones(5)), 1 + rng.gamma(1, 20, 5)
    ppl_s = ppl_t * rng.uniform(0.7, 3, 5)  # a teacher may be worse
    psi = r * np.exp(ppl_s / ppl_t)
    found = np.asarray(smooth_discrepancy_update(r, ppl_s, ppl_t, alpha=alpha))
    np.testing.assert_allclose(found, alpha * psi / psi.sum() + (1 - alpha) / 5, rtol=2e-5, atol=1e-7)
    assert found.min() >= (1 - alpha) / 5 - 1e-6 and found.max() <= alpha + (1 - alpha) / 5 + 1e-6


def test_ratios_of_an_untrained_student_do_not_overflow():
  ppl_s, ppl_t = np.array([5e4, 4e4, 20.0]), np.array([3.0, 40.0, 10.0])  # exp(16,667) is no number
  found = np.asarray(smooth_discrepancy_update(np.ones(3) / 3, ppl_s, ppl_t, alpha=0.5))
  np.testing.assert_allclose(found, [0.5 + 0.5 / 3, 0.5 / 3, 0.5 / 3], rtol=1e-5)
  capped = np.asarray(domain_discrepancy(ppl_s, ppl_t, cap=4.0))
  np.testing.assert_allclose(capped, softmax(np.array([4.0, 4.0, 2.0])), rtol=1e-5)
  assert np.isfinite(np.asarray(domain_discrepancy(jnp.bfloat16([5e4, 4e4]), jnp.bfloat16([3.0, 40.0])))).all()


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: domain_discrepancy([1.0, np.nan], [1.0, 1.0]), r"perplexity nan of the student in domain 1"),
    (lambda: domain_discrepancy([1.0, 2.0], [np.inf, 1.0]), r"perplexity inf of the teacher in domain 0"),
    (lambda: domain_discrepancy([1.0, 2.0], [1.0]), r"perplexities \(2,\) and \(1,\)"),
    (lambda: domain_discrepancy([], []), "give"),
    (lambda: smooth_discrepancy_update([1.0], [2.0], [1.0], alpha=1.2), r"alpha=1\.2 must be in \[0, 1\]"),
    (lambda: smooth_discrepancy_update([1.0], [2.0, 2.0], [1.0, 1.0], alpha=0.5), r"\(1,\) weights"),
    (lambda: mixture_sampler(jax.random.key(0), [1.0, 0.0], [0, 3], 4), "no domain has both"),
    (lambda: mixture_sampler(jax.random.key(0), [1.0, -1.0], [1, 3], 4), "below 0"),
    (lambda: mixture_sampler(jax.random.key(0), [1.0], [1, 3], 4), r"weights \(1,\), sizes \(2,\)"),
  ],
)
def test_what_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_draws_have_the_frequencies_of_the_weights_and_cycle_within_a_domain():
  weights, sizes, start = jnp.float32([4.0, 1.0, 5.0, 3.0]), jnp.int32([3, 7, 400, 0]), jnp.int32([2, 0, 0, 0])
  domain, index = map(np.asarray, mixture_sampler(jax.random.key(1), weights, sizes, 4000, start=start))
  assert domain.dtype == index.dtype == np.int32
  # four standard deviations of a share of 1/2 in 4,000 draws
  np.testing.assert_allclose(np.bincount(domain, minlength=4) / 4000, [0.4, 0.1, 0.5, 0.0], atol=0.032)
  for d, size in enumerate([3, 7, 400]):
    own = index[domain == d]
    np.testing.assert_array_equal(own, (int(start[d]) + np.arange(len(own))) % size)
