"""Barlow Twins as a recipe: loss and statistics against NumPy float64, no labels anywhere, and its linear probe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from updates import update_of

from jdistill import models
from jdistill.base import Batch, Outputs, UserError
from jdistill.evaluation import ridge_probe
from jdistill.methods.knowledge import student_method
from jdistill.methods.knowledge.barlow_twins import barlow_twins
from jdistill.methods.optimizers import make_optimizer
from jdistill.models.connectors import projector

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
NETWORK = models.build("mlp", num_classes=3, image_shape=(2, 2, 1), widths=(5,))
X = jnp.float32(RNG.normal(size=(6, 2, 2, 1)))


def batch(labels, weight=None):
  return Batch(X, jnp.asarray(labels, jnp.int32), jnp.arange(6, dtype=jnp.int32), weight)


def test_the_projector_normalises_every_view_by_itself():
  part = projector((4, 3), views=2)
  out = Outputs(jnp.zeros((8, 2)), jnp.float32(RNG.normal(size=(8, 5))))
  variables = part.init(KEY, out, ())
  value, stats = jax.jit(lambda v: part.apply(v, out, (), train=True, key=KEY))(variables)
  p = jax.tree.map(np.float64, variables.params)
  want = []
  for half in np.split(np.float64(out.embedding) @ p["dense0"]["kernel"] + p["dense0"]["bias"], 2):
    normal = (half - half.mean(0)) / np.sqrt(half.var(0) + 1e-5) * p["norm0"]["scale"] + p["norm0"]["bias"]
    want.append(np.maximum(normal, 0) @ p["dense1"]["kernel"] + p["dense1"]["bias"])
  np.testing.assert_allclose(value, np.concatenate(want), rtol=1e-4, atol=1e-5)
  halves = np.split(np.float64(out.embedding) @ p["dense0"]["kernel"] + p["dense0"]["bias"], 2)
  mean = 0.9 * 0.1 * halves[0].mean(0) + 0.1 * halves[1].mean(0)  # one after the other
  np.testing.assert_allclose(stats["norm0"]["mean"], mean, rtol=1e-4, atol=1e-6)


def test_an_update_sees_two_views_and_no_label():
  recipe = barlow_twins(features=4, layers=1, crop_scale=None, flip_images=True, operators="none")
  assert recipe.needs == () and recipe.probed and recipe.passes == 2
  method = student_method(NETWORK, recipe, optimizer=make_optimizer("sgd", 0.1))
  init, step = jax.jit(method.init), jax.jit(method.step)
  weight = jnp.float32([1, 1, 1, 1, 1, 0])
  ends = []
  for labels in ([0, 1, 2, 0, 1, 2], [-1] * 6):
    inputs = update_of(batch(labels, weight))
    state = init(KEY, inputs)
    ends.append(step(KEY, state, inputs))
  jax.tree.map(np.testing.assert_array_equal, *ends)
  # the loss of the two draws of mirrored images, by NumPy
  _, key_inputs, _, _, _ = jax.random.split(jax.random.split(KEY)[0], 5)
  x, seen = recipe.augmented_inputs(key_inputs, batch([0] * 6))
  assert x.shape == (12, 2, 2, 1) and (np.asarray(seen) == np.asarray(X)).all()
  mirrored = (np.asarray(x).reshape(2, 6, 2, 2, 1) != np.asarray(X)[None]).any((2, 3, 4))
  assert mirrored.any() and not mirrored.all() and (mirrored[0] != mirrored[1]).any()
  embedding = np.float64(NETWORK.apply(state.roles["student"].params, x).embedding)
  head = jax.tree.map(np.float64, state.roles["projector"].params)["dense0"]
  first, second = np.split(embedding @ head["kernel"] + head["bias"], 2)
  first, second = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (first[:5], second[:5]))  # the last is padding
  cross = first.T @ second / 5
  want = np.sum(np.where(np.eye(4), 1, 0.005) * (np.eye(4) - cross) ** 2)
  assert float(ends[0][1]["loss/barlow_twins"]) == pytest.approx(want, rel=1e-4)
  before, after = state.roles["student"].params, ends[0][0].roles["student"].params
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
  assert not any(jax.tree.leaves(moved["head"])) and any(jax.tree.leaves(moved))


def test_the_finished_network_gives_features():
  recipe = barlow_twins(features=4, layers=1)
  out = NETWORK.apply(NETWORK.init(KEY).params, X)
  np.testing.assert_array_equal(recipe.predict(out, {}, ()), out.embedding)
  with pytest.raises(UserError, match="unknown operator 'blur'"):
    barlow_twins(operators="blur")


def test_the_probe_is_scikit_learns_ridge_regression():
  rng = np.random.default_rng(1)
  x, y, other = rng.normal(2, 3, (40, 4)), rng.integers(0, 3, 40), rng.normal(2, 3, (7, 4))
  x[:, 3] = 5.0  # a constant feature
  unlabelled = np.where(np.arange(40) < 5, -1, y)
  found = ridge_probe(x, unlabelled, 3, ridge=0.2)(other)
  mean, deviation = x[5:].mean(0), np.where(np.arange(4) < 3, x[5:].std(0), 1)
  scaled = [(rows - mean) / deviation * (np.arange(4) < 3) for rows in (x[5:], other)]
  want = Ridge(alpha=0.2 * 35).fit(scaled[0], np.eye(3)[y[5:]]).predict(scaled[1])
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(ridge_probe(1e3 * x - 7, unlabelled, 3, ridge=0.2)(1e3 * other - 7), found, atol=1e-5)
  with pytest.raises(UserError, match="none of the examples has one"):
    ridge_probe(x, np.full(40, -1), 3)
