"""Trajectory matching (DATM, MTT) against NumPy, finite differences and written-out formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trajectory_problem import (
  BATCH,
  KEY,
  OPTIONS,
  STEPS,
  apply,
  build,
  moved,
  params,
  problem,
  reference_gradient,
)

from jdistill import bilevel, models
from jdistill.augment import dsa
from jdistill.base import Segment
from jdistill.methods.dataset.trajectory import trajectory_method
from jdistill.synthetic import SyntheticSet


def test_outer_gradient_equals_finite_differences(x64):
  parts = problem()
  images, labels, lr, start, target = parts
  got, metrics = moved(*build(parts))
  value, want = reference_gradient({"images": images, "labels": labels, "lr": lr}, {}, start, target, KEY)
  np.testing.assert_allclose(metrics["match/loss"], value, rtol=1e-12)
  assert got.keys() == want.keys()
  for name in want:
    assert np.abs(want[name]).max() > 1e-3  # the test would see a gradient that is forgotten
    np.testing.assert_allclose(got[name], want[name], rtol=1e-6, atol=1e-9)
  np.testing.assert_allclose(metrics["gradient/images"], np.linalg.norm(want["images"]), rtol=1e-6)


def test_outer_gradient_with_augmentation_equals_finite_differences(x64):
  """The recorded draws are replayed, one by one, on the pixels that NumPy perturbs."""
  shape, augment = (4, 4, 1), dsa("color_crop_scale")
  parts = problem(shape=shape)
  images, labels, lr, start, target = parts
  keys = jax.random.split(jax.random.split(KEY)[1], STEPS)
  records = [augment.sample(key, (BATCH, *shape)) for key in keys]
  assert len({int(record.op) for record in records}) > 1
  replay = jax.jit(augment.apply)
  got, metrics = moved(*build(parts, augment=augment))
  value, want = reference_gradient(
    {"images": images, "labels": labels, "lr": lr}, {}, start, target, KEY,
    augment=lambda step, x: np.asarray(replay(records[step], jnp.asarray(x))),
  )  # fmt: skip
  np.testing.assert_allclose(metrics["match/loss"], value, rtol=1e-7)
  for name in want:
    np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-8)


def test_hard_labels_and_fixed_soft_labels(x64):
  for hard in (True, False):
    parts = problem(hard=hard)
    images, labels, lr, start, target = parts
    method, state, segment = build(parts, learn_labels=False)
    assert set(state.roles) == {"images", "lr"}
    new, _ = jax.jit(method.step)(KEY, state, segment)
    _, want = reference_gradient({"images": images, "lr": lr}, {"labels": labels}, start, target, KEY)
    for name, before in {"images": images, "lr": lr}.items():
      np.testing.assert_allclose(before - params(new)[name], want[name], rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(method.result(new).labels, labels)
    assert method.result(new).labels.dtype == labels.dtype


def test_three_steps_of_momentum(x64):
  """`v <- momentum v + g; p <- p - rate v`, no dampening, each role with its own figures."""
  parts = problem()
  images, labels, lr, start, target = parts
  rates = {"images": (2.0, 0.5), "labels": (3.0, 0.9), "lr": (0.05, 0.7)}
  method, state, segment = build(
    parts, image_lr=2.0, image_momentum=0.5, label_lr=3.0, label_momentum=0.9, lr_lr=0.05, lr_momentum=0.7
  )
  want = {"images": images, "labels": labels, "lr": lr}
  velocity = {name: np.zeros_like(value) for name, value in want.items()}
  for number in range(3):
    key = jax.random.fold_in(KEY, number)
    state, metrics = method.step(key, state, segment)
    _, grads = reference_gradient(want, {}, start, target, key)
    for name, (rate, momentum) in rates.items():
      velocity[name] = momentum * velocity[name] + grads[name]
      want[name] = want[name] - rate * velocity[name]
    for name, value in params(state).items():
      np.testing.assert_allclose(value, want[name], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(metrics["synthetic/lr"], want["lr"], rtol=1e-6)
  assert int(state.accepted) == 3


AVERAGED = {"image_momentum": 0.5, "label_momentum": 0.9, "lr_momentum": 0.5, "ema_decay": 0.8}


def test_a_rejected_step_leaves_parameters_momentum_and_average():
  parts = problem(np.float32)
  accepting, state, segment = build(parts, **AVERAGED)
  state, metrics = accepting.step(KEY, state, segment)
  assert metrics["match/accepted"] == 1.0 and int(state.accepted) == 1
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(state.roles["labels"].opt_state))
  rejecting, _, _ = build(parts, threshold=1e-3, **AVERAGED)
  after, metrics = rejecting.step(jax.random.key(8), state, segment)
  assert 1e-3 < float(metrics["match/loss"]) < np.inf and metrics["match/accepted"] == 0.0
  jax.tree.map(np.testing.assert_array_equal, after, state)


def test_a_loss_at_the_threshold_is_accepted():
  """With an inner rate of zero the loss is exactly one, which the paper's threshold of one still takes."""
  images, labels, _, start, target = problem(np.float32)
  for threshold in (1.0, None):
    method, state, segment = build((images, labels, np.float32(0), start, target), threshold=threshold)
    new, metrics = method.step(KEY, state, segment)
    assert float(metrics["match/loss"]) == 1.0
    assert int(new.accepted) == 1
    np.testing.assert_array_equal(new.roles["images"].params, images)  # their gradient has the rate as a factor
    assert float(new.roles["lr"].params) != 0.0


