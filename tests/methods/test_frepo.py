"""FRePo against NumPy in float64 with finite differences: features, ridge, margin, LAMB with its schedule, the pool."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numeric_gradient

from jdistill.base import Batch, Network, Outputs, UserError, Variables
from jdistill.methods.dataset.frepo import frepo
from jdistill.methods.dataset.pool import model_pool
from jdistill.methods.optimizers import make_optimizer
from jdistill.synthetic import SyntheticSet

CLASSES, SIZE, REAL, SHAPE, FEATURES = 3, 4, 7, (2, 2, 1), 6
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES, X = RNG.normal(size=(SIZE, *SHAPE)), RNG.normal(size=(REAL, *SHAPE))
LABELS, Y = np.int32([0, 1, 2, 0]), RNG.integers(0, CLASSES, REAL).astype(np.int32)
BATCH = Batch(X, Y, np.arange(REAL, dtype=np.int32))


def network(dtype=jnp.float32):
  """Features `tanh(x W)`, logits `features V`; in training mode the features are twice as large."""

  def init(key):
    keys = jax.random.split(key)
    return Variables(
      {
        "w": jax.random.normal(keys[0], (4, FEATURES), dtype),
        "v": jax.random.normal(keys[1], (FEATURES, CLASSES), dtype),
      }
    )

  def apply(params, x, *, train=False, stats=None, **_):
    features = jnp.tanh(x.reshape(x.shape[0], -1) @ params["w"]) * (2 if train else 1)
    return Outputs(features @ params["v"], features)

  return Network(init, apply)


def build(dtype=jnp.float32, labels=LABELS, **options):
  initial = SyntheticSet(jnp.asarray(IMAGES, dtype), jnp.asarray(labels), jnp.asarray(0.03, dtype))
  own = {"iterations": 10, "pool_size": 2, "reset_after": 3, "ridge": 0.1, "image_lr": 0.02, "label_lr": 0.05}
  return frepo(network(dtype), initial, **(own | options))


def parts(images, labels, weights, *, flip=False, ridge=0.1, trace=None):
  """`(error, margin)`."""
  margin = np.sort(labels, axis=1)
  margin = np.minimum(margin[:, -1] - margin[:, -2], 1 / CLASSES).mean()
  if flip:
    images, labels = np.concatenate([images, images[:, :, ::-1]]), np.concatenate([labels, labels])
  real, own = (np.tanh(x.reshape(len(x), -1) @ weights) for x in (X, images))
  k_ss = own @ own.T
  trace = np.trace(k_ss) if trace is None else trace
  predicted = real @ own.T @ np.linalg.solve(k_ss + ridge * trace / len(own) * np.eye(len(own)), labels)
  return 0.5 * ((predicted - np.eye(CLASSES)[Y] + 1 / CLASSES) ** 2).sum(1).mean(), margin


def lamb(x, moments, gradient, count, lr):
  first, second = moments
  first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
  update = first / (1 - 0.9**count) / (np.sqrt(second / (1 - 0.999**count)) + 1e-6)
  return (first, second), lr * np.linalg.norm(x) / np.linalg.norm(update) * update


@pytest.mark.parametrize("flip", [False, True])
def test_three_steps_equal_finite_differences_and_lamb(flip, x64):
  method = build(jnp.float64, use_flip=flip, margin_weight=0.7)
  state, step = jax.jit(method.init)(KEY, BATCH), jax.jit(method.step)
  learned = {"images": IMAGES, "labels": (np.eye(CLASSES)[LABELS] - 1 / CLASSES) / np.sqrt(0.3)}
  learned["labels"] = learned["labels"].astype(np.float32).astype(np.float64)
  moments = dict.fromkeys(learned, (0.0, 0.0))
  pool = model_pool(network(jnp.float64), make_optimizer("adam", 3e-4), size=2, reset_after=3, batch_size=500)
  for count in (1, 2, 3):
    key_draw, key_pool = jax.random.split(jax.random.fold_in(KEY, count))
    number, variables = pool.draw(key_draw, state.pool)
    weights = np.asarray(variables.params["w"])

    def value(images, labels, weights=weights):
      error, margin = parts(images, labels, weights, flip=flip)
      return error - 0.7 * margin

    before = state.pool
    state, metrics = step(jax.random.fold_in(KEY, count), state, BATCH)
    assert float(metrics["krr/loss"]) == pytest.approx(value(**learned), rel=1e-7)
    np.testing.assert_allclose(
      [metrics["krr/error"], metrics["labels/margin"]], parts(**learned, weights=weights, flip=flip), rtol=1e-7
    )
    gradients = {
      "images": numeric_gradient(lambda images, old=learned["labels"]: value(images, old), learned["images"]),
      "labels": numeric_gradient(lambda labels, old=learned["images"]: value(old, labels), learned["labels"]),
    }
    for name, lr in (("images", 0.02), ("labels", 0.05)):
      falling = lr * (0.1 + 0.9 * (1 + np.cos(np.pi * (count - 1) / 10)) / 2)
      moments[name], change = lamb(learned[name], moments[name], gradients[name], count, falling)
      learned[name] = learned[name] - change
      np.testing.assert_allclose(getattr(method.result(state), name), learned[name], rtol=1e-5, atol=1e-7)
    # the network that was drawn is trained on the moved set, and no other
    result = method.result(state)
    want = jax.jit(pool.step)(key_pool, before, number, result.images, result.labels)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.pool, want)
  assert int(state.count) == 3 and float(result.lr) == 0.03


def test_a_detached_ridge_is_a_constant_for_the_gradient(x64):
  method = build(jnp.float64, detach_ridge=True, margin_weight=0.0)
  state = jax.jit(method.init)(KEY, BATCH)
  pool = model_pool(network(jnp.float64), make_optimizer("adam", 1.0), size=2, reset_after=3)
  _, variables = pool.draw(jax.random.split(KEY)[0], state.pool)
  weights, labels = np.asarray(variables.params["w"]), np.asarray(state.roles["labels"].params)
  trace = np.square(np.tanh(IMAGES.reshape(SIZE, -1) @ weights)).sum()
  norms = [
    np.linalg.norm(numeric_gradient(lambda x, kept=kept: parts(x, labels, weights, trace=kept)[0], IMAGES))
    for kept in (trace, None)
  ]
  found = float(jax.jit(method.step)(KEY, state, BATCH)[1]["gradient/images"])
  assert found == pytest.approx(norms[0], rel=1e-6) and abs(norms[0] / norms[1] - 1) > 1e-3


def test_labels_may_stay_and_need_no_scale():
  batch = jax.tree.map(jnp.asarray, BATCH)
  method = build(label_lr=0.0, scale_labels=False)
  state, metrics = jax.jit(method.step)(KEY, jax.jit(method.init)(KEY, batch), batch)
  np.testing.assert_allclose(method.result(state).labels, np.eye(CLASSES)[LABELS] - 1 / CLASSES, rtol=1e-6)
  assert "gradient/labels" not in metrics and np.abs(method.result(state).images - IMAGES).max() > 1e-3
  logits = RNG.normal(size=(SIZE, CLASSES)).astype(np.float32)
  given = build(labels=logits, image_lr=0.0)
  state, _ = jax.jit(given.step)(KEY, jax.jit(given.init)(KEY, batch), batch)
  np.testing.assert_array_equal(given.result(state).images, np.float32(IMAGES))
  assert 1e-4 < np.abs(given.result(state).labels - logits).max() < 0.5


def test_equal_images_in_float32_stay_finite():
  batch = jax.tree.map(jnp.asarray, BATCH)
  same = SyntheticSet(jnp.float32(np.repeat(IMAGES[:1], SIZE, axis=0)), jnp.asarray(LABELS), jnp.float32(1))
  method = frepo(network(), same, ridge=1e-4)
  state, metrics = jax.jit(method.step)(KEY, jax.jit(method.init)(KEY, batch), batch)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))


def test_its_length_and_its_mistakes():
  assert build(iterations=7).steps == 7 and "method.ridge" in build().cure
  with pytest.raises(UserError, match=r"method\.image_lr=0 and method\.label_lr=0: frepo learns nothing"):
    build(image_lr=0.0, label_lr=0.0)
  with pytest.raises(ValueError, match=r"method\.ridge=0\.0: must be above 0"):
    build(ridge=0.0)
  method = build()
  with pytest.raises(ValueError, match="the set has images"):
    method.step(KEY, method.init(KEY, BATCH), BATCH._replace(x=X[:, :1]))
