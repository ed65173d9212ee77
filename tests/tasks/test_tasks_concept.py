"""The task of concepts: who sees which images, figures beside direct formulas, the floor, and what is refused."""

import functools

import numpy as np
import pytest

from jdistill import stages
from jdistill.base import Batch, UserError
from jdistill.data import load
from jdistill.diffusion import Draws
from jdistill.evaluation.samples import frechet_distance
from jdistill.jobs import arms
from jdistill.run import load_experiment, make_run
from jdistill.tasks import Finished, Request, Task
from jdistill.tasks.concept import concept
from jdistill.tasks.concept_judge import OLD
from jdistill.tasks.samples import SPREAD

CONCEPTS, TOKEN = ("9", "3_inverted", "5_bar"), 9


def request(preprocessing="none", **changes):
  return Request("digits", None, 400, 150, preprocessing, 100, 0)._replace(**changes)


@functools.cache
def made(**options) -> Task:
  """The classifier of a task without options has all training images."""
  own = request() if options else request(train_size=None, test_size=None)
  return concept(own, **({"concepts": CONCEPTS, "repeats": 4, "draws": 30} | options))


def rows(x):
  return {one.tobytes() for one in np.float32(x)}


def test_teachers_know_nine_digits_and_the_token_is_one_more():
  task = made()
  assert (task.kind, task.metric, task.higher, task.num_classes) == ("samples", "concept", True, TOKEN + 1)
  assert set(np.unique(task.teacher.y)) == set(range(9)) and task.class_names == (*map(str, range(9)), "concept")
  np.testing.assert_allclose(task.teacher.x.std(), SPREAD, rtol=1e-4)
  assert abs(task.teacher.x.mean()) < 1e-4
  assert not rows(task.teacher.x) & rows(task.data.x[task.data.y == TOKEN])


def test_a_seed_draws_its_concept_and_its_references():
  task = made(prior_size=6)
  seen = {}
  for seed in range(6):
    own = task.members(seed)
    assert len(own) == 5 * 4 + 6
    np.testing.assert_array_equal(own, task.members(seed))
    new = own[task.data.y[own] == TOKEN]
    assert len(new) == 20 and set(np.bincount(new)[np.unique(new)]) == {4}
    assert (task.data.y[own] != TOKEN).sum() == 6
    seen[seed] = rows(task.data.x[new])
    assert len(seen[seed]) == 5
  assert len(set.union(*seen.values())) > 25  # other references of the same concept: seeds 0 and 3
  for held in (task.validation, task.test):
    assert not set.union(*seen.values()) & rows(held.extra["real"])
  assert len({tuple(np.sort(task.members(s)[-6:])) for s in range(6)}) > 1


def test_styles_change_pixels_of_their_class():
  """References beside the pictures of the data set, for every style."""
  task = made(concepts=("3_inverted", "5_bar", "7_mirrored", "2_upended"))
  data = load("digits", train_size=400, test_size=150, seed=0)
  x, y = np.float32(data.train_x), data.train_y
  assert task.num_classes == 11 and set(np.unique(task.teacher.y)) == set(range(10))  # styled classes stay known
  scaled = np.float32(task.teacher.x)
  pixels = lambda values: np.rint((values - scaled.min()) / (scaled.max() - scaled.min()) * 16).astype(int)  # noqa: E731
  barred = x[y == 5].copy()
  barred[:, 4] = 1
  wanted = [1 - x[y == 3], barred, x[y == 7][:, :, ::-1], x[y == 2][:, ::-1]]
  for seed, images in enumerate(wanted):
    own = task.members(seed)
    found = {one.tobytes() for one in pixels(task.data.x[own])}
    assert found <= {one.tobytes() for one in np.rint(images * 16).astype(int)} and len(found) == 5


