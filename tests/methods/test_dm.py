"""Distribution matching against NumPy with finite differences, and on a toy where class means must come together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numeric_gradient
from real_batches import real_batch

from jdistill import models, schema
from jdistill.augment import dsa
from jdistill.base import Network, Outputs, UserError, Variables
from jdistill.methods.dataset import by_class
from jdistill.methods.dataset.by_class import class_batches
from jdistill.methods.dataset.dm import dm
from jdistill.ops.rows import planned_for
from jdistill.synthetic import SyntheticSet

CLASSES, IPC, REAL, SHAPE, FEATURES = 3, 2, 4, (3, 3, 1), 5
KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
IMAGES, X = RNG.normal(size=(CLASSES * IPC, *SHAPE)), RNG.normal(size=(CLASSES, REAL, *SHAPE))
LABELS = np.repeat(np.arange(CLASSES, dtype=np.int32), IPC)


def random_features(dtype=jnp.float32):
  """A network whose embedding is `tanh(x W)` with `W` drawn from the key."""

  def init(key):
    return Variables(jax.random.normal(key, (9, FEATURES), dtype))

  def apply(params, x, *, train=False, stats=None, **_):
    assert train
    features = jnp.tanh(x.reshape(x.shape[0], -1) @ params)
    return Outputs(features[:, :CLASSES], features)

  return Network(init, apply)


def build(dtype=np.float32, network=None, images=IMAGES, **options):
  initial = SyntheticSet(jnp.asarray(images.astype(dtype)), jnp.asarray(LABELS), jnp.asarray(0.03, dtype))
  return dm(network or random_features(jnp.dtype(dtype)), initial, **options)


def reference(images, weights, x, weight):
  """The loss by loops."""
  total = 0.0
  for c in range(CLASSES):
    mean = lambda rows: np.tanh(rows.reshape(len(rows), -1) @ weights)  # noqa: E731
    wanted = np.average(mean(x[c]), 0, weight[c])
    total += np.sum((wanted - mean(images[c * IPC : (c + 1) * IPC]).mean(0)) ** 2)
  return total


def test_three_steps_equal_finite_differences_with_momentum(x64):
  """A fresh network in every step, padding of the real images, and `v <- 0.5 v + g; x <- x - 2 v`."""
  weight = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0.0]])
  broken = np.where(weight[..., None, None, None] > 0, X, np.nan)
  method = build(np.float64, image_lr=2.0)
  batch = real_batch(broken, weight)
  state, step = method.init(KEY, batch), jax.jit(method.step)
  images, velocity, seen = IMAGES, np.zeros_like(IMAGES), []
  for number in range(3):
    key = jax.random.fold_in(KEY, number)
    weights = np.asarray(random_features(jnp.float64).init(jax.random.split(key)[0]).params)
    seen.append(weights)
    state, metrics = step(key, state, batch)
    loss = lambda images, weights=weights: reference(images, weights, X, weight)  # noqa: E731
    np.testing.assert_allclose(metrics["match/loss"], loss(images), rtol=1e-7)  # images by finite differences
    grad = numeric_gradient(loss, images)
    np.testing.assert_allclose(metrics["gradient/images"], np.linalg.norm(grad), rtol=1e-6)
    velocity = 0.5 * velocity + grad
    images = images - 2.0 * velocity
    np.testing.assert_allclose(method.result(state).images, images, rtol=1e-6, atol=1e-8)
  assert np.abs(seen[0] - seen[1]).max() > 0.1
  np.testing.assert_array_equal(method.result(state).labels, LABELS)
  assert float(method.result(state).lr) == 0.03


def test_one_draw_of_the_augmentation_per_class_for_real_and_synthetic():
  """A set of the real images themselves has no loss under shared draws, and has one under draws of its own."""
  images = X[:, :IPC].reshape(-1, *SHAPE)
  twice = real_batch(np.float32(np.concatenate([X[:, :IPC]] * 2, axis=1)))
  losses = {}
  for shared in (True, False):
    method = build(images=images, siamese=dsa("color_scale", siamese=shared))
    _, metrics = jax.jit(method.step)(KEY, method.init(KEY, twice), twice)
    losses[shared] = float(metrics["match/loss"])
  assert losses[True] < 1e-10 and losses[False] > 1e-3
  # and it does something
  other = real_batch(np.float32(X))
  method = build(siamese=dsa("color_scale", siamese=True))
  plain = build()
  found = [float(jax.jit(m.step)(KEY, m.init(KEY, other), other)[1]["match/loss"]) for m in (method, plain)]
  assert abs(found[0] - found[1]) > 1e-3


def test_classes_in_groups_give_the_same_step():
  batch = real_batch(np.float32(X), np.float32(RNG.uniform(size=(CLASSES, REAL))))
  found = []
  for together in (None, 1, 3):
    method = build(classes_at_once=together, siamese=dsa("color_scale", siamese=True))
    state, metrics = jax.jit(method.step)(KEY, method.init(KEY, batch), batch)
    found.append((method.result(state).images, metrics["match/loss"]))
  for images, loss in found[1:]:
    np.testing.assert_allclose(images, found[0][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loss, found[0][1], rtol=1e-5)


def test_a_cpu_takes_as_many_classes_as_fit_its_bound(monkeypatch):
  """Groups that nobody asked for give the same step; batch norm has all classes whatever the bound."""
  batch = real_batch(np.float32(X))
  whole = build()
  want = whole.result(jax.jit(whole.step)(KEY, whole.init(KEY, batch), batch)[0]).images
  monkeypatch.setattr(by_class, "_GROUP_BYTES", 1)
  assert by_class.together(random_features(), batch.x, None) == 1
  assert by_class.together(random_features(), batch.x, 3) == 3
  with planned_for("tpu"):
    assert by_class.together(random_features(), batch.x, None) is None
  bn = models.build("convnet", num_classes=2, image_shape=SHAPE, width=2, depth=1, norm="batch")
  assert by_class.together(bn, batch.x, None) is None
  apart = build()
  got = apart.result(jax.jit(apart.step)(KEY, apart.init(KEY, batch), batch)[0]).images
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_class_means_come_together_in_every_network():
  """Noise becomes images whose means, in networks that the run did not see, are those of the real classes."""
  rng = np.random.default_rng(1)
  means = 2 * rng.normal(size=(CLASSES, 1, *SHAPE))
  x = np.float32(means + 0.3 * rng.normal(size=(CLASSES, 40, *SHAPE)))
  method = build(image_lr=0.5)
  draw = class_batches(np.repeat(np.arange(CLASSES), 40), 8, seed=0)
  flat = x.reshape(-1, *SHAPE)
  positions, weight = draw(0)
  state, step = method.init(KEY, real_batch(flat[positions], weight)), jax.jit(method.step)
  before = method.result(state).images
  losses = []
  for number in range(150):
    positions, weight = draw(number)
    state, metrics = step(jax.random.fold_in(KEY, number), state, real_batch(flat[positions], weight))
    losses.append(float(metrics["match/loss"]))
  assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])  # what is left is the spread of batches of eight

  def distance(images):
    """Between class means in networks with other keys than those of the run."""
    draws = [np.asarray(random_features().init(jax.random.key(1000 + k)).params) for k in range(5)]
    whole = np.ones((CLASSES, 40))
    return np.mean([reference(np.asarray(images), weights, x, whole) for weights in draws])

  assert distance(method.result(state).images) < 0.15 * distance(before)


def test_batches_of_classes():
  labels = np.array([0] * 7 + [2] * 3 + [1] * 9)
  draw = class_batches(labels, 5, seed=4)
  positions, weight = draw(11)
  assert positions.shape == weight.shape == (3, 5) and positions.dtype == np.int32
  np.testing.assert_array_equal(weight, [[1] * 5, [1] * 5, [1, 1, 1, 0, 0]])
  for c in range(3):
    own = positions[c][weight[c] > 0]
    assert len(set(own)) == len(own) and (labels[positions[c]] == c).all()
  np.testing.assert_array_equal(class_batches(labels, 5, seed=4)(11)[0], positions)
  others = [class_batches(labels, 5, seed=s)(step)[0] for s, step in ((4, 12), (5, 11))]
  assert all((other != positions).any() for other in others)
  # every image of a class equally often
  counts = np.bincount(np.concatenate([draw(step)[0][0] for step in range(1400)]), minlength=7)
  assert (np.abs(counts[:7] - 1000) < 5 * np.sqrt(1400 * 5 / 7 * 2 / 7)).all()
  assert class_batches(labels, 100, seed=0)(0)[0].shape == (3, 9)
  with pytest.raises(UserError, match="no image of class 3"):
    class_batches(labels, 5, seed=0, num_classes=4)


def test_mistakes():
  unsorted = SyntheticSet(jnp.float32(IMAGES), jnp.int32([0, 1, 2, 0, 1, 2]), jnp.float32(0))
  with pytest.raises(ValueError, match="sorted by class"):
    dm(random_features(), unsorted)
  with pytest.raises(ValueError, match="sorted by class"):
    dm(random_features(), unsorted._replace(labels=jnp.int32([0, 0, 0, 1, 1, 2])))
  with pytest.raises(ValueError, match="classes_at_once=2 does not divide 3"):
    build(classes_at_once=2)
  with pytest.raises(ValueError, match=r"method.image_lr=0.0: must be above 0"):
    build(image_lr=0.0)
  bn = models.build("convnet_bn", num_classes=CLASSES, image_shape=SHAPE, width=2, depth=1)
  with pytest.raises(ValueError, match="batch norm needs all classes together"):
    build(network=bn, classes_at_once=1)
  method = build(batch_real=3)
  batch = real_batch(np.float32(X))
  with pytest.raises(ValueError, match="at most batch_real=3"):
    method.step(KEY, method.init(KEY, batch), batch)


def test_options_and_logits_as_labels():
  assert schema.fields(dm)["batch_real"] == schema.Field(int, 256, low=1)
  assert set(schema.fields(dm)) == {"batch_real", "image_lr", "image_momentum", "classes_at_once"}
  logits = jnp.float32(5 * np.eye(CLASSES)[LABELS])
  method = dm(random_features(), SyntheticSet(jnp.float32(IMAGES), logits, jnp.float32(0)))
  np.testing.assert_array_equal(method.result(method.init(KEY, None)).labels, logits)


@pytest.mark.slow
def test_batch_norm_sees_all_classes_at_once():
  """With one network in training mode the loss is that of one pass over all real images and one over all synthetic."""
  network = models.build("convnet_bn", num_classes=CLASSES, image_shape=(4, 4, 1), width=3, depth=1)
  images, x = RNG.normal(size=(6, 4, 4, 1)), np.float32(RNG.normal(size=(CLASSES, REAL, 4, 4, 1)))
  method = build(network=network, images=images)
  batch = real_batch(x)
  _, metrics = jax.jit(method.step)(KEY, method.init(KEY, batch), batch)
  drawn = network.init(jax.random.split(KEY)[0])
  embed = lambda rows: network.apply(drawn.params, jnp.float32(rows), train=True, stats=drawn.stats).embedding  # noqa: E731
  real, synthetic = np.asarray(embed(x.reshape(-1, 4, 4, 1))), np.asarray(embed(images))
  wanted = np.sum((real.reshape(CLASSES, REAL, -1).mean(1) - synthetic.reshape(CLASSES, IPC, -1).mean(1)) ** 2)
  np.testing.assert_allclose(metrics["match/loss"], wanted, rtol=1e-4)
