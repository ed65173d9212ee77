"""Losses in training steps of other people's making: bare functions, Flax NNX, Equinox. None of them is wrapped."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jdistill import losses

RNG = np.random.default_rng(0)
X, Y = jnp.float32(RNG.normal(size=(16, 6))), jnp.int32(RNG.integers(0, 3, 16))
TEACHER_LOGITS = 2 * jnp.float32(RNG.normal(size=(16, 3)))
TEACHER_FEATURES = jnp.float32(RNG.normal(size=(16, 8)))
STEPS = 8


def kd(logits, features):
  """KD with labels, per example."""
  return jnp.mean(losses.kd_loss(logits, TEACHER_LOGITS, Y, temperature=4.0))


def feature(logits, features):
  """Labels, RKD between embeddings of different widths, and a hint through the first eight features."""
  hint = losses.hint_loss(features[:, :8], TEACHER_FEATURES)
  return jnp.mean(losses.cross_entropy(logits, Y) + losses.rkd_distance_loss(features, TEACHER_FEATURES) + hint)


both = pytest.mark.parametrize("loss", [kd, feature])


def check(step, state):
  """Some steps `state -> (state, loss, gradients)`: the loss falls and no gradient is lost or broken."""
  values = []
  for _ in range(STEPS):
    state, value, grads = step(state)
    values.append(float(value))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(grads)]
    assert leaves and all(np.isfinite(leaf).all() for leaf in leaves)
  assert values[-1] < 0.95 * values[0], values
  assert any(np.any(leaf) for leaf in leaves)


@both
def test_bare_functions(loss):
  a, b = jax.random.split(jax.random.key(0))
  params = {"a": jax.random.normal(a, (6, 12)) / 3, "b": jax.random.normal(b, (12, 3)) / 3}

  def objective(params):
    features = jnp.tanh(X @ params["a"])
    return loss(features @ params["b"], features)

  @jax.jit
  def step(params):
    value, grads = jax.value_and_grad(objective)(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value, grads

  check(step, params)


@both
def test_flax_nnx(loss):
  nnx = pytest.importorskip("flax.nnx", reason="needs Flax")

  class Net(nnx.Module):
    def __init__(self, rngs):
      self.first, self.head = nnx.Linear(6, 12, rngs=rngs), nnx.Linear(12, 3, rngs=rngs)

    def __call__(self, x):
      features = nnx.tanh(self.first(x))
      return self.head(features), features

  net = Net(nnx.Rngs(0))
  optimizer = nnx.Optimizer(net, optax.sgd(0.1), wrt=nnx.Param)

  @nnx.jit
  def update(net, optimizer):
    value, grads = nnx.value_and_grad(lambda net: loss(*net(X)))(net)
    optimizer.update(net, grads)
    return value, grads

  check(lambda state: (state, *update(net, optimizer)), None)


@both
def test_equinox(loss):
  eqx = pytest.importorskip("equinox", reason="equinox is an optional dependency")

  class Net(eqx.Module):
    first: eqx.nn.Linear
    head: eqx.nn.Linear

    def __init__(self, key):
      a, b = jax.random.split(key)
      self.first, self.head = eqx.nn.Linear(6, 12, key=a), eqx.nn.Linear(12, 3, key=b)

    def __call__(self, x):
      features = jnp.tanh(self.first(x))
      return self.head(features), features

  @eqx.filter_jit
  def step(net):
    value, grads = eqx.filter_value_and_grad(lambda net: loss(*jax.vmap(net)(X)))(net)
    return eqx.apply_updates(net, jax.tree.map(lambda g: -0.1 * g, grads)), value, grads

  check(step, Net(jax.random.key(0)))