@pytest.mark.parametrize("threshold", [1.0, None])
def test_a_loss_that_is_not_finite_is_never_taken(threshold):
  images, labels, lr, start, _ = problem(np.float32)
  method, state, segment = build((images, labels, lr, start, start), threshold=threshold)  # the expert did not move
  new, metrics = method.step(KEY, state, segment)
  assert not np.isfinite(metrics["match/loss"])
  jax.tree.map(np.testing.assert_array_equal, new, state)


def test_average_of_the_images():
  parts = problem(np.float32)
  method, state, segment = build(parts, **AVERAGED)
  want = parts[0].copy()
  for number in range(3):
    state, _ = method.step(jax.random.fold_in(KEY, number), state, segment)
    want = 0.8 * want + 0.2 * np.asarray(state.roles["images"].params)
  result = method.result(state)
  np.testing.assert_allclose(result.images, want, rtol=1e-5, atol=1e-6)
  assert np.abs(result.images - state.roles["images"].params).max() > 1e-3
  np.testing.assert_array_equal(result.labels, state.roles["labels"].params)
  np.testing.assert_array_equal(result.lr, state.roles["lr"].params)


def test_gradient_routes_agree_through_the_builder(x64):
  found = {}
  for route in ("full", "remat"):
    found[route], _ = moved(*build(problem(), unroll=functools.partial(bilevel.unroll, gradient=route)))
  found["mixed"], _ = moved(*build(problem()))  # the default
  for route in ("remat", "mixed"):
    for name, want in found["full"].items():
      np.testing.assert_allclose(found[route][name], want, rtol=1e-9, atol=1e-12)


def test_the_state_owns_its_arrays():
  """The loop donates states; the set that a method was built with must survive that."""
  initial = SyntheticSet(*(jnp.asarray(a) for a in problem(np.float32)[:3]))
  method = trajectory_method(apply, initial, ema_decay=0.5, inner_steps=1)
  jax.tree.map(lambda leaf: leaf.delete(), method.init(KEY, None))
  jax.tree.map(np.testing.assert_array_equal, initial, SyntheticSet(*problem(np.float32)[:3]))


def test_without_an_average_the_result_is_the_last_images_and_the_key_decides_the_batches():
  method, state, segment = build(problem(np.float32))
  (one, first), (_, same), (_, other) = (method.step(key, state, segment) for key in (KEY, KEY, jax.random.key(4)))
  np.testing.assert_array_equal(method.result(one).images, one.roles["images"].params)
  assert first["match/loss"] == same["match/loss"] != other["match/loss"]


def test_learned_labels_need_label_logits():
  with pytest.raises(ValueError, match=r"learn_labels needs label logits \[m, classes\], got \(5,\)"):
    build(problem(np.float32, hard=True))


@pytest.mark.slow
def test_mixed_and_full_agree_on_a_convnet_with_augmentation():
  shape = (8, 8, 1)
  network = models.build("convnet", num_classes=3, image_shape=shape, width=4, depth=2, norm="instance")
  flat, rng = models.flatten(network), np.random.default_rng(0)
  start = flat.ravel(network.init(jax.random.key(1)).params)
  target = start + 0.02 * jax.random.normal(jax.random.key(2), start.shape)
  images, labels = rng.normal(size=(4, *shape)), rng.normal(size=(4, 3))
  initial = SyntheticSet(jnp.float32(images), jnp.float32(labels), jnp.float32(0.05))
  segment, states = Segment(start, target), {}
  for route in ("full", "mixed"):
    method = trajectory_method(
      flat.apply, initial, augment=dsa("color_scale"),
      unroll=functools.partial(bilevel.unroll, gradient=route), **(OPTIONS | {"inner_steps": 3}),
    )  # fmt: skip
    states[route], metrics = jax.jit(method.step)(KEY, method.init(KEY, segment), segment)
    assert np.isfinite(metrics["match/loss"])
  before = {"images": images, "labels": labels, "lr": 0.05}
  for name, want in params(states["full"]).items():
    gradient = np.linalg.norm(want - before[name])
    assert gradient > 0
    assert np.linalg.norm(params(states["mixed"])[name] - want) <= 1e-5 * max(gradient, 1e-2), name
