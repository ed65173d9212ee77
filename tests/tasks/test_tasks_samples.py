"""The task of samples: what students and samplers see, scores against direct calls, the floor, and what is refused."""

import functools

import jax
import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from jdistill.base import UserError
from jdistill.data.points import mixture
from jdistill.diffusion import Draws
from jdistill.evaluation import samples as quality
from jdistill.tasks import Finished, Request, Task
from jdistill.tasks.samples import SPREAD, samples
from jdistill.tasks.task import fingerprint

RNG = np.random.default_rng(2)


def request(dataset="ring8", train_size=320, test_size=None, validation_size=0, preprocessing="none", seed=0):
  return Request(dataset, None, train_size, test_size, preprocessing, validation_size, seed)


@functools.cache
def points(conditions="labels", draws=160) -> Task:
  return samples(request(), conditions=conditions, draws=draws, directions=32)


@functools.cache
def digits(conditions="labels", draws=100) -> Task:
  return samples(request("digits", 300, 120, 50), conditions=conditions, draws=draws)


@pytest.mark.parametrize("make", [points, digits])
def test_data_are_scaled_as_a_whole(make):
  task = make()
  assert task.kind == "samples" and not task.higher and task.data.x.dtype == np.float32
  np.testing.assert_allclose(task.data.x.std(), SPREAD, rtol=0.02)
  assert abs(task.data.x.mean()) < 0.03
  assert task.data.x.shape[1:] == task.input_shape == {points: (1, 1, 2), digits: (8, 8, 1)}[make]
  assert set(np.unique(task.data.y)) == set(range(task.num_classes)) and len(task.class_names) == task.num_classes
  np.testing.assert_array_equal(task.members(3), np.arange(len(task.data.y)))
  assert task.teacher is task.data


def test_pixels_are_taken_to_the_range_of_released_denoisers():
  asked = request("digits", 60, 60, 0)
  task, usual = samples(asked, draws=60, scaling="pixels"), samples(asked, draws=60)
  assert task.data.x.min() == -1 and task.data.x.max() == 1
  pixels = usual.data.x - usual.data.x.min()
  np.testing.assert_allclose(task.data.x, 2 * pixels / pixels.max() - 1, atol=1e-6)
  with pytest.raises(UserError, match=r"task.scaling='pixels': is for images, and these are points"):
    samples(request(), scaling="pixels")


@pytest.mark.parametrize("make", [points, digits])
def test_samplers_get_noise_and_as_many_real_examples_are_beside_it(make):
  task = make()
  for held, size in ((task.validation, 50 if make is digits else 160), (task.test, 100 if make is digits else 160)):
    assert isinstance(held.x, Draws)
    assert {len(leaf) for leaf in (*held.x, held.y, held.ids, held.extra["real"])} == {size}
    assert held.x.eps.shape == (size, *task.input_shape) == held.extra["real"].shape
    np.testing.assert_array_equal(held.x.cond, held.y)
    assert abs(held.x.eps.mean()) < 5 / np.sqrt(held.x.eps.size) and abs(held.x.eps.std() - 1) < 0.1
    assert len(np.unique(held.x.ids)) == size
  parts = (task.data.x, task.validation.extra["real"], task.test.extra["real"])
  real = [{one.tobytes() for one in part} for part in parts]
  assert not real[0] & real[1] and not real[0] & real[2] and not real[1] & real[2]
  assert not np.isclose(task.test.x.eps[:50], task.validation.x.eps[:50]).any()


def test_real_examples_have_the_condition_of_their_row():
  task, known = points(), mixture("ring8")
  scale = SPREAD / np.sqrt(np.std(known.centres) ** 2 + known.sd**2)
  x = task.test.extra["real"].reshape(-1, 2) / scale
  nearest = np.argmin(((x[:, None] - known.centres) ** 2).sum(-1), 1)
  np.testing.assert_array_equal(nearest, task.test.y)
  assert np.bincount(task.test.y).tolist() == [20] * 8


