"""The trainer of all evaluations against a loop in NumPy, and its parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import evaluation, models
from jdistill.augment import flip_crop
from jdistill.base import View
from jdistill.evaluation import Protocol
from jdistill.ops import centred_one_hot
from jdistill.training import loop, parallel, programs

N, SHAPE, CLASSES = 7, (2, 2, 1), 3
RNG = np.random.default_rng(0)
X, W, B = RNG.normal(size=(N, *SHAPE)), RNG.normal(size=(4, CLASSES)), RNG.normal(size=CLASSES)
LABELS = RNG.normal(size=(N, CLASSES))  # logits
KEY = jax.random.key(5)


def logits(params, x):
  return x.reshape(x.shape[0], 4) @ params["w"] + params["b"][None]


LINEAR = models.from_function(lambda key: {"w": jnp.float32(W), "b": jnp.float32(B)}, logits)


def random_init(key):
  return {"w": jax.random.normal(key, (4, CLASSES), jnp.float32), "b": jnp.zeros(CLASSES)}


RANDOM = models.from_function(random_init, logits)


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def reference(protocol, lr, batches_of, reset=True):
  """SGD over epochs `0..epochs`; the rate falls and the velocity starts anew after epoch `epochs // 2 + 1`."""
  params, velocity = [W.copy(), B.copy()], [np.zeros_like(W), np.zeros_like(B)]
  for epoch in range(protocol.epochs + 1):
    for rows in batches_of(epoch):
      x = X[rows].reshape(len(rows), -1)
      error = (softmax(x @ params[0] + params[1]) - softmax(LABELS[rows])) / len(rows)
      for i, gradient in enumerate((x.T @ error, error.sum(0))):
        velocity[i] = protocol.momentum * velocity[i] + gradient + protocol.weight_decay * params[i]
        params[i] = params[i] - lr * velocity[i]
    if epoch == protocol.epochs // 2 + 1:
      lr *= 0.1
      if reset:
        velocity = [np.zeros_like(v) for v in velocity]
  return params


def train(protocol, lr, labels=LABELS, network=LINEAR, x=X, key=KEY):
  examples = evaluation.examples_of(x.astype(np.float32), labels)
  trained = evaluation.train_seeds(network, protocol, examples, lr, key=key, seeds=1)
  return jax.tree.map(lambda leaf: np.asarray(leaf[0], np.float64), trained.params)


def check(params, want, rtol=2e-5):
  np.testing.assert_allclose(params["w"], want[0], rtol=rtol, atol=1e-5)
  np.testing.assert_allclose(params["b"], want[1], rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("epochs", [4, 5])
def test_full_batches_equal_numpy_through_the_drop(epochs):
  protocol = Protocol(epochs=epochs, batch_size=100, momentum=0.9, weight_decay=0.05)
  got = train(protocol, 0.5)
  check(got, reference(protocol, 0.5, lambda epoch: [np.arange(N)]))
  kept = reference(protocol, 0.5, lambda epoch: [np.arange(N)], reset=False)
  assert np.abs(kept[0] - got["w"]).max() > 1e-3  # so a velocity that is kept would be seen


@pytest.mark.parametrize("batch_size", [3, 4])
def test_shuffled_batches_equal_numpy_and_padding_has_no_effect(batch_size, monkeypatch):
  protocol, streams = Protocol(epochs=4, batch_size=batch_size, momentum=0.9, weight_decay=5e-4), []
  made = evaluation.train.policy_stream

  def recorded(*arguments, **options):
    streams.append(made(*arguments, record=True, **options))
    return streams[-1]

  monkeypatch.setattr(evaluation.train, "policy_stream", recorded)
  got, drawn = train(protocol, 0.3), streams[0].drawn()
  steps = -(-N // batch_size)
  assert len(drawn.index) == 5 * steps

  def batches_of(epoch):
    rows = range(epoch * steps, (epoch + 1) * steps)
    return [drawn.index[i, 0][drawn.weight[i, 0] > 0] for i in rows]

  assert sorted(np.concatenate(batches_of(1)).tolist()) == list(range(N))
  check(got, reference(protocol, 0.3, batches_of))


def test_hard_labels_are_one_hot_targets():
  protocol = Protocol(epochs=1, batch_size=100, momentum=0.0, weight_decay=0.0)
  hard = np.arange(N) % CLASSES
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    train(protocol, 0.3, hard), train(protocol, 0.3, 50.0 * np.eye(CLASSES)[hard]),
  )  # fmt: skip


def test_regression_with_adam_equals_numpy():
  """`0.5 |f(x) - y|^2` by Adam, whose rate falls and whose moments start anew after epoch `epochs // 2 + 1`."""
  protocol = Protocol(epochs=5, batch_size=100, weight_decay=0.05, loss="mse", optimizer="adam")
  params, x, lr = [W.copy(), B.copy()], X.reshape(N, -1), 0.03
  first, second, count = [0.0, 0.0], [0.0, 0.0], 0
  for epoch in range(6):
    error, count = (x @ params[0] + params[1] - LABELS) / N, count + 1
    for i, gradient in enumerate((x.T @ error, error.sum(0))):
      gradient = gradient + 0.05 * params[i]
      first[i], second[i] = 0.9 * first[i] + 0.1 * gradient, 0.999 * second[i] + 0.001 * gradient**2
      step = first[i] / (1 - 0.9**count) / (np.sqrt(second[i] / (1 - 0.999**count)) + 1e-8)
      params[i] = params[i] - lr * step
    if epoch == 3:
      lr, first, second, count = 0.1 * lr, [0.0, 0.0], [0.0, 0.0], 0
  check(train(protocol, 0.03), params)


def test_adamw_with_a_cosine_by_epochs_equals_numpy():
  """The rate is `(1 + cos(pi e / epochs)) / 2` in the whole epoch `e`; decay is apart and spares what has one axis."""
  protocol = Protocol(epochs=4, batch_size=4, weight_decay=0.1, optimizer="adamw", schedule="cosine", decay_all=False)
  params, x, y = [W.copy(), B.copy()], X[:1].reshape(1, -1), LABELS[:1]
  first, second, count = [0.0, 0.0], [0.0, 0.0], 0
  for rate in (0.03 * np.array([1, (2 + np.sqrt(2)) / 4, 0.5, (2 - np.sqrt(2)) / 4])).repeat(2):
    error, count = softmax(x @ params[0] + params[1]) - softmax(y), count + 1
    for i, gradient in enumerate((x.T @ error, error.sum(0))):
      first[i], second[i] = 0.9 * first[i] + 0.1 * gradient, 0.999 * second[i] + 0.001 * gradient**2
      step = first[i] / (1 - 0.9**count) / (np.sqrt(second[i] / (1 - 0.999**count)) + 1e-8)
      params[i] = params[i] - rate * (step + (0.1 * params[i] if i == 0 else 0))
  # the same example eight times, so that an epoch has two equal batches in whatever order
  check(train(protocol, 0.03, LABELS[:1].repeat(8, 0), x=X[:1].repeat(8, 0)), params)


def test_classes_become_centred_targets_of_a_regression():
  hard = np.arange(N) % CLASSES
  want = np.eye(CLASSES)[hard] - 1 / CLASSES
  for labels in (hard, hard.astype(np.int64)):
    found = evaluation.examples_of(np.float32(X), labels, num_classes=CLASSES, loss="mse").y
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert found.dtype == np.float32
  np.testing.assert_array_equal(evaluation.examples_of(np.float32(X), LABELS, loss="mse").y, np.float32(LABELS))
  scaled = centred_one_hot(jnp.int32(hard), CLASSES, scaled=True)
  np.testing.assert_allclose(scaled, want / np.sqrt(0.3), rtol=1e-6)
  with pytest.raises(ValueError, match="need num_classes"):
    evaluation.examples_of(np.float32(X), hard, loss="mse")
  with pytest.raises(ValueError, match="must be integers"):
    centred_one_hot(jnp.float32(hard), CLASSES)


def test_augmentation_is_drawn_in_training():
  plain, changed = (
    train(Protocol(epochs=1, **extra), 0.3, np.arange(N) % CLASSES) for extra in ({}, {"augment": flip_crop(1)})
  )
  assert np.abs(plain["w"] - changed["w"]).max() > 1e-3


def test_equal_arguments_share_one_program():
  """Neither another rate, nor other seeds, nor another set of the same size is another program."""
  traces = []

  def spy(params, x):
    traces.append(x.shape)
    return logits(params, x)

  network, count = models.from_function(random_init, spy), 0
  for lr, key in ((0.3, KEY), (0.1, jax.random.key(1)), (0.2, KEY)):
    train(Protocol(epochs=1), lr, network=network, x=X + lr, key=key)
    count = count or len(traces)
  assert len(traces) == count
  train(Protocol(epochs=2), 0.1, network=network)
  assert len(traces) > count


def test_a_network_that_diverges_has_no_accuracy():
  x, y, test_x, test_y = separable()
  found = evaluation.evaluate_seeds(
    RANDOM, Protocol(epochs=2, batch_size=4, weight_decay=1e30), evaluation.examples_of(x, y), 1e30, test_x, test_y,
    key=KEY, seeds=2,
  )  # fmt: skip
  assert len(found) == 2 and np.isnan(found).all()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 500])
def test_predictions_do_not_depend_on_the_batch_size(batch_size):
  shapes = []

  def spy(params, x):
    shapes.append(x.shape)
    return logits(params, x)

  network = models.from_function(random_init, spy)
  variables, x = network.init(KEY), X.astype(np.float32)
  got = evaluation.predict(network, variables, x, batch_size=batch_size)
  assert got.shape == (N, CLASSES) and isinstance(got, np.ndarray)
  np.testing.assert_allclose(got, x.reshape(N, 4) @ np.asarray(variables.params["w"]), rtol=1e-5, atol=1e-6)
  assert shapes == [(min(batch_size, N), *SHAPE)]  # the short batch is filled up, so one program is enough


def test_accuracy_counts_the_largest_logit():
  network = models.from_function(lambda key: {}, lambda params, x: x.reshape(x.shape[0], 4)[:, :3])
  x = np.array([[3, 1, 2, 9], [1, 3, 2, 9], [1, 2, 3, 9], [3, 2, 1, 9]], np.float32).reshape(4, 2, 2, 1)
  assert evaluation.accuracy(network, network.init(KEY), x, np.array([0, 1, 2, 1])) == 0.75


@functools.lru_cache
def separable():
  """Two classes, far apart in the first pixel: training images, labels, test images, labels."""
  rng = np.random.default_rng(1)
  y = np.arange(40, dtype=np.int32) % 2
  x = rng.normal(size=(40, *SHAPE)).astype(np.float32) * 0.3
  x[:, 0, 0, 0] += 2.0 * y - 1.0
  return x[:8], y[:8], x[8:], y[8:]


def seeds(count, key=KEY, first=0):
  x, y, test_x, test_y = separable()
  set_, protocol = evaluation.examples_of(x, y), Protocol(epochs=2, batch_size=4)
  return evaluation.evaluate_seeds(RANDOM, protocol, set_, 0.02, test_x, test_y, key=key, seeds=count, first=first)


def test_seeds_are_decided_by_the_key_and_their_number():
  found = seeds(4)
  assert found == seeds(4) and found == seeds(1) + seeds(3, first=1)
  assert len(set(found)) > 1 and found != seeds(4, jax.random.key(6))
  assert all(0 <= value <= 1 for value in found)


def test_training_at_once_gives_what_training_one_after_another_gives(monkeypatch):
  one_by_one = seeds(3, first=1)
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  np.testing.assert_allclose(seeds(3, first=1), one_by_one, atol=1 / 32 + 1e-9)  # a border case may fall either way


@pytest.mark.slow
def test_a_network_with_batch_norm_learns_and_is_tested_with_its_running_statistics():
  rng = np.random.default_rng(2)
  y = np.arange(24, dtype=np.int32) % 2
  x = rng.normal(size=(24, 8, 8, 1)).astype(np.float32)
  x[y == 1, :, :4] += 2.0
  network = models.build("convnet_bn", num_classes=2, image_shape=(8, 8, 1), width=4, depth=1)
  before = network.init(KEY)
  protocol, examples = Protocol(epochs=12, batch_size=8), evaluation.examples_of(x, y)
  after = evaluation.train_seeds(network, protocol, examples, 0.05, key=KEY, seeds=1)
  after = jax.tree.map(lambda leaf: leaf[0], after)
  assert jax.tree.structure(after.stats) == jax.tree.structure(before.stats)
  for old, new in zip(jax.tree.leaves(before.stats), jax.tree.leaves(after.stats), strict=True):
    assert old.shape == new.shape and np.isfinite(new).all() and np.abs(old - new).max() > 1e-2
  assert evaluation.accuracy(network, after, x, y) > 0.9
  whole, single = (evaluation.predict(network, after, x[:4], batch_size=size) for size in (4, 1))
  np.testing.assert_allclose(whole, single, rtol=1e-4, atol=1e-5)  # statistics of the batch would differ


def test_sets_of_one_size_share_a_program_whatever_their_labels_seeds_and_owners(monkeypatch):
  mesh = parallel.make_mesh(pool=2)
  protocol, hard = Protocol(epochs=3, batch_size=4), np.argmax(LABELS, -1)
  own = [evaluation.examples_of(np.float32(X + shift), hard, num_classes=CLASSES) for shift in (0, 1)]
  soft = evaluation.examples_of(np.float32(X), LABELS)
  seen, build = [], programs.build
  monkeypatch.setattr(loop, "build", lambda *args: seen.append(build(*args)) or seen[-1])
  for examples, seeds in ((soft, 1), (own[0], 2), (own, 2)):
    evaluation.train_seeds(RANDOM, protocol, examples, 0.1, key=KEY, seeds=seeds, mesh=mesh)
  assert len(seen) == 3 and len({id(one.call) for one in seen}) == 1 and seen[0].call._cache_size() == 1


def test_integer_labels_as_logits_are_the_same_labels():
  hard = np.argmax(LABELS, -1)
  examples = evaluation.examples_of(np.float32(X), hard, num_classes=CLASSES)
  assert np.asarray(jax.nn.softmax(examples.y)).tolist() == np.eye(CLASSES)[hard].tolist()
  protocol = Protocol(epochs=3, batch_size=100)
  want = train(protocol, 0.5, labels=hard)
  got = evaluation.train_seeds(LINEAR, protocol, examples, 0.5, key=KEY, seeds=1)
  np.testing.assert_allclose(got.params["w"][0], want["w"], rtol=1e-6)


def test_a_view_makes_more_examples_with_their_labels():
  view = View(2, lambda x: jnp.stack([x, -x], axis=1))
  x = np.float32(X[:3])
  shown = evaluation.examples_of(x, np.array([2, 0, 1]), num_classes=3, view=view)
  want = evaluation.examples_of(np.stack([x, -x], 1).reshape(-1, *X.shape[1:]), [2, 2, 0, 0, 1, 1], num_classes=3)
  for a, b in zip(shown[:3], want[:3], strict=True):
    np.testing.assert_array_equal(a, b)
