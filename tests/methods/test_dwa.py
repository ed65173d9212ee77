"""DWA against NumPy in float64: ascents of the teacher's weights, the random control, the loss, blocks, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numeric_gradient
from recovery_problem import IMAGES, LABELS, RANGE, TEACHER, apply, build, log_probs, on_device, reference_loss

from jdistill import augment, catalog, losses, models, schema
from jdistill.base import UserError, Variables
from jdistill.methods.dataset import sre2l as module
from jdistill.ops.ascent import ascend, global_norm, random_step
from jdistill.synthetic import SyntheticSet

KEY = jax.random.key(3)
INSIDE = IMAGES.clip(-1.5, 1.2)
BLOCKS = ([0, 2, 4], [1, 3, 5])  # each has one image of every class


def ascended(x, y, rho, steps):
  """The linear teacher's weights after ascents of the cross entropy, whose gradient is `x^T (p - onehot) / n`."""
  weights, pixels = TEACHER.params.copy(), x.reshape(len(x), -1)
  for _ in range(steps):
    gradient = pixels.T @ (np.exp(log_probs(weights, x)) - np.eye(3)[y]) / len(y)
    weights += rho / steps * gradient / np.sqrt((gradient**2).sum())
  return weights


def test_ascents_of_a_linear_teacher(x64):
  teacher = on_device(np.float64)
  x, y = INSIDE[BLOCKS[0]], LABELS[BLOCKS[0]]
  for rho, steps in ((0.5, 1), (0.5, 7), (2.0, 12)):
    adjust = module.weight_adjustment(apply, "gradient", steps=steps, rho=rho)
    np.testing.assert_allclose(
      adjust(KEY, teacher, jnp.asarray(x), jnp.asarray(y)), ascended(x, y, rho, steps), rtol=1e-10
    )
  soft = adjust(KEY, teacher, jnp.asarray(x), 50.0 * jnp.eye(3)[y])  # label logits that are as good as one-hot
  np.testing.assert_allclose(soft, ascended(x, y, rho, steps), rtol=1e-10)


def test_a_loss_that_is_linear_gives_a_straight_way(x64):
  """Its gradient is the same everywhere, so any number of steps ends at `rho` times the unit gradient."""
  params = {"a": jnp.ones((2, 3)), "b": jnp.zeros(2)}
  gradient = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.asarray([-3.0, 4.0])}
  norm = np.sqrt(55 + 25)
  for steps in (1, 5):
    found = ascend(lambda _: gradient, params, rho=0.3, steps=steps)
    jax.tree.map(lambda f, p, g: np.testing.assert_allclose(f, p + 0.3 * g / norm, rtol=1e-12), found, params, gradient)


def test_small_and_vanishing_gradients():
  """Squares of 1e-30 are 0 in float32."""
  params, gradient = {"w": jnp.ones(4)}, jnp.float32([3e-30, 0, -4e-30, 0])
  found = ascend(lambda _: {"w": gradient}, params, rho=0.5, steps=2)
  np.testing.assert_allclose(found["w"], [1.3, 1, 0.6, 1], rtol=1e-6)
  np.testing.assert_array_equal(ascend(lambda p: {"w": 0 * p["w"]}, params, rho=0.5, steps=2)["w"], params["w"])


def test_a_random_direction_has_the_norm_rho(x64):
  params = {"a": jnp.ones((30, 40)), "b": jnp.zeros(7)}
  moved = [random_step(jax.random.key(k), params, rho=0.015) for k in (0, 0, 1)]
  away = [np.concatenate([np.ravel(m["a"] - params["a"]), m["b"]]) for m in moved]
  np.testing.assert_allclose([np.linalg.norm(one) for one in away], 0.015, rtol=1e-10)
  np.testing.assert_array_equal(away[0], away[1])
  # two directions of 1207 dimensions: their cosine has the deviation 0.03
  assert abs(away[0] @ away[2]) < 0.15 * 0.015**2
  np.testing.assert_allclose(global_norm(params), np.sqrt(1200), rtol=1e-12)


