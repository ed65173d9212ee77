"""The classic networks of the zoo: parameter counts, shapes of all outputs, sizes they take, and what they compute."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import models
from jdistill.base import UserError, Variables

SMALL = {
  "convnet": {"width": 4},
  "convnet_bn": {"width": 4},
  "mlp": {"widths": (6, 5)},
  "lenet": {},
  "alexnet": {"width": 4},
  "vgg11": {"width": 4},
  "vgg11_bn": {"width": 4},
  "resnet10": {"width": 2},
  "resnet10_bn": {"width": 2},
  "resnet18": {"width": 2},
  "resnet18_bn": {"width": 2},
}
BATCH_NORMS = {"convnet_bn": 3, "vgg11_bn": 8, "resnet10_bn": 12, "resnet18_bn": 20}


def _count(name, image_shape, **options):
  network = models.build(name, num_classes=10, image_shape=image_shape, **options)
  return sum(count for *_, count in models.describe(network, image_shape))


def _images(shape, n=3, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(n, *shape)), jnp.float32)


def _shapes(network, image_shape, n=2, **kwargs):
  """Shapes of the outputs, nothing computed."""
  variables = jax.eval_shape(network.init, jax.random.key(0))
  x = jax.ShapeDtypeStruct((n, *image_shape), jnp.float32)
  return jax.eval_shape(lambda v, x: network.apply(v.params, x, stats=v.stats, **kwargs), variables, x)


@functools.cache
def _made(name, image_shape=(8, 8, 1), **options):
  network = models.build(name, num_classes=5, image_shape=image_shape, **(options or SMALL[name]))
  return network, network.init(jax.random.key(3))


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("convnet", 320_010),
    ("convnet_bn", 320_010),
    ("mlp", (3072 + 1) * 128 + (128 + 1) * 128 + (128 + 1) * 10),
    ("lenet", 62_006),
    ("alexnet", 1_872_202),
    ("vgg11", 9_231_114),
    ("vgg11_bn", 9_231_114),
    ("resnet18", 11_173_962),
    ("resnet18_bn", 11_173_962),
    ("resnet10", 4_903_242),
  ],
)
def test_parameter_counts_on_cifar(name, expected):
  assert _count(name, (32, 32, 3)) == expected


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("convnet", 320_010 - 2 * 9 * 128),  # maps of 32x32, so the same head
    ("lenet", 62_006 - 2 * 25 * 6),
    ("alexnet", 1_872_202 - 2 * 25 * 128),
    ("vgg11", 9_231_114 - 2 * 9 * 64),
    ("resnet18", 11_173_962 - 2 * 9 * 64),
  ],
)
def test_parameter_counts_on_mnist(name, expected):
  assert _count(name, (28, 28, 1)) == expected


@pytest.mark.parametrize(
  ("name", "image_shape", "sides", "features"),
  [
    ("convnet", (32, 32, 3), [32, 16, 8], 2048),
    ("convnet", (28, 28, 1), [32, 16, 8], 2048),
    ("lenet", (32, 32, 3), [28, 10], 84),
    ("lenet", (28, 28, 1), [28, 10], 84),
    ("alexnet", (32, 32, 3), [32, 16, 8, 8, 8], 192 * 16),
    ("vgg11", (32, 32, 3), [32, 16, 8, 8, 4, 4, 2, 2], 512),
    ("resnet18", (32, 32, 3), [32, 32, 16, 8, 4], 512),
  ],
)
def test_maps_have_the_published_sizes(name, image_shape, sides, features):
  outputs = _shapes(models.build(name, num_classes=10, image_shape=image_shape), image_shape)
  maps = [tap.shape for tap in outputs.taps.values() if len(tap.shape) == 4]
  assert [shape[1] for shape in maps] == [shape[2] for shape in maps] == sides
  assert outputs.embedding.shape == (2, features)


@pytest.mark.parametrize(
  ("image_shape", "depth", "expected"),
  [
    ((64, 64, 3), 4, 320_010 + 9 * 128 * 128 + 3 * 128),
    ((16, 16, 3), 3, 320_010 - 12 * 128 * 10),
  ],
)
def test_convnet_counts_at_other_depths(image_shape, depth, expected):
  assert _count("convnet", image_shape, depth=depth) == expected


@pytest.mark.parametrize("image_shape", [(8, 8, 1), (16, 16, 3), (28, 28, 1), (9, 13, 2), (64, 64, 3)])
@pytest.mark.parametrize("name", SMALL)
def test_shapes_at_many_sizes(name, image_shape):
  network = models.build(name, num_classes=7, image_shape=image_shape, **SMALL[name])
  outputs = _shapes(network, image_shape)
  assert outputs.logits.shape == (2, 7)
  assert outputs.embedding.ndim == 2 and outputs.embedding.shape[0] == 2
  assert len(outputs.norm_inputs) == BATCH_NORMS.get(name, 0)
  assert set(outputs.stats) == set(outputs.norm_inputs)
  assert list(outputs.taps) == [f"block{i}" for i in range(len(outputs.taps))] and outputs.taps


@pytest.mark.parametrize("name", SMALL)
def test_head_reads_the_embedding_and_images_reach_the_logits(name):
  network, variables = _made(name)
  x = _images((8, 8, 1))
  # Statistics of the batch: with fresh running ones the small nets' signal is tiny.
  outputs = jax.jit(lambda v, x: network.apply(v.params, x, train=True, stats=v.stats))(variables, x)
  head = jax.tree.map(np.float64, variables.params["head"])
  np.testing.assert_allclose(
    outputs.logits, np.asarray(outputs.embedding, np.float64) @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5
  )
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs))
  assert np.ptp(np.asarray(outputs.logits), axis=0).max() > 1e-5


def test_convnet_is_conv_norm_relu_pool():
  network, variables = _made("convnet", (6, 4, 2), width=3, depth=1)
  x = np.asarray(_images((6, 4, 2)), np.float64)
  p = jax.tree.map(np.float64, variables.params)
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  y = (
    sum(padded[:, i : i + 6, j : j + 4] @ p["conv0"]["kernel"][i, j] for i in range(3) for j in range(3))
    + p["conv0"]["bias"]
  )
  y = (y - y.mean((1, 2), keepdims=True)) / np.sqrt(y.var((1, 2), keepdims=True) + 1e-5)
  y = np.maximum(y, 0)  # fresh norms have scale 1 and bias 0
  embedding = y.reshape(3, 3, 2, 2, 2, 3).mean((2, 4)).reshape(3, -1)
  outputs = network.apply(variables.params, jnp.asarray(x, jnp.float32))
  np.testing.assert_allclose(outputs.taps["block0"], y, atol=2e-5)
  np.testing.assert_allclose(outputs.embedding, embedding, atol=2e-5)
  np.testing.assert_allclose(outputs.logits, embedding @ p["head"]["kernel"] + p["head"]["bias"], atol=2e-5)


@pytest.mark.parametrize(
  ("act", "function"),
  [
    ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
    ("leaky_relu", lambda x: np.where(x > 0, x, 0.01 * x)),
    ("softplus", lambda x: np.log1p(np.exp(60 * np.float64(x))) / 60),
  ],
)
def test_activations_and_max_pooling(act, function):
  network, variables = _made("convnet", (4, 4, 1), width=3, depth=1, act=act, pooling="max", norm="none")
  linear = models.build("convnet", num_classes=5, image_shape=(4, 4, 1), width=3, depth=1, norm="none")
  x = _images((4, 4, 1))
  seen = {}
  network.apply(variables.params, x, sites={"block0": lambda a: seen.setdefault("act", a)})
  positive = linear.apply(variables.params, x).taps["block0"]
  negative = linear.apply(_negated_conv(variables.params), x).taps["block0"]
  before = np.asarray(positive - negative, np.float64)  # relu(a) - relu(-a) = a
  np.testing.assert_allclose(seen["act"], function(before), atol=1e-6)
  pooled = function(before).reshape(3, 2, 2, 2, 2, 3).max((2, 4)).reshape(3, -1)
  np.testing.assert_allclose(network.apply(variables.params, x).embedding, pooled, atol=1e-6)


def _negated_conv(params):
  return params | {"conv0": jax.tree.map(jnp.negative, params["conv0"])}


def test_residual_block_adds_its_input():
  network, variables = _made("resnet10", norm="none", width=2)
  params = dict(variables.params)
  params["stage0_block0_conv1"] = jax.tree.map(jnp.zeros_like, params["stage0_block0_conv1"])
  outputs = jax.jit(network.apply)(params, _images((8, 8, 1)))
  np.testing.assert_array_equal(outputs.taps["block1"], outputs.taps["block0"])
  assert [outputs.taps[f"block{i}"].shape[1:] for i in range(5)] == [
    (8, 8, 2),
    (8, 8, 2),
    (4, 4, 4),
    (2, 2, 8),
    (1, 1, 16),
  ]
  np.testing.assert_allclose(outputs.embedding, outputs.taps["block4"][:, 0, 0], rtol=1e-6)


def test_batch_norm_modes_of_a_whole_network():
  network, variables = _made("convnet_bn")
  x = _images((8, 8, 1))
  run = jax.jit(network.apply, static_argnames="train")
  trained = run(variables.params, x, train=True, stats=variables.stats)
  assert set(trained.stats) == {"norm0", "norm1", "norm2"} == set(trained.norm_inputs)
  for name, (mean, _) in trained.norm_inputs.items():
    np.testing.assert_allclose(trained.stats[name]["mean"], 0.1 * mean, rtol=1e-4, atol=1e-7)
  evaluated = run(variables.params, x, stats=trained.stats)
  jax.tree.map(np.testing.assert_array_equal, evaluated.stats, trained.stats)
  assert np.abs(np.asarray(evaluated.logits - trained.logits)).max() > 1e-3
  alone = run(variables.params, x[:1], stats=trained.stats)  # in eval mode images do not see each other
  np.testing.assert_allclose(alone.logits, evaluated.logits[:1], atol=1e-5)
  with pytest.raises(UserError, match="stats: none given"):
    network.apply(variables.params, x)


def test_networks_without_batch_norm_have_one_mode():
  network, variables = _made("mlp")
  x = _images((8, 8, 1))
  one, other = network.apply(variables.params, x), network.apply(variables.params, x, train=True)
  np.testing.assert_array_equal(one.logits, other.logits)
  assert one.stats == {} and one.norm_inputs == {} and isinstance(variables, Variables) and variables.stats == {}


def test_sites_replace_what_flows_on():
  network, variables = _made("mlp")
  x = _images((8, 8, 1))
  cut = network.apply(variables.params, x, sites={"block1": jnp.zeros_like})
  np.testing.assert_array_equal(cut.taps["block1"], np.zeros((3, 5)))
  np.testing.assert_allclose(cut.logits, np.tile(variables.params["head"]["bias"], (3, 1)), rtol=1e-6)
  doubled = network.apply(variables.params, x, sites={"embedding": lambda e: 2.0 * e})
  np.testing.assert_allclose(doubled.embedding, 2 * network.apply(variables.params, x).embedding, rtol=1e-6)
  with pytest.raises(UserError, match="sites: blok1 not in this network; available are block0, block1, embedding"):
    network.apply(variables.params, x, sites={"blok1": jnp.zeros_like})


def test_gradients_reach_a_tap_through_its_site():
  network, variables = _made("mlp")
  x = _images((8, 8, 1))
  probe = jnp.zeros((3, 5))
  gradient = jax.grad(lambda e: network.apply(variables.params, x, sites={"block1": lambda a: a + e}).logits.sum())(
    probe
  )
  np.testing.assert_allclose(gradient, np.tile(variables.params["head"]["kernel"].sum(1), (3, 1)), rtol=1e-5, atol=1e-6)


def test_convnet_gradient_equals_finite_differences(x64):
  network = models.build("convnet", num_classes=3, image_shape=(6, 6, 1), width=2, depth=2, act="sigmoid")
  params = jax.tree.map(lambda p: p.astype(jnp.float64), network.init(jax.random.key(0)).params)
  flat = models.flatten(network, params)
  theta, x = flat.ravel(params), _images((6, 6, 1)).astype(jnp.float64)
  direction = jnp.asarray(np.random.default_rng(4).normal(size=flat.size))
  loss = jax.jit(lambda t: jnp.mean(jnp.square(flat.apply(t, x).logits)))
  numeric = (loss(theta + 1e-5 * direction) - loss(theta - 1e-5 * direction)) / 2e-5
  np.testing.assert_allclose(jax.grad(loss)(theta) @ direction, numeric, rtol=1e-6)