@pytest.mark.parametrize(("make", "classes"), [(points, 8), (digits, 10)])
def test_without_conditions_all_are_number_zero(make, classes):
  task = make("none")
  assert task.num_classes == 1 and task.class_names == ()
  assert not task.data.y.any() and not task.test.x.cond.any() and not task.validation.y.any()
  assert "examples of 1 condition;" in task.notes[0] and f"of {classes} conditions;" in make().notes[0]
  np.testing.assert_array_equal(task.data.x, make().data.x)
  scores = task.score(lambda draws: task.test.extra["real"], task.test)
  assert "agreement" not in scores and "agreement" in make().score(lambda draws: draws.eps, make().test)


def test_scores_of_points_are_those_of_direct_calls():
  task, known = points(), mixture("ring8")
  made = task.test.extra["real"] + np.float32(0.2) * task.test.x.eps
  made[:60] = made[0]
  found = task.score(lambda draws: made, task.test)
  rows, real = (np.float64(x).reshape(-1, 2) for x in (made, task.test.extra["real"]))
  scale = SPREAD / np.sqrt(np.std(known.centres) ** 2 + known.sd**2)
  distance = quality.sliced_wasserstein(rows, real, key=jax.random.key(0), p=1, directions=32)
  assert found["sliced_wasserstein"] == pytest.approx(distance)
  away = np.linalg.norm(rows[:, None] - scale * known.centres, axis=-1)
  good = away.min(1) <= 3 * scale * known.sd
  assert found["good"] == pytest.approx(good.mean())
  shares = np.bincount(away.argmin(1)[good], minlength=8) / len(rows)
  assert found["modes"] == np.sum(shares >= 0.2 / 8)
  assert found["agreement"] == pytest.approx(np.mean(away.argmin(1) == task.test.y))
  assert task.metric == "sliced_wasserstein"
  assert set(found) == {"sliced_wasserstein", "modes", "good", "agreement", "by_condition"}


def test_scores_of_images_are_those_of_direct_calls():
  """The features are those of scikit-learn's own classifier, with its own predictions."""
  task = digits()
  made = task.test.extra["real"] + np.float32(0.3) * task.test.x.eps
  found = task.score(lambda draws: made, task.test)
  judge = MLPClassifier((64,), random_state=0, max_iter=60, tol=0.0, n_iter_no_change=60)
  with pytest.warns(UserWarning, match="converged"):
    judge.fit(task.data.x.reshape(len(task.data.y), -1), task.data.y)
  rows, real = (np.float64(x).reshape(len(x), -1) for x in (made, task.test.extra["real"]))
  own, other = (np.maximum(x @ judge.coefs_[0] + judge.intercepts_[0], 0) for x in (rows, real))
  classes = judge.predict(rows)
  want = {"frechet": quality.frechet_distance(own, other), "agreement": np.mean(classes == task.test.y)}
  want |= quality.precision_recall(own, other)._asdict() | quality.density_coverage(own, other)._asdict()
  prior = np.bincount(task.data.y) / len(task.data.y)
  want["class_divergence"] = quality.class_divergence(classes, prior)
  assert found == pytest.approx(want, rel=1e-6)
  assert task.metric == "frechet"


def test_the_notes_tell_what_choices_are_made_by():
  assert "60 samples beside as many training examples" in samples(request("digits", 100, 60, 0), draws=60).notes[0]
  assert "50 samples beside as many held-out examples" in digits().notes[0]


@pytest.mark.parametrize("make", [points, digits])
def test_the_floor_is_what_real_training_examples_get(make):
  task = make()
  known = task.floor
  assert set(known) == set(task.score(lambda draws: task.test.extra["real"], task.test))
  noise = task.score(lambda draws: 0.5 * draws.eps, task.test)
  same = task.score(lambda draws: task.test.extra["real"], task.test)
  assert same[task.metric] < 1e-3 and same[task.metric] < known[task.metric] < noise[task.metric] / 3
  assert known["agreement"] > 0.9 > noise["agreement"]
  if make is points:
    assert known["modes"] == 8 and known["good"] > 0.95