@pytest.mark.parametrize("variance, first", [(1.0, 10.0), (11.0, 10.0), (11.0, 3.0), (0.0, 1.0)])
def test_the_loss_weighs_variances_and_the_first_layer(x64, variance, first):
  x, y = INSIDE[:4], LABELS[:4]
  weights = {"r_bn": 0.3, "variance_weight": variance, "first_layer_multiplier": first}
  found, parts = module.recover_loss(apply, on_device(np.float64), jnp.asarray(x), jnp.asarray(y), **weights)
  np.testing.assert_allclose(found, reference_loss(x, y, 0.3, variance=variance, first=first), rtol=1e-10)
  np.testing.assert_allclose(parts["recover/cross_entropy"], reference_loss(x, y, 0.0), rtol=1e-10)


def test_every_block_is_recovered_from_a_teacher_of_its_own(x64):
  """Three ascents from the trained weights at its first step; then Adam on the images, the weights held."""
  iterations, rho = 3, 0.4
  options = {"direction": "gradient", "ascent_steps": 3, "rho": rho, "variance_weight": 11.0, "r_bn": 0.1}
  method, teacher = build(np.float64, INSIDE, iterations=iterations, block_size=3, image_lr=0.1, **options)
  state, step, want = method.init(KEY, teacher), jax.jit(method.step), INSIDE.copy()
  for rows in BLOCKS:
    weights = ascended(want[rows], LABELS[rows], rho, 3)
    m, v = np.zeros((3, 2, 2, 1)), np.zeros((3, 2, 2, 1))
    for i in range(iterations):
      state, metrics = step(KEY, state, teacher)
      loss = lambda x, w=weights, y=LABELS[rows]: reference_loss(x, y, 0.1, variance=11.0, weights=w)  # noqa: E731
      np.testing.assert_allclose(metrics["recover/loss"], loss(want[rows]), rtol=1e-6)
      np.testing.assert_allclose(state.carried, weights, rtol=1e-10)
      away = np.linalg.norm(weights - TEACHER.params)
      np.testing.assert_allclose(metrics["adjust/norm"], away, rtol=1e-8)
      assert 0.5 * rho < away <= rho
      grad = numeric_gradient(loss, want[rows])
      m, v = 0.5 * m + 0.5 * grad, 0.9 * v + 0.1 * grad**2
      rate = 0.1 * 0.5 * (1 + np.cos(np.pi * i / iterations))
      direction = m / (1 - 0.5 ** (i + 1)) / (np.sqrt(v / (1 - 0.9 ** (i + 1))) + 1e-8)
      want[rows] = np.clip(want[rows] - rate * direction, -1.5, 1.2)
      np.testing.assert_allclose(method.result(state).images, want, rtol=1e-5, atol=1e-6)


def test_the_ascents_see_what_the_first_step_sees(x64):
  method, teacher = build(np.float64, INSIDE, block_size=3, direction="gradient", ascent_steps=2, rho=0.3, jitter=1)
  state, drawn = method.init(KEY, teacher), set()
  roll = augment.roll_jitter(1)
  for number in range(4):
    key = jax.random.key(number)
    shift = tuple(map(int, roll.sample(jax.random.split(key, 1)[0], (3, 2, 2, 1))))
    seen = np.roll(INSIDE[BLOCKS[0]], shift, (1, 2))
    found, _ = jax.jit(method.step)(key, state, teacher)
    np.testing.assert_allclose(found.carried, ascended(seen, LABELS[BLOCKS[0]], 0.3, 2), rtol=1e-10)
    drawn.add(shift)
  assert len(drawn) > 1


def test_the_random_control_moves_every_block_by_rho_anew():
  method, teacher = build(images=INSIDE, iterations=2, block_size=3, direction="random", rho=0.5)
  state, step, weights = method.init(KEY, teacher), jax.jit(method.step), []
  for number in range(4):
    state, metrics = step(jax.random.fold_in(KEY, number), state, teacher)
    weights.append(np.asarray(state.carried))
    np.testing.assert_allclose(metrics["adjust/norm"], 0.5, rtol=1e-5)
  assert (weights[0] == weights[1]).all() and (weights[2] == weights[3]).all() and (weights[1] != weights[2]).any()


def test_no_direction_no_step_and_no_length_are_the_same():
  def recovered(**options):
    method, teacher = build(images=INSIDE, iterations=2, block_size=3, **options)
    state, metrics = jax.jit(method.step)(KEY, method.init(KEY, teacher), teacher)
    assert state.carried == () and "adjust/norm" not in metrics
    return np.asarray(method.result(state).images)

  plain = recovered(direction="none")
  for options in ({"direction": "gradient", "ascent_steps": 0}, {"direction": "gradient", "rho": 0.0}):
    np.testing.assert_array_equal(recovered(**options), plain)
  np.testing.assert_array_equal(recovered(direction="random", rho=0.0), plain)


