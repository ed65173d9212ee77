"""Attention matching against NumPy in float64, with gradients by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numeric_gradient
from real_batches import real_batch

from jdistill import models
from jdistill.base import Network, Outputs, UserError, Variables
from jdistill.losses import attention_matching
from jdistill.methods.dataset.datadam import datadam
from jdistill.methods.dataset.dm import dm
from jdistill.synthetic import SyntheticSet

CLASSES, IPC, REAL, SHAPE, WIDTH = 3, 2, 4, (3, 3, 1), 2
KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
IMAGES, X = RNG.normal(size=(CLASSES * IPC, *SHAPE)), RNG.normal(size=(CLASSES, REAL, *SHAPE))
LABELS = np.repeat(np.arange(CLASSES, dtype=np.int32), IPC)
WEIGHT = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0.0]])
BLOCKS = 11  # names in alphabetical order are not in the network's


def pixel_by_pixel(dtype=jnp.float32):
  """Layers `tanh(x W_l)` at every pixel with taps `block0` to `block10`, drawn from the key."""

  def init(key):
    keys = jax.random.split(key, BLOCKS)
    sizes = ((SHAPE[-1], WIDTH), *((WIDTH, WIDTH),) * (BLOCKS - 1))
    return Variables([jax.random.normal(k, size, dtype) for k, size in zip(keys, sizes, strict=True)])

  def apply(params, x, *, train=False, stats=None, **_):
    taps = {}
    for number, weights in enumerate(params):
      x = jnp.tanh(x @ weights)
      taps[f"block{number}"] = x
    features = x.reshape(x.shape[0], -1)
    return Outputs(features[:, :CLASSES], features, taps)

  return Network(init, apply)


def build(dtype=np.float32, network=None, images=IMAGES, method=datadam, **options):
  initial = SyntheticSet(jnp.asarray(images.astype(dtype)), jnp.asarray(LABELS), jnp.asarray(0.03, dtype))
  return method(network or pixel_by_pixel(jnp.dtype(dtype)), initial, **options)


def attention(maps, power):
  """`[n, places]`, by loops."""
  rows = []
  for one in maps:
    places = np.array([sum(abs(channel) ** power for channel in one[i, j]) for i, j in np.ndindex(one.shape[:2])])
    rows.append(places / max(np.sqrt((places**2).sum()), 1e-12))
  return np.stack(rows)


def reference(images, params, power, weights=(1.0, 0.01)):
  """The loss by loops."""
  total = 0.0
  for c in range(CLASSES):
    real, own = X[c], images[c * IPC : (c + 1) * IPC]
    for number, matrix in enumerate(params):
      real, own = np.tanh(real @ matrix), np.tanh(own @ matrix)
      if number < BLOCKS - 1:
        wanted = np.average(attention(real, power), 0, WEIGHT[c])
        total += weights[0] * np.sum((wanted - attention(own, power).mean(0)) ** 2)
    wanted = np.average(real.reshape(REAL, -1), 0, WEIGHT[c])
    total += weights[1] * np.sum((wanted - own.reshape(IPC, -1).mean(0)) ** 2)
  return total


@pytest.mark.parametrize("power", [4.0, 1.5])
def test_attention_of_class_means_equals_numpy(power, x64):
  """Two layers of other sizes, a map of zeros, and garbage behind the mask on both sides."""
  real = [np.maximum(RNG.normal(size=(CLASSES, REAL, *size)), 0) for size in ((3, 2, 4), (2, 2, 5))]
  own = [np.maximum(RNG.normal(size=(CLASSES, IPC, *size)), 0) for size in ((3, 2, 4), (2, 2, 5))]
  own[0][1, 0] = 0.0
  half = np.array([[1, 1], [1, 1], [1, 0.0]])
  wanted = 0.0
  for r, s in zip(real, own, strict=True):
    for c in range(CLASSES):
      means = (np.average(attention(x[c], power), 0, w[c]) for x, w in ((r, WEIGHT), (s, half)))
      wanted += np.sum(np.subtract(*means) ** 2)
  broken = [np.where(WEIGHT[..., None, None, None] > 0, r, np.nan) for r in real]
  spoilt = [np.where(half[..., None, None, None] > 0, s, np.nan) for s in own]
  loss = lambda s: attention_matching(  # noqa: E731
    broken, s, power=power, real_weight=WEIGHT, synthetic_weight=half
  )
  np.testing.assert_allclose(loss(spoilt), wanted, rtol=1e-12)
  value, grads = jax.jit(jax.value_and_grad(loss))(spoilt)
  np.testing.assert_allclose(value, wanted, rtol=1e-12)
  assert all(np.isfinite(g).all() and g.any() for g in grads) and not grads[0][1, 0].any()


def test_two_steps_equal_finite_differences_with_momentum(x64):
  """A fresh network in every step, all of its layers but the last, padding, and `v <- 0.5 v + g; x <- x - 2 v`."""
  method = build(np.float64, image_lr=2.0)
  batch = real_batch(X, WEIGHT)
  state, step = method.init(KEY, batch), jax.jit(method.step)
  images, velocity = IMAGES, np.zeros_like(IMAGES)
  for number in range(2):
    key = jax.random.fold_in(KEY, number)
    params = [np.asarray(leaf) for leaf in pixel_by_pixel(jnp.float64).init(jax.random.split(key)[0]).params]
    state, metrics = step(key, state, batch)
    loss = lambda images, params=params: reference(images, params, 4.0)  # noqa: E731
    np.testing.assert_allclose(metrics["match/loss"], loss(images), rtol=1e-6)  # images by finite differences
    grad = numeric_gradient(loss, images)
    velocity = 0.5 * velocity + grad
    images = images - 2.0 * velocity
    np.testing.assert_allclose(method.result(state).images, images, rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(method.result(state).labels, LABELS)


def test_the_second_term_alone_is_dm():
  batch = real_batch(np.float32(X))
  both = (build(attention_weight=0.0, mean_weight=1.0), build(method=dm))
  states = [jax.jit(method.step)(KEY, method.init(KEY, batch), batch)[0] for method in both]
  np.testing.assert_array_equal(*(state.roles["images"].params for state in states))
  params = [np.asarray(leaf, np.float64) for leaf in pixel_by_pixel().init(jax.random.split(KEY)[0]).params]
  method, whole = build(mean_weight=0.0, power=1.0), real_batch(np.float32(X), jnp.float32(WEIGHT))
  _, metrics = jax.jit(method.step)(KEY, method.init(KEY, whole), whole)
  np.testing.assert_allclose(metrics["match/loss"], reference(IMAGES, params, 1.0, (1.0, 0.0)), rtol=1e-4)


def test_mistakes():
  with pytest.raises(UserError, match=r"attention_weight=0.0: and method.mean_weight=0.0 leave nothing"):
    build(attention_weight=0.0, mean_weight=0.0)
  with pytest.raises(ValueError, match=r"method.power=0.0: must be"):
    build(power=0.0)
  mlp = models.build("mlp", num_classes=CLASSES, image_shape=SHAPE, widths=(4, 4))
  with pytest.raises(UserError, match=r"two taps or more, .* maps; found \(4,\), \(4,\);"):
    build(network=mlp)
  shallow = models.build("convnet", num_classes=CLASSES, image_shape=SHAPE, width=2, depth=1)
  with pytest.raises(UserError, match=r"found \(3, 3, 2\); take a ConvNet of two blocks"):
    build(network=shallow)
  build(network=mlp, attention_weight=0.0)
  maps = [jnp.ones((2, 3, 4, 4, 1))]
  with pytest.raises(ValueError, match="1 real and 0 synthetic layers"):
    attention_matching(maps, [])
  with pytest.raises(ValueError, match="maps must be"):
    attention_matching([maps[0][:, :, 0, 0]], maps)