@pytest.mark.parametrize("make", [points, digits])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_far_away(make, bad):
  task = make()

  def score(value):
    made = task.test.extra["real"].copy()
    made[3, 0, 0, 0] = value
    return task.score(lambda draws: made, task.test)

  found, good = score(bad), task.score(lambda draws: task.test.extra["real"], task.test)
  assert np.isfinite(list(found.values())).all()
  assert found[task.metric] > 1000 * max(good[task.metric], 1e-3)
  every = task.score(lambda draws: np.full_like(draws.eps, bad), task.test)
  assert np.isfinite(list(every.values())).all() and every[task.metric] > found[task.metric]


def test_the_same_request_gives_the_same_task():
  again = samples(request(), draws=160, directions=32)
  for part in ("data", "validation", "test"):
    assert fingerprint(getattr(points(), part)) == fingerprint(getattr(again, part))
  assert again.notes == points().notes
  other = samples(request(seed=1), draws=160, directions=32)
  assert fingerprint(other.data) != fingerprint(again.data) and fingerprint(other.test) != fingerprint(again.test)


def test_sizes_are_those_asked_for():
  task = samples(request(train_size=100, test_size=80, validation_size=70), draws=60)
  assert (len(task.data.y), len(task.validation.y), len(task.test.y)) == (100, 60, 60)
  task = samples(request(train_size=None, test_size=50, validation_size=70), draws=100)
  assert (len(task.data.y), len(task.validation.y), len(task.test.y)) == (4000, 70, 50)


def test_what_is_refused():
  with pytest.raises(UserError, match="preprocessing='zca': samples are scaled as a whole; use 'none'"):
    samples(request(preprocessing="zca"))
  with pytest.raises(UserError, match=r"task\.draws=49: must be at least 50"):
    samples(request(), draws=49)
  with pytest.raises(UserError, match=r"task\.conditions='some': unknown; choose one of labels, none"):
    samples(request(), conditions="some")
  with pytest.raises(UserError, match=r"test_size=5: .* at least 10"):
    samples(request(test_size=5))
  with pytest.raises(UserError, match=r"validation_size=9: .* at least 10"):
    samples(request(validation_size=9))
  with pytest.raises(UserError, match=r"test_size=4: .* at least 10"):
    samples(request("digits", 100, 4, 50))


def shown(task, made):
  """What the report shows of a student that gives these test samples, and what it was asked for."""
  asked = []
  student = Finished(lambda draws: (asked.append(draws), made[: len(draws.ids)])[1], None, {})
  return task.exhibit.make(student), asked[0]


def test_points_are_shown_as_they_are():
  task = points()
  found, draws = shown(task, task.test.extra["real"])
  assert task.exhibit.kind == "points" and "160 samples" in task.exhibit.about
  np.testing.assert_array_equal(found, task.test.extra["real"].reshape(-1, 2))
  np.testing.assert_array_equal(found, task.exhibit.real)
  np.testing.assert_array_equal(draws.eps, task.test.x.eps)


@pytest.mark.parametrize(("conditions", "columns"), [("labels", 10), ("none", 10)])
def test_images_are_shown_as_pixels_with_a_column_for_each_condition(conditions, columns):
  task = digits(conditions)
  found, _ = shown(task, task.test.extra["real"])
  assert (task.exhibit.kind, task.exhibit.columns, found.shape) == ("images", columns, (40, 8, 8, 1))
  np.testing.assert_array_equal(found, task.exhibit.real)
  pixels = found * 16  # scikit-learn's digits are whole numbers to 16
  np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-3)
  assert found.min() == 0 and found.max() == 1
  broken, _ = shown(task, np.full_like(task.test.extra["real"], np.nan))
  assert np.isfinite(broken).all()
  real = task.test.extra["real"]
  known = (real - real.min()) / (real.max() - real.min())
  labels = [digits().test.y[np.abs(known - one).max((1, 2, 3)) < 1e-4] for one in found]
  assert all(len(one) for one in labels)
  assert ([one[0] for one in labels] == list(range(10)) * 4) == (conditions == "labels")
