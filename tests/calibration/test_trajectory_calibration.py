"""What the calibration of trajectory matching chooses, on tables and tasks whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import models
from jdistill.augment import identity
from jdistill.base import Segment
from jdistill.calibration import trajectory as calibration
from jdistill.calibration.lab import Book, Lab
from jdistill.calibration.probe import Curve, Learner, Matcher
from jdistill.calibration.rates import inner_rate
from jdistill.methods.dataset.trajectory import trajectory_method
from jdistill.synthetic import SyntheticSet

STARTS = [0, 1, 2, 3, 4, 6, 8, 10]


def bounds(*losses):
  first, last, why = calibration._range(STARTS, np.array([losses, np.array(losses) + 0.5]))
  assert "least initial matching loss" in why
  return first, last


def test_few_images_are_matched_early_and_many_late():
  assert bounds(0.7, 0.75, 0.85, 0.95, 1.0, 1.0, 1.0, 1.0) == (0, 3)
  assert bounds(0.2, 0.3, 0.4, 0.55, 0.6, 0.7, 0.8, 0.95) == (3, 9)


@pytest.mark.parametrize("losses", [(1.5,) * 8, (np.nan,) * 8, (0.1,) * 8, (0.2, 0.95) * 4])
def test_a_range_is_never_empty_nor_past_the_last_start(losses):
  first, last = bounds(*losses)
  assert 0 <= first < last <= STARTS[-1] + 1


@pytest.mark.parametrize("size", [3, 8, 40, 200, 1000, 1652, 60_000])
def test_epochs_of_experts_are_those_of_the_probe(size):
  batch, steps = calibration.epoch_of(size)
  assert batch * steps <= size  # so that ordinary epochs without a remainder, or parts of the data, have these steps
  assert 1 <= batch <= 64 and 1 <= steps <= 25
  assert steps == 25 or size < 200


def test_experts_stop_where_they_are_no_longer_getting_better():
  accuracy = [0.1, 0.5, 0.8, 0.9, 0.985, 0.99, 0.99, 0.99, 0.99, 0.99, 1.0]
  epochs, why = calibration._length(Curve(np.zeros((11, 1)), accuracy, 0.0, 1.0))
  assert epochs == 4 + 4  # 0.1 + 0.98 * 0.9 = 0.982 is reached after 4; a segment and its end come on top
  assert "0.985 after 4 epochs" in why


@pytest.mark.parametrize(
  ("side", "depth"), [(8, 1), (16, 2), (28, 3), (32, 3), (35, 3), (64, 4), (128, 5), (224, 6), (3, 1)]
)
def test_depth_follows_the_size_of_images(side, depth):
  lab = lab_of(is_open=lambda path: True)
  assert calibration._depth(Book(lab), (side, side)) == depth


def lab_of(**values):
  blank = dict.fromkeys(Lab._fields)
  return Lab(**(blank | {"log": lambda line: None} | values))


def test_what_is_set_stays():
  book = Book(lab_of(is_open=lambda path: path == "steps", value=lambda path: 7))
  assert book.choose("steps", 3, "why") == 3
  assert book.choose("method/image_lr", 3, "why") == 7
  assert [choice.path for choice in book.choices] == ["steps"]


@pytest.fixture(scope="module")
def problem():
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(3, 4, 4, 1)).astype(np.float32)
  y = np.arange(60, dtype=np.int32) % 3
  x = (centres[y] + 0.1 * rng.normal(size=(60, 4, 4, 1))).astype(np.float32)
  network = models.build("mlp", num_classes=3, image_shape=(4, 4, 1), widths=(5,))
  return network, x, y


@pytest.fixture(scope="module")
def learner(problem):
  network, x, y = problem
  return Learner(network, x[:45], y[:45], x[45:], y[45:], steps=10, batch_size=9, augment=identity())


def test_a_learner_learns_and_says_how_well(learner):
  curve = learner.train(jax.random.key(0), 0.1, 6)
  assert curve.trajectory.shape[0] == len(curve.accuracy) == 7
  assert curve.accuracy[-1] == 1.0
  logits = learner.logits(curve.trajectory[-1], learner.held[0]).astype(np.float64)
  exact = np.log(np.exp(logits).sum(1)) - logits[np.arange(15), learner.held[1]]
  np.testing.assert_allclose(curve.loss, exact.mean(), rtol=1e-5)
  assert learner.train(jax.random.key(0), 1e12, 1).loss == np.inf  # diverged, and not an error


def test_a_matcher_computes_what_the_method_does(problem, learner):
  network, x, _ = problem
  curve = learner.train(jax.random.key(1), 0.1, 3)
  initial = SyntheticSet(jnp.asarray(x[:3]), jnp.eye(3) * 4.0, jnp.float32(0.1))
  matcher = Matcher(network, initial, inner_steps=3, batch_size=2, augment=identity(), learn_labels=True)
  method = trajectory_method(
    models.flatten(network).apply, initial, inner_steps=3, batch_size=2, threshold=None, image_lr=0.0, label_lr=0.0
  )
  segment = Segment(jnp.asarray(curve.trajectory[0]), jnp.asarray(curve.trajectory[2]))
  key = jax.random.key(0)
  _, metrics = jax.jit(method.step)(key, method.init(key, segment), segment)
  np.testing.assert_allclose(matcher.losses(matcher.learned(0.1), [segment[:2]])[0], metrics["match/loss"], rtol=1e-6)
  scales = matcher.scales(0.1, [segment[:2]])
  np.testing.assert_allclose(scales["images"] * np.sqrt(x[:3].size), metrics["gradient/images"], rtol=1e-5)
  np.testing.assert_allclose(scales["labels"] * 3, metrics["gradient/labels"], rtol=1e-5)


def test_a_pilot_at_a_good_rate_follows_better_than_before(problem, learner):
  network, x, _ = problem
  curve = learner.train(jax.random.key(2), 0.1, 3)
  initial = SyntheticSet(jnp.asarray(x[:3]), jnp.eye(3) * 4.0, jnp.float32(0.1))
  matcher = Matcher(network, initial, inner_steps=3, batch_size=None, augment=identity(), learn_labels=True)
  segments = [(curve.trajectory[0], curve.trajectory[2])]
  before = matcher.losses(matcher.learned(0.1), segments)[0]
  rates, momenta = {"images": 1.0, "labels": 1.0, "lr": 1e-4}, {"images": 0.5, "labels": 0.9, "lr": 0.5}
  learned, seconds = matcher.pilot(0.1, rates, momenta, segments, 5)
  assert matcher.losses(learned, segments)[0] < before
  assert seconds > 0


class Stub:
  """A matcher whose least loss before learning is that of a rate at which nothing moves."""

  learn_labels = False
  before, after = {0.05: 1.3, 0.02: 1.1, 0.01: 0.97}, {0.05: np.nan, 0.02: 0.7, 0.01: 0.9}

  def scales(self, lr, segments):
    return {"images": 1e-3, "lr": 1.0}

  def learned(self, lr):
    return lr, self.before

  def losses(self, learned, segments):
    lr, table = learned
    return np.array([table[lr]])

  def pilot(self, lr, rates, momenta, segments, steps):
    return (lr, self.after), 0.1


def test_the_inner_rate_is_that_which_learns_and_not_that_which_stands_still():
  lab = lab_of(is_open=lambda path: True, value=lambda path: 1.0)
  book = Book(lab)
  assert inner_rate(book, Stub(), [0.05, 0.02, 0.01], ["segment"]) == 0.02
  chosen = {choice.path: choice for choice in book.choices}
  assert chosen["method/lr_init"].value == 0.02
  assert "0.02: 1.10 to 0.70" in chosen["method/lr_init"].reason
  assert chosen["method/threshold"].value == pytest.approx(1.32)  # so that the first steps are not refused


def test_methods_without_a_threshold_get_none():
  book = Book(lab_of(is_open=lambda path: True, value=lambda path: None if path == "method/threshold" else 0.5))
  inner_rate(book, Stub(), [0.01], ["segment"])
  assert [choice.path for choice in book.choices] == ["method/lr_init"]
