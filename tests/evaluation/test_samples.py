"""Quality of samples against loops in float64, scipy, and closed forms."""

import jax
import numpy as np
import pytest
from scipy import linalg, stats

from jdistill.evaluation import samples as quality
from jdistill.evaluation.samples import rows

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 3)), RNG.normal(size=(40, 3)) * 1.5 + 0.5
KEY = jax.random.key(0)


@pytest.fixture(params=[rows.BLOCK, 100], ids=["one block", "many blocks"])
def block(request, monkeypatch):
  """Results do not depend on how many distances are held at once."""
  monkeypatch.setattr(rows, "BLOCK", request.param)


def distances(a, b):
  return np.array([[np.sqrt(np.sum((p - q) ** 2)) for q in b] for p in a])


def test_blocks_hold_no_more_than_they_say(monkeypatch):
  monkeypatch.setattr(rows, "BLOCK", 100)
  sizes = [found.size for _, found in rows.squared_distances(X, Y)]
  assert max(sizes) <= 100 and len(sizes) == 20
  far = np.float64([[1e6, 0], [1e6, 1]])
  ((_, found),) = rows.squared_distances(far, far)
  np.testing.assert_allclose(found, [[0, 1], [1, 0]], atol=1e-9)  # centred


@pytest.mark.parametrize("p", [1, 2])
def test_sliced_wasserstein_is_the_mean_over_directions(p):
  found = quality.sliced_wasserstein(X, Y, key=KEY, p=p, directions=16)
  axes = np.asarray(jax.random.normal(KEY, (16, 3)), np.float64)
  total = []
  for axis in axes / np.linalg.norm(axes, axis=1, keepdims=True):
    if p == 1:
      total.append(stats.wasserstein_distance(X @ axis, Y @ axis))
    else:
      total.append(np.mean((np.sort(X @ axis) - np.sort(Y @ axis)) ** 2))
  assert found == pytest.approx(np.mean(total) ** (1 / p), rel=1e-12)
  assert quality.sliced_wasserstein(X, X[::-1], key=KEY, p=p) == pytest.approx(0, abs=1e-12)
  assert found == quality.sliced_wasserstein(Y, X, key=KEY, p=p, directions=16)


def test_sliced_wasserstein_of_a_shift_is_its_length_over_the_root_of_the_dimension():
  """`E <u, v>^2 = |v|^2 / d`: 4,000 directions know it to a few percent."""
  shift = np.array([3.0, 4.0, 0.0, 0.0])
  x = RNG.normal(size=(50, 4))
  found = quality.sliced_wasserstein(x + shift, x, key=KEY, directions=4000)
  assert found == pytest.approx(5 / 2, rel=0.03)


def test_kernel_distance_is_the_unbiased_estimate_in_blocks():
  """One block of everything, and the mean over blocks that share nothing."""
  kernel = lambda a, b: (np.dot(a, b) / 3 + 1) ** 3  # noqa: E731

  def plain(a, b):
    n, m = len(a), len(b)
    own = [sum(kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) for s in (a, b)]
    cross = sum(kernel(p, q) for p in a for q in b)
    return own[0] / (n * (n - 1)) + own[1] / (m * (m - 1)) - 2 * cross / (n * m)

  whole = quality.kernel_distance(X, Y, blocks=1, block=40)
  assert whole == (pytest.approx(plain(X, Y), rel=1e-10), 0.0, 1)
  found = quality.kernel_distance(X, Y, seed=3, blocks=4, block=10)
  rng = np.random.default_rng(3)
  orders = rng.permutation(40), rng.permutation(40)
  parts = [plain(X[orders[0][i : i + 10]], Y[orders[1][i : i + 10]]) for i in range(0, 40, 10)]
  assert found == (pytest.approx(np.mean(parts), rel=1e-10), pytest.approx(np.std(parts, ddof=1), rel=1e-10), 4)
  assert quality.kernel_distance(X, Y, blocks=7, block=30).blocks == 7  # which share examples


