"""Recovery of images against NumPy in float64 (loss, Adam, schedule, blocks), and from a network trained on digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numeric_gradient
from recovery_problem import (
  CLASSES,
  IMAGES,
  LABELS,
  RANGE,
  RNG,
  SHAPE,
  TEACHER,
  apply,
  build,
  on_device,
  reference_loss,
)
from sklearn.datasets import load_digits

from jdistill import augment, losses, models, schema
from jdistill.base import Variables
from jdistill.methods.dataset import sre2l as module
from jdistill.methods.dataset.sre2l import sre2l, sre2l_blocks
from jdistill.synthetic import SyntheticSet

KEY = jax.random.key(5)


def test_two_blocks_equal_adam_by_hand(x64):
  """Blocks one after another, each with an Adam and a half cosine of its own, clipped after every update."""
  iterations = 4
  method, teacher = build(np.float64, iterations=iterations, block_size=3, r_bn=0.3, image_lr=0.2)
  state, step = method.init(KEY, teacher), jax.jit(method.step)
  want, clipped = IMAGES.copy(), False
  for rows in ([0, 2, 4], [1, 3, 5]):  # each block has one image of every class
    m, v = np.zeros((3, *SHAPE)), np.zeros((3, *SHAPE))
    for i in range(iterations):
      state, metrics = step(KEY, state, teacher)
      loss = lambda x, rows=rows: reference_loss(x, LABELS[rows], 0.3)  # noqa: E731
      np.testing.assert_allclose(metrics["recover/loss"], loss(want[rows]), rtol=1e-7)
      grad = numeric_gradient(loss, want[rows])
      m, v = 0.5 * m + 0.5 * grad, 0.9 * v + 0.1 * grad**2
      rate = 0.2 * 0.5 * (1 + np.cos(np.pi * i / iterations))
      np.testing.assert_allclose(metrics["recover/lr"], rate, rtol=1e-6)
      moved = want[rows] - rate * (m / (1 - 0.5 ** (i + 1))) / (np.sqrt(v / (1 - 0.9 ** (i + 1))) + 1e-8)
      clipped |= bool((moved > 1.2).any() or (moved < -1.5).any())
      want[rows] = np.clip(moved, -1.5, 1.2)
      np.testing.assert_allclose(method.result(state).images, want, rtol=1e-5, atol=1e-6)
  assert clipped
  result = method.result(state)
  np.testing.assert_array_equal(result.labels, LABELS)
  assert result.lr == 0.1
  # what comes after the last block changes nothing
  assert method.steps == 8
  later, _ = step(KEY, state, teacher)
  np.testing.assert_array_equal(method.result(later).images, result.images)


def test_blocks_go_through_the_classes():
  np.testing.assert_array_equal(sre2l_blocks(np.repeat(np.arange(4), 2), 4), [[0, 2, 4, 6], [1, 3, 5, 7]])
  np.testing.assert_array_equal(sre2l_blocks(np.repeat(np.arange(4), 2), 3), [[0, 2, 4], [6, 1, 3], [5, 7, 0]])
  np.testing.assert_array_equal(sre2l_blocks(np.array([1, 0, 1]), 100), [[1, 0, 2]])
  np.testing.assert_array_equal(sre2l_blocks(np.eye(3)[[0, 0, 2]], 2), [[0, 2], [1, 0]])
  assert [len(sre2l_blocks(np.zeros(8, int), b)) for b in (1, 3, 4, 8, 100)] == [8, 3, 2, 1, 1]


def test_a_block_that_is_filled_up_leaves_finished_images_alone():
  method, teacher = build(iterations=2, block_size=4)
  state, step = method.init(KEY, teacher), jax.jit(method.step)
  results = []
  for _ in range(4):
    state, _ = step(KEY, state, teacher)
    results.append(np.asarray(method.result(state).images))
  first, second = [0, 2, 4, 1], [3, 5]
  assert (results[1] != np.float32(IMAGES))[first].any(axis=(1, 2, 3)).all()
  np.testing.assert_array_equal(results[1][second], np.float32(IMAGES)[second])
  np.testing.assert_array_equal(results[3][first], results[1][first])
  assert (results[3] != results[1])[second].any(axis=(1, 2, 3)).all()


def test_soft_labels_and_a_draw_per_step():
  logits = jnp.float32(RNG.normal(size=(6, CLASSES)))
  initial = SyntheticSet(jnp.float32(IMAGES), logits, jnp.float32(0.1))
  method = sre2l(apply, initial, RANGE, r_bn=0.0, jitter=1)
  teacher = on_device(np.float32)
  state, step = method.init(KEY, teacher), jax.jit(method.step)
  (_, one), (_, same), *others = (step(jax.random.key(k), state, teacher) for k in (0, 0, 1, 2, 3))
  assert one["recover/loss"] == same["recover/loss"] == one["recover/cross_entropy"]
  assert any(one["recover/loss"] != other["recover/loss"] for _, other in others)
  record = augment.roll_jitter(1).sample(jax.random.split(jax.random.key(0), 1)[0], (6, *SHAPE))
  order = sre2l_blocks(np.asarray(logits), 100)[0]
  rolled = np.roll(np.float32(IMAGES)[order], tuple(map(int, record)), (1, 2)).reshape(6, -1)
  wanted = np.mean(losses.soft_cross_entropy(jnp.float32(rolled @ np.float32(TEACHER.params)), logits[order]))
  np.testing.assert_allclose(one["recover/loss"], wanted, rtol=1e-5)
  np.testing.assert_array_equal(method.result(state).labels, logits)


def test_augmentation_of_recovery_is_one_draw_for_the_batch():
  whole = module.recovery_augmentation(crop_scale=0.5, flip_images=True, jitter=2)
  x = jnp.tile(jax.random.normal(KEY, (1, 6, 6, 1)), (4, 1, 1, 1))
  seen = [np.asarray(whole.apply(whole.sample(jax.random.key(k), x.shape), x)) for k in range(2)]
  assert all((y == y[:1]).all() for y in seen) and np.abs(seen[0] - seen[1]).max() > 0.1


def test_mistakes_and_options():
  teacher = on_device(np.float32)
  without = lambda params, x, **own: apply(params, x, **own)._replace(norm_inputs={})  # noqa: E731
  initial = SyntheticSet(jnp.float32(IMAGES), jnp.asarray(LABELS), jnp.float32(0.1))
  with pytest.raises(ValueError, match=r"the teacher has no batch norm.*convnet_bn"):
    sre2l(without, initial, RANGE).init(KEY, teacher)
  fields = schema.fields(sre2l)
  assert fields["r_bn"].low == 0 and fields["block_size"].low == 2
  with pytest.raises(ValueError, match=r"method.r_bn=-1.0: must be at least 0"):
    build(r_bn=-1.0)


def test_the_state_owns_its_arrays():
  initial = SyntheticSet(jnp.float32(IMAGES), jnp.asarray(LABELS), jnp.float32(0.1))
  method, teacher = sre2l(apply, initial, RANGE), on_device(np.float32)
  jax.tree.map(lambda leaf: leaf.delete(), method.init(KEY, teacher))
  np.testing.assert_array_equal(initial.images, np.float32(IMAGES))
  np.testing.assert_array_equal(initial.labels, LABELS)


@pytest.mark.slow
def test_recovery_from_a_network_trained_on_digits():
  """Cross entropy and statistics fall, pixels stay in range, and the teacher recognises what it recovered."""
  digits = load_digits()
  x = jnp.float32((digits.images[:400] / 16 - 0.3) / 0.37).reshape(-1, 8, 8, 1)
  y = jnp.asarray(digits.target[:400], jnp.int32)
  network = models.build("convnet_bn", num_classes=10, image_shape=(8, 8, 1), width=8, depth=2)

  @jax.jit
  def train_step(variables):
    def loss(params):
      out = network.apply(params, x, train=True, stats=variables.stats)
      return jnp.mean(losses.cross_entropy(out.logits, y)), out.stats

    grads, stats = jax.grad(loss, has_aux=True)(variables.params)
    return Variables(jax.tree.map(lambda p, g: p - 0.5 * g, variables.params, grads), stats)

  teacher = network.init(KEY)
  for _ in range(60):
    teacher = train_step(teacher)
  predict = jax.jit(lambda x: network.apply(teacher.params, x, stats=teacher.stats).logits.argmax(-1))
  assert float(jnp.mean(predict(x) == y)) > 0.9

  labels = jnp.repeat(jnp.arange(10, dtype=jnp.int32), 2)
  initial = SyntheticSet(jnp.zeros((20, 8, 8, 1)), labels, jnp.float32(0.1))
  bounds = (np.float32([-0.3 / 0.37]), np.float32([0.7 / 0.37]))
  method = sre2l(network.apply, initial, bounds, iterations=60, block_size=10, image_lr=0.1, r_bn=0.1, jitter=1)
  state, step, seen = method.init(KEY, teacher), jax.jit(method.step), []
  for number in range(120):
    state, metrics = step(jax.random.fold_in(KEY, number), state, teacher)
    seen.append({name: float(value) for name, value in metrics.items()})
  for block in (seen[:60], seen[60:]):
    for name in ("recover/cross_entropy", "recover/bn"):
      assert block[-1][name] < 0.5 * block[0][name], name
  images = method.result(state).images
  assert images.min() >= bounds[0][0] and images.max() <= bounds[1][0]
  assert (np.asarray(predict(images)) == np.asarray(labels)).all()
