"""KD in data pruning: its loss against NumPy, and the closed form that says why it helps."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from test_logits import STUDENT, cross_entropy, kl, total

from jdistill.base import UserError
from jdistill.evaluation import ridge_self_distill
from jdistill.methods.knowledge.logits import kd_pruning

RNG = np.random.default_rng(0)
N, D, RIDGE, NOISE = 60, 8, 2.0, 1.5
X, THETA = RNG.normal(size=(N, D)), RNG.normal(size=D)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_one_number_weighs_labels_against_the_teacher(alpha):
  want = (1 - alpha) * cross_entropy(STUDENT) + alpha * kl(2.0)
  assert total(kd_pruning(temperature=2.0, alpha=alpha)) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"alpha": 1.1}, r"method\.alpha=1\.1: must be at most 1"),
    ({"alpha": -0.1}, r"method\.alpha=-0\.1: must be at least 0"),
    ({"temperature": 0.0}, r"method\.temperature=0\.0: must be above 0"),
  ],
)
def test_weights_and_temperatures_that_mean_nothing_are_refused(options, words):
  with pytest.raises(UserError, match=words):
    kd_pruning(**options)


def expected_error(kept, alpha):
  """`E |theta_S - theta|^2` over the noise of the labels, from the matrix that takes labels to the student."""
  a = ridge_self_distill(X, np.eye(N), np.arange(kept), alpha=alpha, ridge=RIDGE)
  return np.sum((a @ X @ THETA - THETA) ** 2) + NOISE**2 * np.sum(a**2)


def test_a_student_without_teacher_is_ridge_regression_on_its_part():
  y = X @ THETA + RNG.normal(size=N)
  found = ridge_self_distill(X, y, np.arange(20), alpha=0.0, ridge=RIDGE)
  np.testing.assert_allclose(found, Ridge(RIDGE, fit_intercept=False).fit(X[:20], y[:20]).coef_, rtol=1e-9)
  taught = ridge_self_distill(X, y, np.arange(20), alpha=1.0, ridge=RIDGE)
  seen = X[:20] @ Ridge(RIDGE, fit_intercept=False).fit(X, y).coef_
  np.testing.assert_allclose(taught, Ridge(RIDGE, fit_intercept=False).fit(X[:20], seen).coef_, rtol=1e-9)
  halfway = ridge_self_distill(X, y, np.arange(20), alpha=0.5, ridge=RIDGE)
  np.testing.assert_allclose(halfway, (found + taught) / 2, rtol=1e-9)


def test_a_teacher_of_all_data_lowers_the_expected_error_of_a_student_of_a_part():
  for kept in (6, 12, 30):
    errors = [expected_error(kept, alpha) for alpha in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert min(errors[1:]) < errors[0], kept
  gain = [expected_error(kept, 0.0) - expected_error(kept, 1.0) for kept in (6, 12, 30, N)]
  assert gain[0] > gain[-1]  # most where least is kept


def test_the_expected_error_is_that_of_many_draws():
  labels = X @ THETA + NOISE * np.random.default_rng(1).normal(size=(4000, N))
  found = ridge_self_distill(X, labels.T, np.arange(12), alpha=0.5, ridge=RIDGE)
  error = np.mean(np.sum((found - THETA[:, None]) ** 2, axis=0))
  assert error == pytest.approx(expected_error(12, 0.5), rel=0.05)


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"alpha": 1.5, "ridge": 1.0}, "alpha=1.5"),
    ({"alpha": 0.5, "ridge": 0.0}, "ridge=0.0"),
  ],
)
def test_values_outside_their_range_are_refused(options, words):
  with pytest.raises(UserError, match=words):
    ridge_self_distill(X, X @ THETA, np.arange(3), **options)
  with pytest.raises(UserError, match="kept: empty"):
    ridge_self_distill(X, X @ THETA, np.arange(0), alpha=0.5, ridge=1.0)
