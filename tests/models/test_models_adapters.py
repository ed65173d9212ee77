"""One loss and gradient through each adapter, their statistics and random numbers, and their messages."""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jdistill import models
from jdistill.base import Outputs, UserError, Variables

SHAPE = (3, 3, 1)


def _images(n=4):
  return jnp.asarray(np.random.default_rng(0).normal(size=(n, *SHAPE)), jnp.float32)


def _loss_and_gradient(network, variables, **kwargs):
  labels = jnp.array([0, 1, 0, 1])

  def loss(params):
    logits = network.apply(params, _images(), stats=variables.stats, **kwargs).logits
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(4), labels])

  return jax.jit(jax.value_and_grad(loss))(variables.params)


def _assert_descends(network, **kwargs):
  """One small step along the gradient lowers the loss by what the gradient's length says."""
  variables = network.init(jax.random.key(0))
  value, gradient = _loss_and_gradient(network, variables, **kwargs)
  assert jax.tree.structure(gradient) == jax.tree.structure(variables.params)
  length = sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(gradient))
  assert length > 1e-4
  moved = variables._replace(params=jax.tree.map(lambda p, g: p - 1e-2 * g, variables.params, gradient))
  lower, _ = _loss_and_gradient(network, moved, **kwargs)
  np.testing.assert_allclose(value - lower, 1e-2 * length, rtol=0.1)


class LinenNet(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(6)(x.reshape(x.shape[0], -1))
    x = nn.BatchNorm(use_running_average=not train)(x)
    return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


class NnxNet(nnx.Module):
  def __init__(self, rngs):
    self.layers = nnx.List([nnx.Linear(9, 6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)])
    self.norm = nnx.BatchNorm(6, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, x):
    return self.layers[1](self.dropout(self.norm(self.layers[0](x.reshape(x.shape[0], -1)))))


class PlainNnxNet(nnx.Module):
  def __init__(self, rngs):
    self.linear = nnx.Linear(9, 2, rngs=rngs)

  def __call__(self, x):
    embedding = x.reshape(x.shape[0], -1)
    return Outputs(self.linear(embedding), embedding)


def _function_network():
  def init(key):
    return {"w": jax.random.normal(key, (9, 2)) / 3}

  return models.from_function(init, lambda params, x: x.reshape(x.shape[0], -1) @ params["w"])


@pytest.mark.parametrize(
  "make",
  [
    _function_network,
    lambda: models.from_linen(LinenNet(), jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)),
    lambda: models.from_nnx(NnxNet),
    lambda: models.from_nnx(PlainNnxNet),
  ],
  ids=["function", "linen", "nnx", "nnx_plain"],
)
def test_loss_and_gradient(make):
  network = make()
  _assert_descends(network)
  variables = network.init(jax.random.key(0))
  outputs = network.apply(variables.params, _images(), stats=variables.stats)
  assert isinstance(outputs, Outputs) and outputs.logits.shape == (4, 2) and outputs.embedding.shape[0] == 4
  with pytest.raises(UserError, match="sites: block0 not in this network; available are none"):
    network.apply(variables.params, _images(), stats=variables.stats, sites={"block0": jnp.zeros_like})


@pytest.mark.parametrize(
  "make",
  [
    lambda: models.from_linen(LinenNet(), jnp.zeros((1, *SHAPE))),
    lambda: models.from_nnx(NnxNet),
  ],
  ids=["linen", "nnx"],
)
def test_statistics_and_dropout(make):
  network = make()
  variables = network.init(jax.random.key(0))
  x = _images()
  with pytest.raises(UserError, match="stats: none given"):
    network.apply(variables.params, x)
  still = network.apply(variables.params, x, stats=variables.stats)
  jax.tree.map(np.testing.assert_array_equal, still.stats, variables.stats)

  def train(seed):
    return network.apply(variables.params, x, train=True, stats=variables.stats, rngs={"dropout": jax.random.key(seed)})

  one, again, other = train(1), train(1), train(2)
  np.testing.assert_array_equal(one.logits, again.logits)
  assert np.any(np.asarray(one.logits != other.logits))
  assert jax.tree.structure(one.stats) == jax.tree.structure(variables.stats)
  assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (one.stats, variables.stats)), strict=True))


def test_linen_params_are_the_modules_own():
  module = LinenNet()
  network = models.from_linen(module, _images())
  variables = network.init(jax.random.key(4))
  own = module.init(jax.random.key(4), _images())
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), variables.params, own["params"])
  np.testing.assert_allclose(
    network.apply(variables.params, _images(), stats=variables.stats).logits, module.apply(own, _images()), rtol=1e-5
  )
  assert set(variables.stats) == {"batch_stats"}


