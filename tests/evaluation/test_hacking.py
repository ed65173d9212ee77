"""Power laws that are known, curves that bend off them, and intervals in which golden rises and proxy falls."""

import numpy as np
import pytest

from jdistill.evaluation.hacking import detect_bend, detect_teacher_hacking, fit_power_law

STEPS = np.unique(np.round(np.geomspace(1, 3000, 30))).astype(int)


def test_a_power_law_is_found_exactly():
  found = fit_power_law(STEPS, 0.7 * STEPS**-0.4, 8)
  assert (found.a, found.b) == (pytest.approx(np.log(0.7), abs=1e-12), pytest.approx(0.4, abs=1e-12))
  np.testing.assert_allclose(found.residual, 0, atol=1e-12)
  assert found.deviation < 1e-12


def test_the_fit_is_least_squares_of_the_window_alone():
  rng = np.random.default_rng(0)
  values = np.exp(-1 - 0.3 * np.log(STEPS) + 0.1 * rng.normal(size=len(STEPS)))
  found = fit_power_law(STEPS, values, 10)
  design = np.stack([np.ones(10), -np.log(STEPS[:10])], axis=1)
  expected, square, *_ = np.linalg.lstsq(design, np.log(values[:10]), rcond=None)
  np.testing.assert_allclose((found.a, found.b), expected, rtol=1e-10)
  assert found.deviation == pytest.approx(np.sqrt(square[0] / 8), rel=1e-10)
  late = np.where(np.arange(len(STEPS)) < 10, values, values * 5)
  assert fit_power_law(STEPS, late, 10).b == found.b
  # a share of the range of log(step)
  within = int(np.sum(np.log(STEPS) <= 0.5 * np.log(STEPS[-1])))
  assert fit_power_law(STEPS, late, 0.5).a == fit_power_law(STEPS, late, within).a


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_bend_is_seen_and_a_straight_line_is_none(noise):
  rng = np.random.default_rng(1)
  line = 0.5 * STEPS**-0.5 * np.exp(noise * rng.normal(size=len(STEPS)))
  assert detect_bend(STEPS, line) == (False, None)
  bent = line + np.where(STEPS > 300, 0.02, 0.0)
  found = detect_bend(STEPS, bent)
  assert found.hacking and 300 < found.step < 600
  # below the line is no hacking, and two points above it at the end are fewer than three
  assert not detect_bend(STEPS, line * np.where(STEPS > 300, 0.5, 1.0)).hacking
  assert not detect_bend(STEPS, line * np.where(STEPS[-2] <= STEPS, 2.0, 1.0)).hacking
  assert detect_bend(STEPS, line * np.where(STEPS[-2] <= STEPS, 2.0, 1.0), patience=2).step == STEPS[-2]


def test_golden_that_rises_while_proxy_falls_is_hacking():
  steps = np.arange(1, 11)
  proxy = np.linspace(1.0, 0.1, 10)
  golden = np.array([1, 0.8, 0.7, 0.6, 0.55, 0.56, 0.58, 0.6, 0.62, 0.64])
  assert detect_teacher_hacking(steps, golden, proxy) == (True, 5)
  assert detect_teacher_hacking(steps, np.sort(golden)[::-1], proxy) == (False, None)
  assert detect_teacher_hacking(steps, golden, proxy[::-1]) == (False, None)  # both rise: the student unlearns
  assert detect_teacher_hacking(steps, golden, proxy, rel_tol=0.2) == (False, None)
  assert detect_teacher_hacking(steps[:8], golden[:8], proxy[:8], patience=4) == (False, None)


@pytest.mark.parametrize(
  ("steps", "values", "window", "message"),
  [
    ([1, 2, 3, 4], [1, 1, 1, 1], 4, "4 of 4 points in the window; a line needs 5"),
    (STEPS, np.ones(len(STEPS)), 4, "4 of"),
    (STEPS, np.ones(len(STEPS)), 0.01, "a line needs 5"),
    (STEPS, np.where(STEPS == 1, 0.0, 1.0), 9, "0.0 at step 1 has no logarithm"),
    (STEPS, np.where(STEPS == 1, np.nan, 1.0), 9, "nan at step 1 has no logarithm"),
    ([0, 1, 2, 3, 4], np.ones(5), 5, "leave step 0 out"),
    (STEPS, np.ones(3), 5, "give \\[E\\] both"),
    ([], [], 5, "0 of 0 points"),
  ],
)
def test_fits_that_mean_nothing_are_refused(steps, values, window, message):
  with pytest.raises(ValueError, match=message):
    fit_power_law(steps, values, window)


def test_bad_curves_are_refused():
  with pytest.raises(ValueError, match="give \\[E\\] each"):
    detect_teacher_hacking([1, 2], [1, 1], [1])
  with pytest.raises(ValueError, match="must be finite"):
    detect_teacher_hacking([1, 2], [1, np.inf], [1, 1])