def test_kernel_distances_are_unbiased():
  """Of one law the mean over draws is 0 to within four standard errors, and some are negative."""
  rng = np.random.default_rng(1)
  poly, rbf = [], []
  for _ in range(200):
    a, b = rng.normal(size=(2, 20, 2))
    poly.append(quality.kernel_distance(a, b, blocks=1, block=20).mean)
    rbf.append(quality.mmd_rbf(a, b, bandwidth=1.0))
  for found in (poly, rbf):
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(200) and min(found) < 0


def test_rbf_distance_is_its_definition(block):
  real = quality.median_bandwidth(Y)
  upper = distances(Y, Y)[np.triu_indices(40, 1)]
  assert real == pytest.approx(np.median(upper), rel=1e-12)
  total = 0.0
  x = X[:30]
  for scale in (0.5, 1, 2):
    kernel = lambda a, b, s=scale: np.exp(-(distances(a, b) ** 2) / (2 * (s * real) ** 2))  # noqa: E731
    xx, yy, xy = kernel(x, x), kernel(Y, Y), kernel(x, Y)
    total += (xx.sum() - 30) / (30 * 29) + (yy.sum() - 40) / (40 * 39) - 2 * xy.mean()
  assert quality.mmd_rbf(x, Y, bandwidth=real) == pytest.approx(total, rel=1e-9)


def test_frechet_distance_against_the_matrix_square_root():
  x, y = RNG.normal(size=(200, 5)) @ RNG.normal(size=(5, 5)), RNG.normal(size=(300, 5)) + 1
  cov = [np.cov(one, rowvar=False) for one in (x, y)]
  root = linalg.sqrtm(cov[0] @ cov[1]).real
  expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(cov[0] + cov[1] - 2 * root)
  assert quality.frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
  assert quality.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
  one = quality.frechet_distance(x[:, :1], y[:, :1])  # of numbers: differences of means and of deviations
  sds = [np.std(part[:, 0], ddof=1) for part in (x, y)]
  assert one == pytest.approx((x[:, 0].mean() - y[:, 0].mean()) ** 2 + (sds[0] - sds[1]) ** 2, rel=1e-9)


def test_frechet_distance_of_gaussians_in_closed_form():
  """Commuting covariances: `|dm|^2 + sum (sqrt a - sqrt b)^2`; also where one has no full rank."""
  turn = linalg.qr(RNG.normal(size=(4, 4)))[0]
  a, b, shift = np.array([1, 4, 9, 0.0]), np.array([4, 1, 0.0, 0]), np.array([1, 0, 2, 0.0])
  covs = [turn @ np.diag(values) @ turn.T for values in (a, b)]
  found = quality.frechet_gaussians(shift, covs[0], np.zeros(4), covs[1])
  assert found == pytest.approx(5 + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2), rel=1e-6)  # roots of 1e-16


def prdc(real, fake, k):
  """The formulas of the papers as loops."""

  def radius(points, i):
    return sorted(np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if j != i)[k - 1]

  real_radii = [radius(real, i) for i in range(len(real))]
  fake_radii = [radius(fake, i) for i in range(len(fake))]
  precision = np.mean([any(np.linalg.norm(f - r) <= rr for r, rr in zip(real, real_radii, strict=True)) for f in fake])
  recall = np.mean([any(np.linalg.norm(f - r) <= fr for f, fr in zip(fake, fake_radii, strict=True)) for r in real])
  density = sum(np.linalg.norm(f - r) <= rr for f in fake for r, rr in zip(real, real_radii, strict=True)) / (
    k * len(fake)
  )
  coverage = np.mean([any(np.linalg.norm(f - r) <= rr for f in fake) for r, rr in zip(real, real_radii, strict=True)])
  return precision, recall, density, coverage


