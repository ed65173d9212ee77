"""Bins of dataset quantization: each a graph cut of what the ones before left, and what is drawn of them."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.selection import embeddings
from jdistill.selection.bins import generate_bins, sample_bins

RNG = np.random.default_rng
X, Y = RNG(0).normal(size=(47, 4)), np.arange(47) % 2  # classes of 24 and 23


def _one_bin(x, left, count, form, lam):
  """Greedily by the printed gains, with all similarities."""
  v = x[left]
  unit = v / np.linalg.norm(v, axis=1, keepdims=True)
  s = {"cosine": 0.5 + 0.5 * unit @ unit.T, "product": v @ v.T, "distance": np.square(v[:, None] - v[None]).sum(-1)}[
    form
  ]
  picked = []
  for _ in range(count):
    rest = [i for i in range(len(left)) if i not in picked]
    if form == "distance":
      gain = {i: s[picked, i].sum() - s[rest, i].sum() for i in rest}
    else:
      gain = {i: lam * s[:, i].sum() - 2 * s[picked, i].sum() for i in rest}
    picked.append(max(gain, key=gain.get))
  return left[picked]


@pytest.mark.parametrize(("form", "lam"), [("cosine", 1.0), ("cosine", 2.0), ("product", 1.0), ("distance", 1.0)])
@pytest.mark.parametrize(("n_bins", "sizes"), [(5, (5, 5, 5, 5, 4)), (7, (3, 3, 3, 3, 3, 3, 6)), (9, (2,) * 8 + (8,))])
def test_every_bin_is_a_greedy_cut_of_what_is_left(form, lam, n_bins, sizes):
  bins = generate_bins(embeddings.points(X), Y, n_bins, form=form, lam=lam)
  left = np.flatnonzero(Y == 0)
  assert tuple(np.bincount(bins[left], minlength=n_bins)) == sizes
  for number in range(n_bins - 1):
    chosen = _one_bin(X, left, sizes[number], form, lam)
    np.testing.assert_array_equal(np.sort(chosen), np.flatnonzero((bins == number) & (Y == 0)))
    left = np.setdiff1d(left, chosen)


def test_bins_leave_something_for_the_last():
  y = np.zeros(16, int)  # rounding up, nine bins of two would be more than there are
  assert np.bincount(generate_bins(embeddings.points(X[:16]), y, 10)).tolist() == [1] * 9 + [7]
  assert sorted(generate_bins(embeddings.points(X[:10]), y[:10], 10)) == list(range(10))
  assert (generate_bins(embeddings.points(X[:10]), y[:10], 1) == 0).all()


def test_the_first_bins_are_typical_and_the_last_has_the_outliers():
  x = RNG(1).normal(size=(100, 3)) * np.where(np.arange(100) < 90, 0.2, 1.0)[:, None] + [5, 0, 0]
  x[90:] *= -1
  bins = generate_bins(embeddings.points(x), np.zeros(100, int), 10, lam=2.0)
  assert bins[90:].mean() > bins[:90].mean() + 2


def test_the_same_part_of_every_bin_is_drawn():
  bins = np.arange(200) % 10
  y = np.arange(200) // 100  # ten of each bin and class
  found = sample_bins(RNG(0), bins, y, 0.3)
  np.testing.assert_array_equal(found.counts, np.full((2, 10), 3))
  np.testing.assert_array_equal(found.asked, [30, 30])
  assert len(set(found.index)) == 60 and all(
    ((bins == b) & (y == c))[found.index].sum() == 3 for b in range(10) for c in (0, 1)
  )
  assert set(found.index) != set(sample_bins(RNG(1), bins, y, 0.3).index)
  np.testing.assert_array_equal(found.index, sample_bins(RNG(0), bins, y, 0.3).index)
  draws = np.bincount(np.concatenate([sample_bins(RNG(i), bins, y, 0.3).index for i in range(300)]), minlength=200)
  assert abs(draws - 90).max() < 5 * np.sqrt(300 * 0.3 * 0.7)  # every example equally often


def test_small_bins_show_what_was_drawn():
  bins, y = np.arange(60) % 10, np.zeros(60, int)  # six of each
  assert sample_bins(RNG(0), bins, y, 0.1).counts.tolist() == [[1] * 10]  # 0.6: ten where six were asked for
  found = sample_bins(RNG(0), bins, y, 0.1, carry=True)
  assert found.counts.sum() == 6 == found.asked[0] and found.counts.max() == 1
  message = (
    r"select.rho=0.05: draws none of the 60 examples of class 0, whose bins have at most 6; raise rho, have fewer"
  )
  with pytest.raises(UserError, match=message):
    sample_bins(RNG(0), bins, y, 0.05)
  assert sample_bins(RNG(0), bins, y, 0.05, carry=True).counts.sum() == 3
  # 1.5, 3 and 4.5 of 5, 10 and 15, halves to the even number
  thirds = np.arange(15) % 3
  assert sample_bins(RNG(0), thirds, y[:15], 0.3, carry=True).counts.tolist() == [[2, 1, 1]]


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: generate_bins(embeddings.points(X), Y, 24), "select.n_bins=24: class 1 has 23 examples; give 1 to 23"),
    (lambda: generate_bins(embeddings.points(X), Y, 0), "select.n_bins=0: class 0 has 24"),
    (lambda: sample_bins(RNG(0), Y, Y, 0.0), "select.rho=0.0: must be above 0"),
    (lambda: sample_bins(RNG(0), Y, Y, 1.1), "select.rho=1.1: must be above 0 and at most 1"),
  ],
)
def test_what_cannot_be_is_refused(call, message):
  with pytest.raises(UserError, match=message):
    call()