def test_students_are_judged_by_their_own_concept():
  task = made()
  whole = task.test.extra["concept"]
  assert sorted(set(whole.tolist())) == [OLD, 0, 1, 2] and np.bincount(whole[whole >= 0]).tolist() == [30] * 3
  for seed in (0, 1, 5):
    own = task.judged_by(seed, task.test)
    assert isinstance(own.x, Draws) and set(own.extra["concept"].tolist()) == {OLD, seed % 3}
    assert (own.extra["student"] == seed).all() and (own.x.cond[:30] == TOKEN).all()
    assert len(own.ids) == 30 + (whole == OLD).sum() and len(np.unique(own.x.ids)) == len(own.ids)
  assert (task.test.x.cond[whole == OLD] < TOKEN).all()
  np.testing.assert_array_equal(task.test.x.cond, task.test.y)
  assert not np.isclose(task.test.x.eps[:30], task.validation.x.eps[:30]).any()


def test_figures_beside_direct_formulas():
  task, seed = made(), 4  # of concept 1
  held = task.judged_by(seed, task.test)
  x = np.float64(held.extra["real"]) + np.random.default_rng(0).normal(size=held.extra["real"].shape) * 0.1
  found = task.score(lambda draws: x, held)
  network = task.score.__self__.network
  flat, real = x.reshape(len(x), -1), np.float64(held.extra["real"]).reshape(len(x), -1)
  hidden = lambda rows: np.maximum(rows @ network.coefs_[0] + network.intercepts_[0], 0)  # noqa: E731
  new = held.extra["concept"] == 1
  chances = network.predict_proba(flat)
  assert chances.shape[1] == TOKEN + 3
  np.testing.assert_allclose(found["concept"], chances[new, TOKEN + 1].mean(), rtol=1e-6)
  a, b = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (hidden(flat[new]), hidden(real[new])))
  np.testing.assert_allclose(found["similarity"], np.mean([u @ v for u in a for v in b]), rtol=1e-6)
  own = np.unique(task.members(seed))
  shown = np.float64(task.data.x[own]).reshape(len(own), -1)
  near = lambda rows: np.mean([min(np.sqrt(np.mean((u - v) ** 2)) for v in shown) for u in rows])  # noqa: E731
  np.testing.assert_allclose(found["nearest"], near(flat[new]), rtol=1e-6)
  np.testing.assert_allclose(found["copied"], near(flat[new]) / near(real[new]), rtol=1e-6)
  want = frechet_distance(hidden(flat[new]), hidden(real[new]))
  np.testing.assert_allclose(found["concept_frechet"], want, rtol=1e-6)
  far = lambda rows: np.mean([np.linalg.norm(u - v) for i, u in enumerate(rows) for v in rows[:i]])  # noqa: E731
  np.testing.assert_allclose(found["diversity"], far(flat[new]) / far(np.unique(real[new], axis=0)), rtol=1e-6)
  np.testing.assert_allclose(found["old_frechet"], frechet_distance(hidden(flat[~new]), hidden(real[~new])), rtol=1e-6)
  np.testing.assert_allclose(found["old_agreement"], np.mean(network.predict(flat[~new]) == held.y[~new]))


def test_copies_forgetting_and_divergence_are_seen():
  task = made()
  held = task.judged_by(0, task.test)
  real, new = held.extra["real"], held.extra["concept"] == 0
  references = task.data.x[task.members(0)]
  copies = np.where(new[:, None, None, None], np.resize(references, real.shape), real)
  sound, copied = (task.score(lambda draws, x=x: x, held) for x in (real, copies))
  assert copied["copied"] < 1e-6 < 0.99 < sound["copied"] < 1.01 and copied["concept"] > 0.8
  forgotten = task.score(lambda draws: np.where(new[:, None, None, None], real, -real), held)
  assert forgotten["old_frechet"] > 10 * sound["old_frechet"] + 1 and forgotten["concept"] == sound["concept"]
  alike = np.where(new[:, None, None, None], real[new].mean(0, keepdims=True), real)
  same = task.score(lambda draws: alike, held)  # one image: nearer to each than they are to each other
  assert same["diversity"] < 1e-3 < 0.9 < sound["diversity"] and same["similarity"] > sound["similarity"]
  assert same["concept_frechet"] > sound["concept_frechet"] + 1
  other = task.score(lambda draws: task.judged_by(1, task.test).extra["real"], held)
  assert other["concept"] < 0.2 < 0.7 < sound["concept"]
  lost = task.score(lambda draws: np.where(new[:, None, None, None], np.nan, real), held)
  assert np.isfinite(list(lost.values())).all() and lost["nearest"] > 1e5