@pytest.mark.parametrize("k", [1, 3, 5])
def test_neighbour_measures_are_their_formulas(block, k):
  fake = X[:33] * 2.5
  found = (*quality.precision_recall(fake, Y, k=k), *quality.density_coverage(fake, Y, k=k))
  np.testing.assert_allclose(found, prdc(Y, fake, k), rtol=1e-12)
  assert min(found) > 0 and found[0] < 1 and found[3] < 1


def test_copies_and_strangers():
  assert quality.precision_recall(X, X) == (1, 1)
  assert quality.density_coverage(X, X, k=5) == (pytest.approx(6 / 5), 1)  # itself and five neighbours, on average
  assert quality.precision_recall(X + 100, X) == (0, 0) and quality.density_coverage(X + 100, X) == (0, 0)
  twice = np.repeat(X[:20], 2, axis=0)
  assert quality.precision_recall(twice, twice, k=1) == (1, 1)  # balls of radius 0


def test_expected_coverage_is_what_real_data_cover():
  found = [
    quality.density_coverage(a, b, k=5).coverage for a, b in np.random.default_rng(2).normal(size=(40, 2, 100, 3))
  ]
  assert np.mean(found) == pytest.approx(quality.expected_coverage(5, 100, 100), abs=4 * np.std(found) / np.sqrt(40))
  assert quality.expected_coverage(5, 10**6, 10**6) == pytest.approx(1 - 2**-5, abs=1e-5)
  assert quality.expected_coverage(1, 30, 21) == pytest.approx(1 - 20 / 50)


def test_memorisation_tells_copies_from_samples(block):
  train, test = RNG.normal(size=(2, 60, 3))
  fresh = quality.memorisation(RNG.normal(size=(400, 3)), train, test)
  assert fresh.closer_to_train == pytest.approx(0.5, abs=0.15)
  copied = quality.memorisation(train[:25] + 1e-6, train, test)
  assert copied.closer_to_train == 1 and copied.to_train < 1e-5 < copied.to_test
  assert copied.to_test == pytest.approx(distances(train[:25] + 1e-6, test).min(1).mean(), rel=1e-9)
  assert quality.memorisation(X, train, train).closer_to_train == 0.5


def test_modes_are_counted():
  centres = np.array([[0.0, 0], [10, 0], [0, 10], [10, 10]])
  near = lambda c, n, off: centres[c] + np.tile([[off, 0]], (n, 1))  # noqa: E731
  samples = np.concatenate([near(0, 50, 0.29), near(1, 5, 0.0), near(2, 4, 0.0), near(3, 41, 0.31)])
  found = quality.mode_coverage(samples, centres, 0.1)
  assert found.covered == 2 and found.modes == 4 and found.good == pytest.approx(0.59)
  np.testing.assert_array_equal(found.counts, [50, 5, 4, 0])
  assert quality.mode_coverage(samples, centres, 0.1, shares=np.array([0.5, 0.2, 0.2, 0.1])).covered == 3
  assert quality.mode_coverage(samples, centres, 0.1, radius=3.2).covered == 3
  assert quality.mode_coverage(samples, centres, 0.1, least=0.21).covered == 1


def test_classes_are_compared_with_the_prior():
  prior = np.array([0.5, 0.25, 0.25])
  labels = np.repeat([0, 1, 2], [2, 1, 1])
  assert quality.class_divergence(labels, prior) == 0
  assert quality.class_divergence(np.zeros(7, int), prior) == pytest.approx(np.log(2))
  skewed = np.repeat([0, 1, 2], [1, 2, 1])
  assert quality.class_divergence(skewed, prior) == pytest.approx(stats.entropy([0.25, 0.5, 0.25], prior))
  assert quality.class_divergence(labels, np.array([0.5, 0.5, 0])) == np.inf


