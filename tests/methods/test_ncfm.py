"""NCFM against NumPy in float64 with finite differences: both sides of its game, and the networks it looks with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numeric_gradient
from real_batches import real_batch

from jdistill import augment, schema
from jdistill.augment import dsa
from jdistill.base import Outputs, UserError
from jdistill.methods.dataset.by_class import class_batches
from jdistill.methods.dataset.extractors import Extraction, extractors
from jdistill.methods.dataset.frequencies import sampling_network
from jdistill.methods.dataset.ncfm import ncfm
from jdistill.synthetic import Materials, SyntheticSet

CLASSES, IPC, REAL, SHAPE, FEATURES, K = 3, 2, 4, (3, 3, 1), 4, 5
KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
LOW, HIGH = np.float32([-1.5]), np.float32([2.5])
IMAGES, X = RNG.uniform(-1, 2, (CLASSES * IPC, *SHAPE)), RNG.uniform(-1, 2, (CLASSES, REAL, *SHAPE))
LABELS = np.repeat(np.arange(CLASSES, dtype=np.int32), IPC)
WEIGHT = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0.0]])
SIZE = 9 * FEATURES + FEATURES * CLASSES
THETA, TRAINED = RNG.normal(size=SIZE), RNG.normal(size=SIZE)


def apply(theta, x, *, train=False, **_):
  """Embeddings `tanh(x W)` and logits that are linear in them, of one flat vector."""
  assert train
  first, head = theta[: 9 * FEATURES].reshape(9, FEATURES), theta[9 * FEATURES :].reshape(FEATURES, CLASSES)
  features = jnp.tanh(x.reshape(x.shape[0], -1) @ first)
  return Outputs(features @ head, features)


def build(dtype=np.float32, images=IMAGES, **options):
  initial = SyntheticSet(jnp.asarray(images.astype(dtype)), jnp.asarray(LABELS), jnp.asarray(0.03, dtype))
  return ncfm(apply, initial, (LOW, HIGH), **({"frequencies": K} | options))


def extraction(dtype=np.float32, x=X, weight=None, theta=THETA):
  weight = None if weight is None else weight.astype(dtype)
  return Extraction(real_batch(x.astype(dtype), weight), jnp.asarray(theta, dtype), jnp.asarray(TRAINED, dtype))


def embed(x, theta, normed=True):
  out = np.tanh(x.reshape(len(x), -1) @ theta[: 9 * FEATURES].reshape(9, FEATURES))
  return out / np.linalg.norm(out, axis=1, keepdims=True) if normed else out


def discrepancy(pixels, t, a=0.5, p=0.5, normed=True):
  """Of pixels in [0, 1], summed over classes, by complex numbers."""
  images, total = LOW + (HIGH - LOW) * pixels, 0.0
  for c in range(CLASSES):
    phi = np.average(np.exp(1j * embed(X[c], THETA, normed) @ t.T), 0, WEIGHT[c])
    psi = np.exp(1j * embed(images[c * IPC : (c + 1) * IPC], THETA, normed) @ t.T).mean(0)
    amplitude = (np.abs(phi) - np.abs(psi)) ** 2
    phase = 2 * np.abs(phi) * np.abs(psi) * (1 - np.cos(np.angle(phi) - np.angle(psi)))
    total += np.mean(np.sqrt(a * amplitude + p * phase))
  return total


def entropy(pixels):
  """Of the trained network, the mean of each class, summed."""
  logits = embed(LOW + (HIGH - LOW) * pixels, TRAINED, False) @ TRAINED[9 * FEATURES :].reshape(FEATURES, CLASSES)
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  return -log_p[np.arange(len(LABELS)), LABELS].sum() / IPC


def frequencies(params, noise):
  """The sampling network by hand."""
  h = noise
  for layer in range(3):
    h = h @ params["kernel"][layer]
    h = params["gain"][layer] * (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5) + params["shift"][layer]
    h = np.tanh(h) if layer == 2 else np.where(h > 0, h, 0.2 * h)
  return h


def noise_of(key):
  return np.asarray(jax.random.normal(jax.random.split(key, 3)[0], (K, FEATURES), jnp.float64))


def test_two_steps_of_sgd_at_normal_frequencies(x64):
  """Padding, both terms, unequal weights, and `v <- 0.5 v + g; p <- clip(p - 0.02 v)` of pixels in [0, 1]."""
  options = {"amplitude_weight": 0.8, "phase_weight": 0.3, "match_weight": 2.0, "calibration_weight": 0.7}
  method = build(
    np.float64,
    sampling="gaussian",
    frequency_scale=1.5,
    image_optimizer="sgd",
    image_lr=0.02,
    classes_at_once=1,
    **options,
  )
  broken = np.where(WEIGHT[..., None, None, None] > 0, X, 0.5)
  batch = extraction(np.float64, broken, WEIGHT)
  state, step = method.init(KEY, batch), jax.jit(method.step)
  pixels, velocity = (IMAGES - LOW) / (HIGH - LOW), np.zeros_like(IMAGES)
  for number in range(2):
    key = jax.random.fold_in(KEY, number)
    state, metrics = step(key, state, batch)
    t = 1.5 * noise_of(key)
    loss = lambda p, t=t: 2.0 * discrepancy(p, t, 0.8, 0.3) + 0.7 * entropy(p)  # noqa: E731
    np.testing.assert_allclose(metrics["match/loss"], loss(pixels), rtol=1e-7)  # pixels by finite differences
    np.testing.assert_allclose(metrics["match/discrepancy"], discrepancy(pixels, t, 0.8, 0.3) / 3, rtol=1e-6)
    np.testing.assert_allclose(metrics["match/calibration"], entropy(pixels), rtol=1e-6)
    grad = numeric_gradient(loss, pixels)
    np.testing.assert_allclose(metrics["gradient/images"], np.linalg.norm(grad), rtol=1e-6)
    velocity = 0.5 * velocity + grad
    pixels = np.clip(pixels - 0.02 * velocity, 0, 1)
    np.testing.assert_allclose(method.result(state).images, LOW + (HIGH - LOW) * pixels, rtol=1e-6, atol=1e-7)
  np.testing.assert_array_equal(method.result(state).labels, LABELS)
  assert float(method.result(state).lr) == 0.03


def test_images_go_down_and_the_sampler_up(x64):
  """One step of both from the same point: AdamW's of the pixels, SGD's of the network."""
  method = build(np.float64, unit_features=False, match_weight=3.0, calibration_weight=0.0, image_decay=0.2)
  batch = extraction(np.float64, weight=WEIGHT)
  state = method.init(KEY, batch)
  params = jax.tree.map(np.asarray, state.roles["sampler"].params)
  params["gain"], params["shift"] = (RNG.uniform(0.5, 1.5, (3, FEATURES)) - centre for centre in (0.0, 1.0))
  sampler = state.roles["sampler"]._replace(params=jax.tree.map(jnp.asarray, params))
  state = state._replace(roles=state.roles | {"sampler": sampler})
  new, _ = jax.jit(method.step)(KEY, state, batch)
  pixels, noise = (IMAGES - LOW) / (HIGH - LOW), noise_of(KEY)
  value = lambda pixels, params: 3.0 * discrepancy(pixels, frequencies(params, noise), normed=False)  # noqa: E731
  grad = numeric_gradient(lambda p: value(p, params), pixels)
  moved = pixels - 0.01 * (grad / (np.abs(grad) + 1e-8) + 0.2 * pixels)
  np.testing.assert_allclose(method.result(new).images, LOW + (HIGH - LOW) * moved, atol=1e-6)
  for name, before in params.items():
    slope = numeric_gradient(lambda leaf, name=name: value(pixels, params | {name: leaf}), before)
    np.testing.assert_allclose(new.roles["sampler"].params[name], before + 1e-3 * slope, atol=1e-8)
    assert np.abs(slope).max() > 1e-3
  kept = build(np.float64, sampler_lr=0.0)
  state, _ = jax.jit(kept.step)(KEY, first := kept.init(KEY, batch), batch)
  jax.tree.map(np.testing.assert_array_equal, *(s.roles["sampler"].params for s in (state, first)))


def test_the_sampling_network_starts_as_dense_layers_do():
  sampler = sampling_network(64, scale=2.0)
  params = sampler.init(KEY)
  kernel = np.asarray(params["kernel"])
  assert kernel.shape == (3, 64, 64) and np.abs(kernel).max() <= 1 / 8
  np.testing.assert_allclose(kernel.std(), 1 / 8 / np.sqrt(3), rtol=0.05)
  t = np.asarray(sampler.draw(params, KEY, 256))
  assert t.shape == (256, 64) and np.abs(t).max() < 2.0
  np.testing.assert_allclose(t.mean(0), 0, atol=0.2)  # normalised before the last activation


def play(steps=120, **options):
  """Class means come from far away, in networks between two; the distance at normal frequencies, before and after."""
  rng = np.random.default_rng(1)
  means = rng.uniform(-1, 2, (CLASSES, 1, *SHAPE))
  x = np.float32(np.clip(means + 0.2 * rng.normal(size=(CLASSES, 40, *SHAPE)), -1.5, 2.5))
  method = build(images=np.full_like(IMAGES, 0.5), **({"frequencies": 64, "image_lr": 0.03} | options))
  draw, flat = class_batches(np.repeat(np.arange(CLASSES), 40), 8, seed=0), x.reshape(-1, *SHAPE)

  def batch(number):
    positions, weight = draw(number)
    share = np.random.default_rng(number).uniform()
    return extraction(x=flat[positions], weight=weight, theta=share * THETA + (1 - share) * TRAINED)

  state, step, found = method.init(KEY, batch(0)), jax.jit(method.step), []
  for number in range(steps):
    state, metrics = step(jax.random.fold_in(KEY, number), state, batch(number))
    found.append(float(metrics["match/discrepancy"]))
  t, theta = rng.normal(size=(200, FEATURES)), (THETA + TRAINED) / 2

  def distance(images):
    rows = images.reshape(CLASSES, IPC, *SHAPE)
    sides = (np.exp(1j * embed(one[c], theta) @ t.T).mean(0) for c in range(CLASSES) for one in (x, rows))
    phi = np.stack(list(sides))
    return np.abs(phi[::2] - phi[1::2]).mean()

  return found, distance(np.full_like(IMAGES, 0.5)), distance(np.asarray(method.result(state).images))


def test_distributions_come_together_at_other_frequencies():
  for sampling in ("network", "gaussian"):
    _, before, after = play(sampling=sampling, calibration_weight=0.0)
    assert after < 0.5 * before, sampling


def test_the_sampler_finds_frequencies_that_tell_more():
  """With images that hardly move, the discrepancy rises by it alone."""
  found, _, _ = play(image_lr=1e-6, sampler_lr=0.01, match_weight=30.0)
  still, _, _ = play(image_lr=1e-6, sampler_lr=0.0)
  assert np.mean(found[-20:]) > 1.1 * np.mean(still[-20:])


def test_one_draw_of_the_augmentation_per_class_for_real_and_synthetic():
  """A set of the real images themselves has no discrepancy under shared draws, and has one under draws of its own."""
  images = X[:, :IPC].reshape(-1, *SHAPE)
  twice, found = extraction(x=np.concatenate([X[:, :IPC]] * 2, axis=1)), {}
  for shared in (True, False):
    method = build(images=images, sampling="gaussian", siamese=dsa("color_scale", siamese=shared))
    _, metrics = jax.jit(method.step)(KEY, method.init(KEY, twice), twice)
    found[shared] = float(metrics["match/discrepancy"])
  assert found[True] < 1e-5 and found[False] > 1e-3


def test_a_view_is_matched_and_calibrated():
  """Mirrored images beside each other are a set of twice as many images."""
  views = np.concatenate([IMAGES.reshape(CLASSES, IPC, *SHAPE)] * 2, axis=1)
  views[:, 1::2] = views[:, :IPC, :, ::-1]  # image, mirror, image, mirror
  views[:, ::2] = IMAGES.reshape(CLASSES, IPC, *SHAPE)
  labels = jnp.asarray(np.repeat(np.arange(CLASSES, dtype=np.int32), 2 * IPC))
  whole = SyntheticSet(jnp.float32(views.reshape(-1, *SHAPE)), labels, jnp.float32(0.03))
  one, batch = build(view=augment.view("flip").view), extraction()
  other, found = ncfm(apply, whole, (LOW, HIGH), frequencies=K), []
  for method in (one, other):
    found.append(jax.jit(method.step)(KEY, method.init(KEY, batch), batch)[1])
  for name in ("match/discrepancy", "match/calibration"):
    np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-5)


def test_networks_between_the_ends_of_teachers():
  points = [np.float32(RNG.normal(size=(4, 7))) for _ in range(3)]
  segment = lambda teacher, first, epochs: (points[teacher][first], points[teacher][first + epochs])  # noqa: E731
  x, y = np.float32(RNG.normal(size=(12, 2, 2, 1))), np.arange(12) % 3
  found = Materials(x, y, 3, 5, parameters=7, segment=segment, epochs=3, teachers=3)
  draws = {kind: extractors(batch_real=2, extractor=kind) for kind in ("between", "epoch", "untrained", "trained")}
  shares, epochs, order = [], [], []
  for step in range(60):
    one = {kind: feed.stream(found)(step) for kind, feed in draws.items()}
    first, last = one["untrained"].features, one["trained"].features
    order.append(next(i for i in range(3) if (points[i][0] == first).all() and (points[i][3] == last).all()))
    assert all((kind.trained == last).all() for kind in one.values())
    share = (one["between"].features - last) / (first - last)
    np.testing.assert_allclose(share, share[0], rtol=1e-4, atol=1e-5)
    shares.append(share[0])
    epochs.append(next(e for e in range(4) if (points[order[-1]][e] == one["epoch"].features).all()))
    assert one["between"].real.x.shape == (3, 2, 2, 2, 1)
  assert all(sorted(order[i : i + 3]) == [0, 1, 2] for i in range(0, 60, 3))
  assert 0 <= min(shares) < 0.1 and 0.9 < max(shares) <= 1 and set(epochs) == {0, 1, 2, 3}
  again = extractors(batch_real=2).stream(found)(11)
  np.testing.assert_array_equal(again.features, draws["between"].stream(found)(11).features)
  shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), draws["between"].example(found))
  assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), again)


def test_mistakes():
  with pytest.raises(UserError, match=r"amplitude_weight=0.0: and method.phase_weight=0.0 leave nothing"):
    build(amplitude_weight=0.0, phase_weight=0.0)
  with pytest.raises(UserError, match=r"method.frequencies=1: .* set method.sampling='gaussian'"):
    build(frequencies=1)
  build(frequencies=1, sampling="gaussian")
  with pytest.raises(ValueError, match=r"method.sampling='fixed': unknown; choose one of"):
    build(sampling="fixed")
  with pytest.raises(ValueError, match="classes_at_once=2 does not divide 3"):
    build(classes_at_once=2)
  unsorted = SyntheticSet(jnp.float32(IMAGES), jnp.int32([0, 1, 2, 0, 1, 2]), jnp.float32(0))
  with pytest.raises(ValueError, match="sorted by class"):
    ncfm(apply, unsorted, (LOW, HIGH))
  method = build(batch_real=3)
  with pytest.raises(ValueError, match="at most batch_real=3"):
    jax.eval_shape(method.step, KEY, method.init(KEY, extraction()), extraction())
  assert schema.fields(ncfm)["frequencies"] == schema.Field(int, 4096, low=1)
