"""The pool of networks: who is trained, by which updates, and who is replaced when."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import models
from jdistill.methods.dataset.pool import mean_squared_error, model_pool
from jdistill.methods.optimizers import make_optimizer

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
M, CLASSES = 6, 3
X, Y = RNG.normal(size=(M, 2, 1, 1)), RNG.normal(size=(M, CLASSES))


def network(dtype=jnp.float32):
  init = lambda key: {"w": jax.random.normal(key, (2, CLASSES), dtype)}  # noqa: E731
  return models.from_function(init, lambda params, x: x.reshape(x.shape[0], 2) @ params["w"])


def build(size=3, reset_after=10, batch_size=None, dtype=jnp.float32, lr=0.1, net=None):
  return model_pool(
    net or network(dtype), make_optimizer("adam", lr), size=size, reset_after=reset_after, batch_size=batch_size
  )


def others(tree, number):
  return jax.tree.map(lambda leaf: np.delete(np.asarray(leaf), number, axis=0), tree)


def test_networks_differ_and_their_ages_are_spread():
  state = jax.jit(build(size=4, reset_after=10).init)(KEY)
  np.testing.assert_array_equal(state.age, [0, 2, 4, 6])
  weights = np.asarray(state.variables.params["w"])
  assert weights.shape == (4, 2, CLASSES) and len(np.unique(weights.round(5))) == weights.size


@pytest.mark.parametrize("steps", [1, 3])
def test_one_network_takes_adam_steps_on_the_mean_squared_error(steps, x64):
  pool = build(dtype=jnp.float64)
  state = pool.init(KEY)
  new = jax.jit(pool.step)(KEY, state, 1, jnp.asarray(X), jnp.asarray(Y), jnp.int32(steps))
  w, first, second, x = np.array(state.variables.params["w"][1]), 0.0, 0.0, X.reshape(M, 2)
  for count in range(1, steps + 1):
    gradient = x.T @ (x @ w - Y) / M
    first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
    w = w - 0.1 * first / (1 - 0.9**count) / (np.sqrt(second / (1 - 0.999**count)) + 1e-8)
  np.testing.assert_allclose(new.variables.params["w"][1], w, rtol=1e-6)
  np.testing.assert_array_equal(new.age - state.age, [0, steps, 0])
  jax.tree.map(np.testing.assert_array_equal, others(new, 1), others(state, 1))


def test_an_old_network_is_replaced_by_a_fresh_one():
  pool = build(size=2, reset_after=4)
  step, state = jax.jit(pool.step), pool.init(KEY)
  np.testing.assert_array_equal(state.age, [0, 2])
  x, y = jnp.float32(X), jnp.float32(Y)
  once = step(jax.random.key(1), state, 1, x, y)
  np.testing.assert_array_equal(once.age, [0, 3])
  twice = step(jax.random.key(2), once, 1, x, y)
  np.testing.assert_array_equal(twice.age, [0, 0])
  fresh = network().init(jax.random.split(jax.random.key(2))[0])
  np.testing.assert_array_equal(twice.variables.params["w"][1], fresh.params["w"])
  moments = jax.tree.leaves(jax.tree.map(lambda leaf: leaf[1], twice.opt_state))
  assert all((np.asarray(leaf) == 0).all() for leaf in moments)
  assert any((np.asarray(leaf)[1] != 0).any() for leaf in jax.tree.leaves(once.opt_state))
  jax.tree.map(np.testing.assert_array_equal, others(twice, 1), others(state, 1))
  # many updates at once count as many
  np.testing.assert_array_equal(step(KEY, state, 0, x, y, jnp.int32(9)).age, [0, 2])


def test_a_late_replacement_takes_the_place_of_an_update_and_sets_the_age_back():
  """The released KRR-ST replaces such a network at every later visit, as it forgets to."""
  losses = []

  def loss(logits, targets):
    losses.append(logits.shape)
    return mean_squared_error(logits, targets)

  pool = model_pool(network(), make_optimizer("sgd", 0.1), size=1, reset_after=2, loss=loss, late=True)
  step, state, x, y = jax.jit(pool.step), pool.init(KEY), jnp.float32(X), jnp.float32(Y)
  ages, weights = [], [np.asarray(state.variables.params["w"][0])]
  for number in range(5):
    state = step(jax.random.key(number), state, 0, x, y)
    ages.append(int(state.age[0]))
    weights.append(np.asarray(state.variables.params["w"][0]))
  assert ages == [1, 2, 0, 1, 2] and losses == [(M, CLASSES)]
  fresh = network().init(jax.random.split(jax.random.key(2))[0])
  np.testing.assert_array_equal(weights[3], fresh.params["w"])
  flat = X.reshape(M, 2)
  want = weights[0] - 0.1 * 2 * flat.T @ (flat @ weights[0] - Y) / (M * CLASSES)  # a mean over columns, too
  np.testing.assert_allclose(weights[1], want, rtol=1e-5)


def test_batches_are_drawn_without_repetition():
  """Of 6 rows with inputs of their own, an update on 2 moves the weights of these alone."""
  net = models.from_function(lambda key: {"w": jnp.zeros((M, 1))}, lambda params, x: x[:, :, 0, 0] @ params["w"])
  pool = build(net=net, batch_size=2)
  state, seen = pool.init(KEY), set()
  step = jax.jit(pool.step)
  for number in range(20):
    new = step(jax.random.key(number), state, 0, jnp.eye(M)[..., None, None], jnp.ones((M, 1)))
    moved = np.flatnonzero(new.variables.params["w"][0, :, 0])
    assert len(moved) == 2
    seen |= set(moved.tolist())
  assert seen == set(range(M))


def test_all_members_are_drawn_and_given_as_they_are():
  pool = build()
  state, numbers = pool.init(KEY), []
  draw = jax.jit(pool.draw)
  for seed in range(60):
    number, variables = draw(jax.random.key(seed), state)
    np.testing.assert_array_equal(variables.params["w"], state.variables.params["w"][int(number)])
    numbers.append(int(number))
  counts = np.bincount(numbers, minlength=3)
  assert counts.size == 3 and (np.abs(counts - 20) < 5 * np.sqrt(60 * 2 / 9)).all()


def test_no_gradient_reaches_the_set():
  pool = build()
  state = pool.init(KEY)
  moved = lambda x: jnp.sum(pool.step(KEY, state, 0, x, jnp.float32(Y)).variables.params["w"])  # noqa: E731
  np.testing.assert_array_equal(jax.jacfwd(moved)(jnp.float32(X)), 0)


@pytest.mark.slow
def test_running_statistics_are_kept():
  net = models.build("convnet_bn", num_classes=CLASSES, image_shape=(4, 4, 1), width=3, depth=1)
  pool = build(net=net, size=2)
  state, x = pool.init(KEY), jnp.float32(RNG.normal(size=(M, 4, 4, 1)))
  new = jax.jit(pool.step)(KEY, state, 1, x, jnp.float32(Y))
  one = jax.tree.map(lambda leaf: leaf[1], state.variables)
  want = net.apply(one.params, x, train=True, stats=one.stats).stats
  jax.tree.map(
    lambda got, stat: np.testing.assert_allclose(got[1], stat, rtol=1e-5, atol=1e-6), new.variables.stats, want
  )