def test_linen_flags_that_mean_eval_are_turned_round():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic):
      return nn.Dropout(0.5, deterministic=deterministic)(nn.Dense(2)(x.reshape(x.shape[0], -1)))

  network = models.from_linen(Net(), _images())
  variables = network.init(jax.random.key(0))
  still = network.apply(variables.params, _images()).logits
  dropped = network.apply(variables.params, _images(), train=True, rngs={"dropout": jax.random.key(1)}).logits
  assert np.all(np.asarray(still)) and not np.all(np.asarray(dropped))


def test_nnx_params_are_the_modules_own_in_plain_dicts():
  module = NnxNet(nnx.Rngs(jax.random.key(4)))
  network = models.from_nnx(module)
  variables = network.init(jax.random.key(0))
  assert set(variables.params) == {"layers", "norm"} and set(variables.params["layers"]) == {"0", "1"}
  np.testing.assert_array_equal(variables.params["layers"]["1"]["kernel"], module.layers[1].kernel[...])
  jax.tree.map(np.testing.assert_array_equal, variables, models.from_nnx(NnxNet).init(jax.random.key(4)))
  module.eval()
  np.testing.assert_allclose(
    network.apply(variables.params, _images(), stats=variables.stats).logits, module(_images()), rtol=1e-6
  )
  with pytest.raises(UserError, match="rngs: no 'dropout' key"):
    network.apply(variables.params, _images(), train=True, stats=variables.stats)


def test_many_nnx_networks_at_once():
  network = models.from_nnx(PlainNnxNet)
  stacked = jax.vmap(network.init)(jax.random.split(jax.random.key(0), 3))
  logits = jax.vmap(lambda p: network.apply(p, _images()).logits)(stacked.params)
  assert logits.shape == (3, 4, 2) and np.any(np.asarray(logits[0] != logits[1]))


def test_functions_get_the_keywords_they_name():
  seen = {}

  def apply(params, x, *, train, sites=None):
    seen.update(train=train, sites=sites)
    return Outputs(x @ params, x, stats={"n": jnp.ones(())})

  network = models.from_function(lambda key: Variables(jnp.eye(2), {"n": jnp.zeros(())}), apply)
  variables = network.init(jax.random.key(0))
  outputs = network.apply(variables.params, jnp.ones((1, 2)), train=True, sites={"a": jnp.zeros_like})
  assert seen["train"] is True and set(seen["sites"]) == {"a"}
  assert variables.stats["n"] == 0 and outputs.stats["n"] == 1
  plain = _function_network()
  kept = plain.apply(plain.init(jax.random.key(0)).params, _images(), stats={"n": 3})
  assert kept.stats == {"n": 3} and kept.embedding is kept.logits


def test_other_results_are_refused():
  network = models.from_function(lambda key: {}, lambda params, x: (x, x))
  with pytest.raises(UserError, match="returned tuple; return logits or"):
    network.apply({}, jnp.ones((1, 2)))


def test_missing_equinox_is_explained(monkeypatch):
  monkeypatch.setitem(sys.modules, "equinox", None)
  with pytest.raises(UserError, match="pip install equinox"):
    models.from_equinox(object())


def test_equinox_loss_and_gradient():
  eqx = pytest.importorskip("equinox", reason="equinox is an optional dependency")

  class Net(eqx.Module):
    conv: eqx.nn.Conv2d
    head: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, key):
      self.conv = eqx.nn.Conv2d(1, 2, 3, key=key)
      self.head = eqx.nn.Linear(2, 2, key=key)
      self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, key=None):
      return self.dropout(self.head(self.conv(x).reshape(-1)), key=key)

  network = models.from_equinox(Net)
  _assert_descends(network)
  variables = network.init(jax.random.key(0))
  assert set(variables.params) == {"conv", "head"} and variables.params["conv"]["weight"].shape == (2, 1, 3, 3)
  one, other = (
    network.apply(variables.params, _images(), train=True, rngs={"dropout": jax.random.key(seed)}).logits
    for seed in (1, 2)
  )
  assert np.any(np.asarray(one != other))
  own = Net(jax.random.key(0))
  expected = jax.vmap(eqx.nn.inference_mode(own))(jnp.moveaxis(_images(), -1, 1))
  np.testing.assert_allclose(models.from_equinox(own).apply(variables.params, _images()).logits, expected, rtol=1e-6)