def test_values_stand_beside_the_floor_of_real_data():
  """Equal sizes on all sides, disjoint halves, and samples of the law itself do not differ from it."""
  rng = np.random.default_rng(0)
  real, good, bad = rng.normal(size=(400, 2)), rng.normal(size=(300, 2)), rng.normal(size=(300, 2)) * 0.6
  measure = quality.standard_measure(real, key=KEY, directions=32, block=100)
  seen = []

  def watched(a, b):
    seen.append((a, b))
    return measure(a, b)

  found = quality.beside_floor(watched, bad, real, splits=4)
  assert {(len(a), len(b)) for a, b in seen} == {(200, 200)}
  for (drawn, reference), (other, again) in zip(seen[::2], seen[1::2], strict=True):
    assert reference is again and np.isin(drawn, bad).all() and np.isin(other, real).all()
    assert not {tuple(row) for row in other} & {tuple(row) for row in reference}
  names = [
    "sliced_wasserstein_p2",
    "kernel_distance",
    "mmd_rbf",
    "frechet",
    "precision",
    "recall",
    "density",
    "coverage",
  ]
  assert list(found) == names
  wasserstein = found["sliced_wasserstein_p2"]
  values = [quality.sliced_wasserstein(a, b, key=KEY, directions=32) for a, b in seen]
  assert wasserstein == pytest.approx(
    (np.mean(values[::2]), np.std(values[::2], ddof=1), np.mean(values[1::2]), np.std(values[1::2], ddof=1), 200, 4)
  )
  assert all(found[name].differs for name in ("sliced_wasserstein_p2", "frechet", "mmd_rbf", "recall"))
  same = quality.beside_floor(measure, good, real, splits=4)
  assert abs(same["frechet"].value - same["frechet"].floor) < abs(found["frechet"].value - found["frechet"].floor) / 5
  assert same["coverage"].floor == pytest.approx(quality.expected_coverage(5, 200, 200), abs=0.03)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: quality.precision_recall(np.where(X > 2, np.nan, X), Y), r"samples: \d+ of 40 rows hold NaN or infinity"),
    (lambda: quality.frechet_distance(X, Y[:, :2]), "samples: 3 numbers per row, and the real data have 2"),
    (lambda: quality.frechet_distance(X, Y[:1]), "real: needs at least 2 rows"),
    (lambda: quality.sliced_wasserstein(X, Y[:39], key=KEY), "equally many rows, got 40 samples and 39 real"),
    (lambda: quality.sliced_wasserstein(X, Y, key=KEY, p=3), "p must be 1 or 2"),
    (lambda: quality.kernel_distance(X, Y), "block=200: must be from 2 to 40"),
    (lambda: quality.mmd_rbf(X, Y, bandwidth=0.0), "must be above 0"),
    (lambda: quality.median_bandwidth(np.zeros((5, 2))), "more than half of the real rows are equal"),
    (lambda: quality.precision_recall(X[:3], Y), "k=3: must be from 1 to 2"),
    (lambda: quality.density_coverage(X, Y, k=0), "k=0: must be from 1 to 39"),
    (lambda: quality.memorisation(X, Y, Y[:20]), "equally many rows of both"),
    (lambda: quality.mode_coverage(X, Y[:4, :2], 0.1), "samples have 3 numbers per row, centres 2"),
    (lambda: quality.mode_coverage(X, Y[:4], 0.1, shares=np.ones(4)), "must be 4 weights that add up to 1"),
    (lambda: quality.mode_coverage(X, Y[:4], 0.0), "must be above 0"),
    (lambda: quality.class_divergence(np.array([0, 3]), np.ones(3) / 3), "classes below 3"),
    (lambda: quality.class_divergence(np.array([0]), np.ones(3)), "shares that add up to 1"),
    (lambda: quality.beside_floor(None, X, Y, size=21), "size=21: must be from 2 to 20"),
    (lambda: quality.beside_floor(None, X, Y, splits=1), "splits=1 of at least 2"),
  ],
)
def test_bad_input(call, message):
  with pytest.raises(ValueError, match=message):
    call()
