"""KIP against NumPy with finite differences, and on digits, where a learned set beats real images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numeric_gradient
from sklearn.datasets import load_digits
from sklearn.kernel_ridge import KernelRidge

from jdistill.base import Batch, UserError
from jdistill.methods.dataset.kip import kernel_by_name, kip
from jdistill.synthetic import SyntheticSet

CLASSES, SIZE, REAL, SHAPE = 3, 4, 7, (2, 2, 1)
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES, X = RNG.normal(size=(SIZE, *SHAPE)), RNG.normal(size=(REAL, *SHAPE))
LABELS, Y = np.int32([0, 1, 2, 0]), RNG.integers(0, CLASSES, REAL).astype(np.int32)
TARGETS = np.eye(CLASSES) - 1 / CLASSES
BATCH = Batch(X, Y, np.arange(REAL, dtype=np.int32))


def rbf(x, z):
  return np.exp(-0.25 * ((x[:, None] - z[None]) ** 2).sum(-1))


def ntk(x, z):
  """One hidden layer, weights of variance 2 and biases of 0.01."""
  first = lambda a, b: 0.01 + 2 * a @ b.T / a.shape[1]  # noqa: E731
  xz, xx, zz = first(x, z), np.diag(first(x, x)), np.diag(first(z, z))
  scale = np.sqrt(np.outer(xx, zz))
  angle = np.arccos(np.clip(xz / scale, -1, 1))
  covariance = 0.01 + scale * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi
  return covariance + (np.pi - angle) / np.pi * xz


KERNELS = {"rbf": rbf, "ntk": ntk, "linear": lambda x, z: x @ z.T / x.shape[1]}


def prediction(kernel, images, labels, ridge):
  rows, real = images.reshape(len(images), -1), X.reshape(REAL, -1)
  k_ss = KERNELS[kernel](rows, rows)
  weights = np.linalg.solve(k_ss + ridge * np.trace(k_ss) / len(rows) * np.eye(len(rows)), labels)
  return KERNELS[kernel](real, rows) @ weights


def loss(kernel, images, labels, ridge, reduction="sum"):
  error = (prediction(kernel, images, labels, ridge) - TARGETS[Y]) ** 2
  return 0.5 * (error.sum() if reduction == "sum" else error.mean())


def solved(kernel, images, ridge):
  predictor = prediction(kernel, images, np.eye(len(images)), ridge)
  return np.linalg.pinv(predictor) @ TARGETS[Y]


def build(labels=LABELS, **options):
  return kip(SyntheticSet(jnp.asarray(IMAGES), jnp.asarray(labels), jnp.asarray(0.03)), **({"depth": 1} | options))


def adam(moments, gradient, count, lr):
  first, second = moments
  first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
  return (first, second), lr * first / (1 - 0.9**count) / (np.sqrt(second / (1 - 0.999**count)) + 1e-8)


@pytest.mark.parametrize(("kernel", "reduction"), [("rbf", "sum"), ("ntk", "mean"), ("linear", "sum")])
def test_three_steps_equal_finite_differences_and_adam(kernel, reduction, x64):
  method = build(kernel=kernel, reduction=reduction, ridge=0.1, image_lr=0.02, label_lr=0.05)
  state, step = method.init(KEY, BATCH), jax.jit(method.step)
  value = lambda images, labels: loss(kernel, images, labels, 0.1, reduction)  # noqa: E731
  learned = {"images": IMAGES, "labels": TARGETS[LABELS]}
  moments = dict.fromkeys(learned, (0.0, 0.0))
  for count in (1, 2, 3):
    state, metrics = step(KEY, state, BATCH)
    assert float(metrics["krr/loss"]) == pytest.approx(value(**learned), rel=1e-6)
    predicted = prediction(kernel, **learned, ridge=0.1).argmax(1)
    assert float(metrics["krr/accuracy"]) == pytest.approx((predicted == Y).mean())
    gradients = {
      "images": numeric_gradient(lambda images, old=learned["labels"]: value(images, old), learned["images"]),
      "labels": numeric_gradient(lambda labels, old=learned["images"]: value(old, labels), learned["labels"]),
    }
    for name, lr in (("images", 0.02), ("labels", 0.05)):
      assert float(metrics[f"gradient/{name}"]) == pytest.approx(np.linalg.norm(gradients[name]), rel=1e-6)
      moments[name], change = adam(moments[name], gradients[name], count, lr)
      learned[name] = learned[name] - change
      np.testing.assert_allclose(getattr(method.result(state), name), learned[name], rtol=1e-5, atol=1e-7)
  figures = method.figures(state, 3)
  assert figures == {"kernel_accuracy": metrics["krr/accuracy"]}
  assert float(method.result(state).lr) == 0.03


def test_solved_labels_are_those_of_the_pseudo_inverse_and_moved_images_know_it(x64):
  method = build(kernel="rbf", ridge=0.1, label_solve=True, image_lr=0.02)
  state, metrics = jax.jit(method.step)(KEY, method.init(KEY, BATCH), BATCH)
  np.testing.assert_allclose(method.result(state).labels, solved("rbf", IMAGES, 0.1), rtol=1e-7, atol=1e-9)
  through = lambda images: loss("rbf", images, solved("rbf", images, 0.1), 0.1)  # noqa: E731
  assert float(metrics["krr/loss"]) == pytest.approx(through(IMAGES), rel=1e-8)
  gradient = numeric_gradient(through, IMAGES)
  assert float(metrics["gradient/images"]) == pytest.approx(np.linalg.norm(gradient), rel=1e-6)
  np.testing.assert_allclose(IMAGES - np.asarray(method.result(state).images), 0.02 * np.sign(gradient), rtol=1e-4)


def test_what_has_no_rate_stays():
  logits = np.float32(RNG.normal(size=(SIZE, CLASSES)))
  for rates, still in (({"label_lr": 0.0}, "labels"), ({"image_lr": 0.0}, "images")):
    method = build(np.float32(logits), kernel="linear", ridge=0.1, **rates)
    before = method.result(method.init(KEY, BATCH))
    state, _ = jax.jit(method.step)(KEY, method.init(KEY, BATCH), jax.tree.map(jnp.asarray, BATCH))
    after = method.result(state)
    for name in ("images", "labels"):
      moved = np.abs(np.asarray(getattr(after, name)) - np.asarray(getattr(before, name))).max()
      assert (moved == 0) == (name == still)
    np.testing.assert_array_equal(before.labels, logits)


def test_ten_learned_digits_predict_better_than_ten_real_ones():
  """The kernel's accuracy on digits that were not seen, from one random digit per class."""
  x, y = load_digits(return_X_y=True)
  x = np.float32((x - x[:1000].mean(0)) / x[:1000].std())
  first = np.array([np.flatnonzero(y[:1000] == c)[3] for c in range(10)])
  compare = jax.jit(kernel_by_name("ntk"))

  def accuracy(images, labels):
    k_ss, k_ts = np.float64(compare(images, images)), np.float64(compare(x[1000:], images))
    found = KernelRidge(alpha=1e-6 * np.trace(k_ss) / 10, kernel="precomputed").fit(k_ss, np.float64(labels))
    return (found.predict(k_ts).argmax(1) == y[1000:]).mean()

  real = accuracy(x[first], np.eye(10) - 0.1)
  method = kip(SyntheticSet(x[first].reshape(10, 8, 8, 1), np.arange(10, dtype=np.int32), np.float32(1)))
  batch = Batch(x[:1000].reshape(-1, 8, 8, 1), y[:1000].astype(np.int32), np.arange(1000))
  state, step = method.init(KEY, batch), jax.jit(method.step)
  batch = jax.device_put(batch)
  for _ in range(150):
    state, _ = step(KEY, state, batch)
  learned = method.result(state)
  assert accuracy(np.asarray(learned.images).reshape(10, 64), np.asarray(learned.labels)) > max(0.85, real + 0.15)


def test_mistakes():
  with pytest.raises(UserError, match=r"method\.image_lr=0 and method\.label_lr=0: kip learns nothing"):
    build(image_lr=0.0, label_lr=0.0)
  with pytest.raises(ValueError, match=r"method\.ridge=0\.0: must be above 0"):
    build(ridge=0.0)
  method = build(label_solve=True)
  few = jax.tree.map(lambda leaf: leaf[:3], BATCH)
  with pytest.raises(UserError, match=r"^method\.batch_real: 3 real images in a step do not determine the labels of 4"):
    jax.eval_shape(method.init, KEY, few)
  with pytest.raises(ValueError, match="the set has images"):
    method.step(KEY, method.init(KEY, BATCH), BATCH._replace(x=X[:, :1]))


def test_equal_images_in_float32_stay_finite():
  same = jnp.float32(np.repeat(IMAGES[:1], SIZE, axis=0))
  for kernel in ("ntk", "nngp", "rbf"):
    method = kip(SyntheticSet(same, jnp.asarray(LABELS), jnp.float32(1)), kernel=kernel, ridge=1e-4)
    state, metrics = jax.jit(method.step)(KEY, method.init(KEY, BATCH), jax.tree.map(jnp.asarray, BATCH))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))
