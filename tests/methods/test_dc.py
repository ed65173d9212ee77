"""Gradient matching against NumPy in float64: distances, updates between which a network is trained, and batch norm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numeric_gradient
from real_batches import real_batch

from jdistill import models
from jdistill.augment import dsa
from jdistill.base import Network, Outputs, Variables
from jdistill.losses import gradient_matching
from jdistill.methods.dataset.dc import dc
from jdistill.synthetic import SyntheticSet

CLASSES, IPC, REAL, SHAPE, FEATURES = 3, 2, 4, (2, 2, 1), 5
KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
IMAGES, X = RNG.normal(size=(CLASSES * IPC, *SHAPE)), RNG.normal(size=(CLASSES, REAL, *SHAPE))
LABELS = np.repeat(np.arange(CLASSES, dtype=np.int32), IPC)
WEIGHT = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0.0]])


def two_layers(dtype=jnp.float32):
  """`tanh(x a) b + c`."""

  def init(key):
    a, b = jax.random.split(key)
    sizes = (jax.random.normal(a, (4, FEATURES), dtype), jax.random.normal(b, (FEATURES, CLASSES), dtype))
    return Variables(dict(zip("abc", (*sizes, jnp.zeros(CLASSES, dtype)), strict=True)))

  def apply(params, x, *, train=False, stats=None, **_):
    features = jnp.tanh(x.reshape(x.shape[0], -1) @ params["a"])
    return Outputs(features @ params["b"] + params["c"][None], features)

  return Network(init, apply)


def build(dtype=np.float32, network=None, images=IMAGES, **options):
  initial = SyntheticSet(jnp.asarray(images.astype(dtype)), jnp.asarray(LABELS), jnp.asarray(0.03, dtype))
  return dc(network or two_layers(jnp.dtype(dtype)), initial, **options)


def gradient(params, x, y, weight):
  """Of the weighted mean cross entropy, by hand."""
  x = x.reshape(len(x), -1)
  h = np.tanh(x @ params["a"])
  z = h @ params["b"] + params["c"]
  p = np.exp(z - z.max(1, keepdims=True))
  d = (p / p.sum(1, keepdims=True) - np.eye(CLASSES)[y]) * (weight / weight.sum())[:, None]
  return {"a": x.T @ (d @ params["b"].T * (1 - h**2)), "b": h.T @ d, "c": d.sum(0)}


def rows(leaf):
  """The weights into each output unit."""
  return [leaf[..., unit].ravel() for unit in range(leaf.shape[-1])] if leaf.ndim > 1 else []


def distance(s, r, kind="layerwise_cosine"):
  if kind == "layerwise_cosine":
    pairs = [pair for k in s for pair in zip(rows(s[k]), rows(r[k]), strict=True)]
    return sum(1 - u @ v / (np.linalg.norm(u) * np.linalg.norm(v) + 1e-6) for u, v in pairs)
  u, v = (np.concatenate([g[k].ravel() for k in sorted(g)]) for g in (s, r))
  return np.sum((u - v) ** 2) if kind == "mse" else 1 - u @ v / (np.linalg.norm(u) * np.linalg.norm(v) + 1e-6)


def reference(images, params, kind="layerwise_cosine"):
  """The loss by loops."""
  total = 0.0
  for c in range(CLASSES):
    wanted = gradient(params, X[c], np.full(REAL, c), WEIGHT[c])
    found = gradient(params, images[c * IPC : (c + 1) * IPC], np.full(IPC, c), np.ones(IPC))
    total += distance(found, wanted, kind)
  return total


@pytest.mark.parametrize("kind", ["layerwise_cosine", "mse", "cosine"])
def test_distances_equal_numpy(kind, x64):
  """Kernels of convolutions and dense layers, scales of layer norm, biases, and a unit that is never active."""
  shapes = {"conv": (3, 3, 2, 4), "dense": (5, 3), "norm": (2, 2, 4), "bias": (4,)}
  s, r = ({name: RNG.normal(size=shape) for name, shape in shapes.items()} for _ in range(2))
  s["conv"][..., 1] = 0.0
  on_device = jax.tree.map(jnp.asarray, (s, r))
  for call in (gradient_matching, jax.jit(gradient_matching, static_argnames="distance")):
    np.testing.assert_allclose(call(*on_device, distance=kind), distance(s, r, kind), rtol=1e-12)
  to_s, to_r = jax.jit(jax.grad(lambda s, r: gradient_matching(s, r, distance=kind), argnums=(0, 1)))(*on_device)
  assert all(np.isfinite(g).all() for g in to_s.values()) and not any(g.any() for g in to_r.values())
  assert bool(to_s["bias"].any()) == (kind != "layerwise_cosine")


def test_a_literal_distance_tells_rows_from_columns():
  """Units whose incoming weights point the same way are at distance 0, whatever their outgoing ones do."""
  s, r = jnp.float32([[1, 0], [0, 1]]), jnp.float32([[5, 0], [0, 7]])
  np.testing.assert_allclose(gradient_matching({"w": s}, {"w": r}), 0, atol=1e-5)
  np.testing.assert_allclose(gradient_matching({"w": s}, {"w": jnp.float32([[0, 1], [5, 0]])}), 2, atol=1e-5)
  np.testing.assert_allclose(gradient_matching({"w": s}, {"w": r}, distance="mse"), 16 + 36)


def test_updates_and_training_between_them_equal_numpy(x64):
  """Five steps of networks that live for three: new ones at steps 0 and 3, else what five passes made of the last."""
  options = {"outer_loop": 3, "inner_epochs": 5, "net_lr": 0.3, "image_lr": 0.2}
  method, batch = build(np.float64, **options), real_batch(X, WEIGHT)
  state, step = method.init(KEY, batch), jax.jit(method.step)
  images, velocity, params = IMAGES, np.zeros_like(IMAGES), None
  for number in range(5):
    key = jax.random.fold_in(KEY, number)
    if number % 3 == 0:
      drawn = two_layers(jnp.float64).init(jax.random.split(key, 4)[0]).params
      params = {name: np.asarray(leaf) for name, leaf in drawn.items()}
    state, metrics = step(key, state, batch)
    loss = lambda images, params=params: reference(images, params)  # noqa: E731
    np.testing.assert_allclose(metrics["match/loss"], loss(images), rtol=1e-6)  # images by finite differences
    grad = numeric_gradient(loss, images)
    np.testing.assert_allclose(metrics["gradient/images"], np.linalg.norm(grad), rtol=1e-5)
    velocity = 0.5 * velocity + grad
    images = images - 0.2 * velocity
    np.testing.assert_allclose(method.result(state).images, images, rtol=1e-5, atol=1e-7)
    for _ in range(5 if number % 3 < 2 else 0):
      moved = gradient(params, images, LABELS, np.ones(len(LABELS)))
      params = {name: params[name] - 0.3 * moved[name] for name in params}
    for name, leaf in state.network.params.items():
      np.testing.assert_allclose(leaf, params[name], rtol=1e-5, atol=1e-7)
  assert int(state.updates) == 2
  np.testing.assert_array_equal(method.result(state).labels, LABELS)


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_classes_together_and_apart_equal_numpy(kind, x64):
  found = []
  for at_once in (None, 1):
    method = build(np.float64, distance=kind, classes_at_once=at_once)
    state = method.init(KEY, real_batch(X, WEIGHT))
    assert state.network is None
    params = {k: np.asarray(v) for k, v in two_layers(jnp.float64).init(jax.random.split(KEY, 4)[0]).params.items()}
    state, metrics = jax.jit(method.step)(KEY, state, real_batch(X, WEIGHT))
    np.testing.assert_allclose(metrics["match/loss"], reference(IMAGES, params, kind), rtol=1e-9)
    found.append(method.result(state).images)
  np.testing.assert_allclose(*found, rtol=1e-9)


def test_one_draw_of_the_augmentation_per_class_for_real_and_synthetic():
  """A set of the real images themselves has no loss under shared draws, and has one under draws of its own."""
  images = X[:, :IPC].reshape(-1, *SHAPE)
  twice = real_batch(np.float32(np.concatenate([X[:, :IPC]] * 2, axis=1)))
  losses = {}
  for shared in (True, False):
    method = build(images=images, distance="mse", siamese=dsa("color_scale", siamese=shared))
    _, metrics = jax.jit(method.step)(KEY, method.init(KEY, twice), twice)
    losses[shared] = float(metrics["match/loss"])
  assert losses[True] < 1e-8 and losses[False] > 1e-4


def test_inner_training_is_augmented_and_takes_batches():
  """Another draw for each step: a network trained under it ends elsewhere, and so does one on batches of four."""
  ends = []
  for options in ({}, {"augment": dsa("color")}, {"net_batch_size": 4}):
    method = build(outer_loop=2, inner_epochs=2, net_lr=0.5, **options)
    batch = real_batch(np.float32(X))
    state, _ = jax.jit(method.step)(KEY, method.init(KEY, batch), batch)
    ends.append(np.asarray(state.network.params["a"]))
  assert all(np.abs(end - ends[0]).max() > 1e-4 for end in ends[1:])


def test_mistakes():
  unsorted = SyntheticSet(jnp.float32(IMAGES), jnp.int32([0, 1, 2, 0, 1, 2]), jnp.float32(0))
  with pytest.raises(ValueError, match="dc: the initial labels must be sorted by class"):
    dc(two_layers(), unsorted)
  with pytest.raises(ValueError, match="classes_at_once=2 does not divide 3"):
    build(classes_at_once=2)
  with pytest.raises(ValueError, match=r"method.distance='l1': .*layerwise_cosine"):
    build(distance="l1")
  method = build(batch_real=3)
  batch = real_batch(np.float32(X))
  with pytest.raises(ValueError, match="at most batch_real=3"):
    method.step(KEY, method.init(KEY, batch), batch)
  w = jnp.ones((2, 3))
  with pytest.raises(ValueError, match="differ in shape"):
    gradient_matching({"w": w}, {"w": w.T})
  with pytest.raises(ValueError, match="distance must be one of"):
    gradient_matching({"w": w}, {"w": w}, distance="l1")
  with pytest.raises(ValueError, match="no leaf has two axes"):
    gradient_matching({"b": w[0]}, {"b": w[0]})


@pytest.mark.slow
def test_batch_norm_sees_real_images_first_and_is_frozen_then():
  """With one image per class and update, what normalises is a tenth of the moments of those images."""
  network = models.build("convnet_bn", num_classes=CLASSES, image_shape=(4, 4, 1), width=3, depth=1)
  images, x = RNG.normal(size=(6, 4, 4, 1)), np.float32(RNG.normal(size=(CLASSES, REAL, 4, 4, 1)))
  method = build(network=network, images=images, outer_loop=2, inner_epochs=1, net_lr=1e-9)
  batch = real_batch(x)
  state, metrics = jax.jit(method.step)(KEY, method.init(KEY, batch), batch)
  drawn = network.init(jax.random.split(KEY, 4)[0])
  seen = network.apply(drawn.params, x.reshape(-1, 4, 4, 1), train=True, stats=drawn.stats).stats

  def mean_loss(params, images, label):
    logits = network.apply(params, jnp.float32(images), train=False, stats=seen).logits
    return -jnp.mean(jax.nn.log_softmax(logits)[:, label])

  wanted = sum(
    gradient_matching(*(jax.grad(mean_loss)(drawn.params, rows, c) for rows in (images[2 * c : 2 * c + 2], x[c])))
    for c in range(CLASSES)
  )
  np.testing.assert_allclose(metrics["match/loss"], wanted, rtol=1e-4)
  trained = network.apply(drawn.params, method.result(state).images, train=True, stats=seen).stats
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.network.stats, trained)