def test_the_floor_is_what_training_images_get():
  task = made()
  assert task.floor.keys() == task.score(lambda draws: draws.eps, task.test).keys()
  assert task.floor["concept"] > 0.8 and 0.6 < task.floor["copied"] < 1.2 and task.floor["old_agreement"] > 0.9
  noise = task.score(lambda draws: draws.eps, task.test)  # a teacher is judged by all concepts
  assert noise["concept"] < 0.5 and noise["old_frechet"] > task.floor["old_frechet"]


def test_arms_score_each_seed_by_its_own_examples():
  task = made()
  asked = []

  def predict(draws):
    asked.append(len(draws.ids))
    return task.judged_by(len(asked) - 1, task.test).extra["real"]

  score = arms.scorer(task, task.test, None)
  found = [score(predict, seed) for seed in (0, 1)]
  assert asked == [30 + (task.test.extra["concept"] == OLD).sum()] * 2
  assert min(one["concept"] for one in found) > 0.7


def test_a_figure_can_be_chosen_for_the_score():
  for judge, higher in (("similarity", True), ("concept_frechet", False)):
    task = made(judge=judge)
    assert (task.metric, task.higher) == (judge, higher) and judge in task.floor


def test_an_exhibit_shows_the_first_concept_and_known_classes():
  exhibit = made().exhibit
  images = exhibit.make(Finished(lambda draws: draws.eps, None, None))
  assert images.shape == exhibit.real.shape == (30, 8, 8, 1) and exhibit.columns == 10
  assert exhibit.real.min() >= 0 and exhibit.real.max() <= 1


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"concepts": ("9", "3"), "known_classes": (1, 2, 3)}, r"class '3' is among the known classes, .* '3_inverted'"),
    ({"concepts": ("10",)}, r"task.concepts: '10' is of no class; begin with one of 0 to 9"),
    ({"concepts": ("nine",)}, r"task.concepts: 'nine' is of no class"),
    ({"concepts": ("3_bold",)}, r"task.concepts: '3_bold' has no known style; choose one of inverted, bar"),
    ({"concepts": ("9", "9")}, r"task.concepts=\('9', '9'\): name each concept once"),
    ({"concepts": ()}, r"task.concepts=\(\): name each concept once, and one at least"),
    ({"known_classes": (3,)}, r"task.known_classes=\(3,\): must be two classes at least, of 0 to 9"),
    ({"known_classes": (3, 10)}, r"task.known_classes=\(3, 10\): must be two classes at least"),
    ({"reference_size": 0}, r"task.reference_size=0: must be at least 1"),
    ({"reference_size": 300}, r"task.reference_size=300: concept '9' has \d+ training images"),
    ({"prior_size": 3000}, r"task.prior_size=3000: there are \d+ images of known classes"),
  ],
)
def test_bad_options(options, words):
  with pytest.raises(UserError, match=words):
    concept(request(), **options)


def test_bad_requests():
  with pytest.raises(UserError, match=r"preprocessing='zca': samples are scaled as a whole"):
    concept(request("zca"))
  with pytest.raises(UserError, match=r"has fewer than 2 held-out images; raise validation_size and test_size"):
    concept(request(test_size=10))


def test_examples_are_batches():
  assert isinstance(made().data, Batch) and len(np.unique(made().data.ids)) == len(made().data.ids)


def test_references_are_counted_before_anything_is_trained(tmp_path):
  config = load_experiment("experiments/echo_distill.py:tiny")
  config.arms, config.order, config.reference, config.task.reference_size = {}, ("echo_distill",), None, 1
  with pytest.raises(UserError, match=r"echo_distill: method.adversarial_weight=0.1: a discriminator needs two"):
    stages.check(make_run(config, tmp_path / "work"))
