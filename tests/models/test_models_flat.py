"""Networks over one flat vector, and several at once, against the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import models

SHAPE = (4, 4, 1)


def _network(name="mlp", **options):
  return models.build(name, num_classes=3, image_shape=SHAPE, **(options or {"widths": (5,)}))


def _images(n=2):
  return jnp.asarray(np.random.default_rng(0).normal(size=(n, *SHAPE)), jnp.float32)


def test_stacked_networks_run_under_vmap():
  network = _network("convnet", width=2, depth=1)
  stacked = jax.vmap(network.init)(jax.random.split(jax.random.key(1), 2))
  x = _images()
  together = jax.vmap(lambda p: network.apply(p, x).logits)(stacked.params)
  for i in range(2):
    alone = network.apply(jax.tree.map(lambda leaf, i=i: leaf[i], stacked.params), x).logits
    np.testing.assert_allclose(together[i], alone, atol=1e-5)


def test_flat_apply_is_tree_apply():
  network = _network()
  params = network.init(jax.random.key(2)).params
  flat = models.flatten(network, params)
  theta = flat.ravel(params)
  assert flat.size == theta.size == 16 * 5 + 5 + 5 * 3 + 3
  assert flat.shapes == ((5,), (16, 5), (3,), (5, 3))  # biases before kernels, as below
  x = _images()
  one, other = flat.apply(theta, x), network.apply(params, x)
  jax.tree.map(np.testing.assert_array_equal, one, other)
  jax.tree.map(np.testing.assert_array_equal, flat.unravel(theta), params)
  gradient = jax.grad(lambda t: jnp.sum(jnp.square(flat.apply(t, x).logits)))(theta)
  tree = jax.grad(lambda p: jnp.sum(jnp.square(network.apply(p, x).logits)))(params)
  np.testing.assert_allclose(gradient, flat.ravel(tree), rtol=1e-6)


def test_flat_order_is_layers_sorted_by_name():
  network = _network()
  params = network.init(jax.random.key(2)).params
  expected = np.concatenate(
    [np.ravel(params[layer][name]) for layer in ("dense0", "head") for name in ("bias", "kernel")]
  )
  np.testing.assert_array_equal(models.flatten(network).ravel(params), expected)


def test_flat_network_takes_variables_and_passes_keywords_on():
  network = _network("convnet_bn", width=2, depth=1)
  variables = network.init(jax.random.key(0))
  flat = models.flatten(network, variables)
  assert flat.size == models.flatten(network).size == sum(leaf.size for leaf in jax.tree.leaves(variables.params))
  outputs = flat.apply(
    flat.ravel(variables.params), _images(), train=True, stats=variables.stats, sites={"embedding": jnp.zeros_like}
  )
  assert not np.any(np.asarray(outputs.embedding))
  assert np.any(np.asarray(outputs.stats["norm0"]["mean"]))
