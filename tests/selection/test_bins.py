"""Bins of dataset quantization: each a graph cut of what the ones before left, and what is drawn of them."""

import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.selection import Evidence, embeddings, select
from jdistill.selection.bins import bin_sizes, generate_bins, sample_bins
from jdistill.selection.select import check

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


def test_one_bin_alone_gives_all_that_is_kept():
  bins = generate_bins(embeddings.points(X), Y, 5)
  for number in (1, 3, 5):
    options = {"vectors_of": "features", "n_bins": 5, "only_bin": number}
    found = select(0, "bins", Evidence(Y, X), per_class=3, **options)
    assert (bins[found.index] == number - 1).all() and np.bincount(Y[found.index]).tolist() == [3, 3]
    assert len(set(found.index)) == 6 and found.notes == {}
    draws = {tuple(select(seed, "bins", Evidence(Y, X), per_class=2, **options).index) for seed in range(5)}
    assert len(draws) > 1  # drawn, not the first ones


@pytest.mark.parametrize("size", [10, 11, 16, 24, 99])
def test_sizes_of_bins_are_those_that_are_made(size):
  made = generate_bins(embeddings.points(RNG(2).normal(size=(size, 3))), np.zeros(size, int), 10)
  assert np.bincount(made).tolist() == bin_sizes(size, 10) and min(bin_sizes(size, 10)) > 0


def test_bins_that_give_nothing_and_vectors_without_direction_are_counted():
  y, x = np.repeat([0, 1], 20), RNG(3).normal(size=(40, 3))
  found = select(0, "bins", Evidence(y, x), per_class=3, vectors_of="features")
  assert len(found.index) == 6 and found.notes == {"bins that give nothing": 14}
  x[[4, 25, 26]] = 0
  found = select(0, "bins", Evidence(y, x), per_class=10, vectors_of="features")
  assert found.notes == {"vectors of length 0": 3} and len(found.index) == 20
  assert select(0, "graph_cut", Evidence(y, x), per_class=2, vectors_of="features").notes == found.notes
  everything = Evidence(y, np.zeros((40, 3)))  # no vector has a direction: all cosines are 0, and ties go to the first
  assert select(0, "graph_cut", everything, per_class=2, vectors_of="features").index.tolist() == [0, 1, 20, 21]
  assert select(0, "bins", Evidence(y, x), per_class=10, vectors_of="features", form="distance").notes == {}


BAD = [
  ({"n_bins": 24}, r"select\.n_bins=24: class 1 has 23 examples; give 1 to 23$"),
  ({"only_bin": 11}, r"select\.only_bin=11: there are 10 bins; give 1 to 10$"),
  ({"only_bin": 1}, r"select\.only_bin=1: has 2 examples of class 0, of which 3 are to be kept; keep fewer, or lower"),
  (
    {"only_bin": 1, "balanced": False},
    r"select\.only_bin=1: has 5 examples of the data set, of which 6 are to be kept",
  ),
  ({"n_bins": 48, "balanced": False}, r"select\.n_bins=48: the data set has 47 examples; give 1 to 47$"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bins_that_cannot_be_are_refused_before_there_is_evidence(changes, message):
  with pytest.raises(UserError, match=f"^{message}") as caught:
    check("bins", Y, per_class=3, **changes)
  assert "\n" not in str(caught.value)
  with pytest.raises(UserError, match=f"^{message}"):
    select(0, "bins", Evidence(Y, X), per_class=3, vectors_of="features", **changes)


def test_what_a_selector_keeps_is_known_before_there_is_evidence():
  assert check("bins", Y, per_class=3) == {0: 3, 1: 3} and check("k_center", Y, fraction=0.5) == {0: 12, 1: 12}
  assert check("random", Y, fraction=0.5, balanced=False) == {-1: 24}