def test_the_state_owns_the_weights_that_move():
  method, teacher = build(images=INSIDE, direction="gradient")
  jax.tree.map(lambda leaf: leaf.delete(), method.init(KEY, teacher))
  np.testing.assert_array_equal(teacher.params, np.float32(TEACHER.params))


def test_published_values_are_the_rows_own():
  fields = {name: field.default for name, field in catalog.row("dwa").fields().items()}
  assert (fields["direction"], fields["ascent_steps"], fields["rho"]) == ("gradient", 12, 0.015)
  assert (fields["variance_weight"], fields["r_bn"], fields["initial"]) == (11.0, 0.01, "real")
  plain = {name: field.default for name, field in catalog.row("sre2l").fields().items()}
  assert (plain["direction"], plain["variance_weight"], plain["initial"]) == ("none", 1.0, "noise")


def test_mistakes():
  with pytest.raises(ValueError, match=r"channel 0 of its images goes from -\S+ to \S+, and pixel_range from -1.5 to"):
    build(images=3 * IMAGES, direction="gradient")
  build(images=3 * IMAGES)  # noise may lie outside
  for options, told in (
    ({"rho": -0.1}, r"method\.rho=-0\.1: must be at least 0"),
    ({"block_size": 1}, r"method\.block_size=1: must be at least 2"),
    ({"ascent_steps": -1}, r"method\.ascent_steps=-1: must be at least 0"),
    ({"variance_weight": -1.0}, r"method\.variance_weight=-1\.0: must be at least 0"),
    ({"direction": "up"}, r"method\.direction='up': unknown; choose one of"),
  ):
    with pytest.raises(UserError, match=told):
      build(images=INSIDE, **options)
  check = module.teacher_stream().check
  with pytest.raises(UserError, match=r"^method\.initial='noise': .*set method\.initial='real'"):
    check({"direction": "gradient", "initial": "noise"}, None)
  check({"direction": "random", "initial": "noise"}, None)
  assert schema.fields(module.sre2l)["block_size"].low == 2


def test_a_teacher_without_a_gradient_is_told():
  sure = Variables(1e4 * jnp.eye(4, 3), on_device(np.float32).stats)
  images = np.zeros((6, 2, 2, 1))
  images.reshape(6, 4)[np.arange(6), LABELS] = 1
  method, _ = build(images=images, direction="gradient", iterations=3)
  state, metrics = jax.jit(method.step)(KEY, method.init(KEY, sure), sure)
  np.testing.assert_array_equal(state.carried, sure.params)
  assert metrics["adjust/norm"] == 0 and np.isfinite(metrics["recover/loss"])
  assert "set method.direction='none'" in method.stuck([{"adjust/norm": float(metrics["adjust/norm"])}] * 3)
  assert method.stuck([{"adjust/norm": 0.1}] * 3) == "" == build()[0].stuck([{}] * 3)


@pytest.mark.slow
def test_a_convolutional_teacher_loses_sight_of_the_block():
  """Its loss on the block's images rises by about `rho` times its gradient; statistics and trained weights stay."""
  network = models.build("convnet_bn", num_classes=3, image_shape=(4, 4, 1), width=4, depth=1)
  teacher = network.init(jax.random.key(0))
  x = jnp.float32(np.random.default_rng(1).uniform(-1, 1, (6, 4, 4, 1)))
  y = jnp.asarray(LABELS)
  initial = SyntheticSet(x, y, jnp.float32(0.1))
  method = module.sre2l(network.apply, initial, (RANGE[0], RANGE[1]), jitter=0, direction="gradient", rho=1e-2)
  state, metrics = jax.jit(method.step)(KEY, method.init(KEY, teacher), teacher)

  def loss(params):
    return jnp.mean(losses.cross_entropy(network.apply(params, x, stats=teacher.stats).logits, y))

  before, gradient = jax.value_and_grad(loss)(teacher.params)
  rise = float(loss(jax.tree.map(jnp.asarray, state.carried)) - before)
  # float32 and the curvature: the first order holds within a few percent over so short a way
  np.testing.assert_allclose(rise, 1e-2 * float(global_norm(gradient)), rtol=0.1)
  np.testing.assert_allclose(metrics["adjust/norm"], 1e-2, rtol=0.02)
