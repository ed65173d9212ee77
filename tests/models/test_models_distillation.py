"""The networks of knowledge distillation: parameter counts, shapes, taps, norms, and what they compute."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_transformer import block, dense, gelu_network, norm

from jdistill import models
from jdistill.base import UserError
from jdistill.models.segnet import enlarge
from jdistill.models.shufflenet import halve_by_means, shuffle_channels

# Parameters with 100 classes on 32x32x3 (10 for wrn_28_10), batch norms, taps as (side, channels), embedding.
RESNET = [(32, 16), (32, 16), (16, 32), (8, 64)]
RESNET_X4 = [(32, 32), (32, 64), (16, 128), (8, 256)]
NETWORKS = {
  "resnet8": (83_892, 9, RESNET, 64),
  "resnet14": (181_108, 15, RESNET, 64),
  "resnet20": (278_324, 21, RESNET, 64),
  "resnet32": (472_756, 33, RESNET, 64),
  "resnet44": (667_188, 45, RESNET, 64),
  "resnet56": (861_620, 57, RESNET, 64),
  "resnet110": (1_736_564, 111, RESNET, 64),
  "resnet8x4": (1_233_540, 10, RESNET_X4, 256),
  "resnet32x4": (7_433_860, 34, RESNET_X4, 256),
  "wrn": (180_916, 13, RESNET, 64),
  "wrn_16_1": (180_916, 13, RESNET, 64),
  "wrn_16_2": (703_284, 13, [(32, 16), (32, 32), (16, 64), (8, 128)], 128),
  "wrn_28_10": (36_479_194, 25, [(32, 16), (32, 160), (16, 320), (8, 640)], 640),
  "wrn_40_1": (569_780, 37, RESNET, 64),
  "wrn_40_2": (2_255_156, 37, [(32, 16), (32, 32), (16, 64), (8, 128)], 128),
  "vgg8_bn": (3_965_028, 5, [(32, 64), (16, 128), (8, 256), (4, 512), (2, 512)], 512),
  "vgg13_bn": (9_462_180, 10, [(32, 64), (16, 128), (8, 256), (4, 512), (2, 512)], 512),
  "mobilenetv2": (812_836, 53, [(16, 16), (16, 12), (8, 16), (4, 48), (2, 160)], 1280),
  "shufflenetv1": (949_258, 49, [(32, 24), (16, 240), (8, 480), (4, 960)], 960),
  "shufflenetv2": (1_355_528, 56, [(32, 24), (16, 116), (8, 232), (4, 464)], 1024),
  "segnet": (
    # 3x3 kernels and two norm vectors per layer, and the head
    9 * (3 * 16 + 16 * 32 + 32 * 64 + 96 * 32 + 48 * 16) + 2 * (16 + 32 + 64 + 32 + 16) + 17 * 100,
    5,
    [(32, 16), (16, 32), (8, 64), (16, 32), (32, 16)],
    64,
  ),
}
# patches, positions (and class token), blocks of two norms and four dense maps, last norm, head
VIT = 49 * 192 + 65 * 192 + 192 + 6 * (4 * 192 + 193 * 576 + 193 * 192 + 193 * 768 + 769 * 192) + 2 * 192 + 193 * 100
MIXER = 49 * 128 + 8 * (4 * 128 + 65 * 64 + 65 * 64 + 129 * 512 + 513 * 128) + 2 * 128 + 129 * 100
FAMILIES = {  # the smallest of each
  "resnet8": {"width": 2},
  "resnet8x4": {"width": 2},
  "wrn": {"width": 2, "depth": 10, "widen_factor": 2},
  "mobilenetv2": {"width": 4, "expansion": 2, "last": 6},
  "shufflenetv1": {"widths": (36, 72, 144)},
  "shufflenetv2": {"widths": (4, 6, 8), "last": 5},
  "vit": {"patch": 1, "dim": 4, "depth": 2, "heads": 2},
  "mixer": {"patch": 1, "dim": 4, "depth": 2},
  "segnet": {"width": 2},
}


@functools.cache
def _traced(name, num_classes=100, **options):
  """Shapes of parameters, statistics and outputs for two images; nothing is computed."""
  network = models.build(name, num_classes=num_classes, image_shape=(32, 32, 3), **options)
  variables = jax.eval_shape(network.init, jax.random.key(0))
  x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  return variables, jax.eval_shape(lambda v, x: network.apply(v.params, x, stats=v.stats), variables, x)


def _images(shape, n=3):
  return jnp.asarray(np.random.default_rng(0).normal(size=(n, *shape)), jnp.float32)


def _taps(name):
  """The names of the taps of a member of FAMILIES."""
  count = len(NETWORKS[name][2]) if name in NETWORKS else FAMILIES[name]["depth"]
  return [f"block{i}" for i in range(count)]


def _draw(network):
  """Parameters and fresh statistics from NumPy: compiling a deep network's `init` takes as long as its forward pass."""
  rng, shapes = np.random.default_rng(1), jax.eval_shape(network.init, jax.random.key(0))

  def leaf(path, shape):
    name = path[-1].key
    if name == "kernel":
      return np.float32(rng.normal(size=shape.shape) / np.sqrt(np.prod(shape.shape[:-1])))
    return np.full(shape.shape, name in ("scale", "var"), np.float32)

  return jax.tree.map_with_path(leaf, shapes.params), jax.tree.map_with_path(leaf, shapes.stats)


def _size(params):
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_every_network_is_listed_in_a_test():
  classic = {"mlp", "lenet", "alexnet"} | {
    f"{name}{bn}" for name in ("convnet", "vgg11", "resnet10", "resnet18") for bn in ("", "_bn")
  }
  tokens = {"gru", "mae", "decoder", "gpt2"}  # tests/models/test_models_gru.py, ..._mae.py, ..._decoder.py
  tokens |= {"resnet18_imagenet", "resnet50_imagenet", "vit_s16", "vit_b16", "efficientnet_lite0"}  # ..._weights.py
  tokens |= {"denoising_mlp", "unet", "dit"}  # tests/models/test_models_denoisers.py
  tokens |= {"adm", "ddpmpp"}  # tests/models/test_models_edm.py
  tokens |= {"score_transformer"}  # tests/methods/test_sedd.py
  assert set(models.names()) == classic | set(NETWORKS) | set(FAMILIES) | tokens


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_and_taps_are_the_published_ones(name):
  count, norms, taps, features = NETWORKS[name]
  classes = 10 if name == "wrn_28_10" else 100
  variables, outputs = _traced(name, num_classes=classes)
  assert _size(variables.params) == count
  assert len(variables.stats) == len(outputs.norm_inputs) == norms and set(outputs.stats) == set(variables.stats)
  assert [(name, tap.shape) for name, tap in outputs.taps.items()] == [
    (f"block{i}", (2, side, side, channels)) for i, (side, channels) in enumerate(taps)
  ]
  assert outputs.embedding.shape == (2, features)
  assert outputs.logits.shape == ((2, 32, 32, 100) if name == "segnet" else (2, classes))


@pytest.mark.parametrize(
  ("name", "options", "count", "tokens"),
  [
    ("vit", {}, VIT, 65),
    ("vit", {"readout": "mean"}, VIT - 2 * 192, 64),
    ("mixer", {}, MIXER, 64),
  ],
)
def test_token_networks_have_the_counts_of_their_formula(name, options, count, tokens):
  variables, outputs = _traced(name, **options)
  dim, depth = models.options(name)["dim"], models.options(name)["depth"]
  assert _size(variables.params) == count
  assert {name: tap.shape for name, tap in outputs.taps.items()} == {
    f"block{i}": (2, tokens, dim) for i in range(depth)
  }
  assert outputs.embedding.shape == (2, dim) and outputs.stats == {} == outputs.norm_inputs


def test_convolutions_are_grouped_where_they_should_be():
  shapes = {
    layer: leaves["kernel"].shape for layer, leaves in _traced("shufflenetv1")[0].params.items() if "conv" in layer
  }
  assert shapes["stage0_block0_conv0"] == (1, 1, 24, 54)  # not grouped on the stem
  assert shapes["stage0_block0_conv1"] == (3, 3, 1, 54)
  assert shapes["stage0_block0_conv2"] == (1, 1, 18, 216)  # 24 more are the input's own
  assert shapes["stage2_block1_conv0"] == (1, 1, 320, 240)
  shapes = {
    layer: leaves["kernel"].shape for layer, leaves in _traced("mobilenetv2")[0].params.items() if "conv" in layer
  }
  assert shapes["group0_block0_conv1"] == (3, 3, 1, 16)  # the first block does not expand
  assert shapes["group6_block0_conv1"] == (3, 3, 1, 480)
  assert "bias" not in _traced("mobilenetv2")[0].params["stem_conv"]


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "resnet8x4"])
def test_one_pass_in_train_mode(name):
  shape = (9, 13, 2)  # odd, so that halving rounds up
  network = models.build(name, num_classes=5, image_shape=shape, **FAMILIES[name])
  (params, stats), names = _draw(network), [*_taps(name), "embedding"]
  last, seen = names[-2], {}

  @jax.jit
  def run(params, stats, factor):
    sites = {key: lambda a, key=key: seen.setdefault(key, a) for key in names} | {last: lambda a: factor * a}
    return network.apply(params, _images(shape), train=True, stats=stats, sites=sites)

  outputs = jax.device_get(run(params, stats, jnp.ones(())))
  assert list(outputs.taps) == _taps(name)
  expected = {key: tap.shape for key, tap in outputs.taps.items()} | {"embedding": outputs.embedding.shape}
  assert {key: a.shape for key, a in seen.items()} == {key: expected[key] for key in names if key != last}
  assert outputs.logits.shape == ((3, 9, 13, 5) if name == "segnet" else (3, 5))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(outputs))
  assert np.ptp(np.asarray(outputs.logits), axis=0).max() > 1e-4  # images reach the logits
  head = jax.tree.map(np.float64, params["head"])
  entering = outputs.taps[last] if name == "segnet" else outputs.embedding
  logits = np.asarray(entering, np.float64) @ head["kernel"].reshape(-1, 5) + head["bias"]
  np.testing.assert_allclose(outputs.logits, logits, rtol=1e-4, atol=1e-5)
  for layer, (mean, _) in outputs.norm_inputs.items():
    np.testing.assert_allclose(outputs.stats[layer]["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
    assert np.all(outputs.stats[layer]["var"] != 1)
  cut = jax.device_get(run(params, stats, jnp.zeros(())))  # what flows on is the replaced tap
  assert not np.any(cut.taps[last])
  np.testing.assert_allclose(cut.logits, np.broadcast_to(cut.logits[:1], cut.logits.shape), atol=1e-5)


def test_running_statistics_are_used_in_eval_mode():
  network = models.build("resnet8", num_classes=5, image_shape=(8, 8, 1), width=2)
  variables, x = network.init(jax.random.key(1)), _images((8, 8, 1))
  assert np.isfinite(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(variables)])).all()
  run = jax.jit(network.apply)
  stats = jax.tree.map(lambda s: s + 0.5, variables.stats)
  together, alone = run(variables.params, x, stats=stats), run(variables.params, x[:1], stats=stats)
  np.testing.assert_allclose(alone.logits, together.logits[:1], atol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, together.stats, stats)
  fresh = run(variables.params, x, stats=variables.stats)
  assert np.abs(np.asarray(fresh.logits) - np.asarray(together.logits)).max() > 1e-4


@pytest.mark.parametrize(("name", "options"), [("resnet8", {"width": 2}), ("wrn", {"width": 2, "depth": 10})])
def test_residual_blocks_add_their_input(name, options):
  network = models.build(name, num_classes=5, image_shape=(8, 8, 1), **options)
  params = _draw(network)[0]
  for stage in range(3):
    params[f"stage{stage}_block0_conv1"] = jax.tree.map(jnp.zeros_like, params[f"stage{stage}_block0_conv1"])
  outputs = jax.jit(lambda p, x: network.apply(p, x, train=True))(params, _images((8, 8, 1)))
  np.testing.assert_array_equal(outputs.taps["block1"], outputs.taps["block0"])
  clipped = [np.min(tap) >= 0 for tap in outputs.taps.values()]
  assert clipped == [name == "resnet8"] * 4  # wide residual networks read their stages before norm and ReLU
  kernel = np.asarray(params["stage1_block0_conv_shortcut"]["kernel"])[0, 0]
  below = np.asarray(outputs.taps["block1"])
  if name == "wrn":  # the shortcut reads the input after norm and ReLU
    mean, variance = below.mean((0, 1, 2)), below.var((0, 1, 2))
    below = np.maximum((below - mean) / np.sqrt(variance + 1e-5), 0)
  shortcut = below[:, ::2, ::2] @ kernel
  if name == "resnet8":
    shortcut = np.maximum((shortcut - shortcut.mean((0, 1, 2))) / np.sqrt(shortcut.var((0, 1, 2)) + 1e-5), 0)
  np.testing.assert_allclose(outputs.taps["block2"], shortcut, atol=1e-4)


def test_channels_are_dealt_out():
  x = jnp.arange(2 * 6, dtype=jnp.float32).reshape(1, 1, 2, 6)
  np.testing.assert_array_equal(shuffle_channels(x, 2)[0, 0], [[0, 3, 1, 4, 2, 5], [6, 9, 7, 10, 8, 11]])
  np.testing.assert_array_equal(shuffle_channels(x, 3)[0, 0, 0], [0, 2, 4, 1, 3, 5])
  np.testing.assert_array_equal(shuffle_channels(x, 1), x)


def test_means_count_zeros_outside():
  x = np.random.default_rng(1).normal(size=(1, 3, 4, 2))
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  means = [[padded[0, i : i + 3, j : j + 3].mean((0, 1)) for j in (0, 2)] for i in (0, 2)]
  np.testing.assert_allclose(halve_by_means(jnp.asarray(x, jnp.float32))[0], means, atol=1e-6)


def test_maps_are_enlarged_to_the_size_before_pooling():
  x = jnp.asarray([[1.0, 2.0]]).reshape(1, 1, 2, 1)
  np.testing.assert_array_equal(enlarge(x, (2, 5))[0, ..., 0], [[1, 1, 2, 2, 2]] * 2)
  np.testing.assert_array_equal(enlarge(x, (3, 4))[0, ..., 0], [[1, 1, 2, 2]] * 3)
  np.testing.assert_array_equal(enlarge(x, (1, 2)), x)


def _tokens(x, p):
  squares = x.reshape(3, 2, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(3, 4, 8)  # row, column, pixels
  return squares @ p["patches"]["kernel"].reshape(8, -1) + p["patches"]["bias"]


@pytest.mark.parametrize("readout", ["token", "mean"])
def test_vit_is_its_formula(readout):
  network = models.build("vit", num_classes=5, image_shape=(4, 4, 2), patch=2, dim=6, depth=1, heads=2, readout=readout)
  params, images = network.init(jax.random.key(4)).params, _images((4, 4, 2))
  if readout == "token":
    assert not np.any(params["class_token"]["bias"])
    params["class_token"] = {"bias": jnp.arange(6, dtype=jnp.float32) / 3}
  p = jax.tree.map(np.float64, params)
  x = _tokens(np.asarray(images, np.float64), p)
  if readout == "token":
    x = np.concatenate([np.broadcast_to(p["class_token"]["bias"], (3, 1, 6)), x], axis=1)
  x = x + p["positions"]["kernel"]
  x = block(x, p, "block0_", 2)
  embedding = norm(x)[:, 0] if readout == "token" else norm(x).mean(1)
  outputs = jax.jit(network.apply)(params, images)
  np.testing.assert_allclose(outputs.taps["block0"], x, atol=1e-5)
  np.testing.assert_allclose(outputs.embedding, embedding, atol=1e-5)
  np.testing.assert_allclose(outputs.logits, dense(embedding, p["head"]), atol=1e-5)


def test_mixer_is_its_formula():
  network = models.build("mixer", num_classes=5, image_shape=(4, 4, 2), patch=2, dim=6, depth=1)
  params, images = network.init(jax.random.key(5)).params, _images((4, 4, 2))
  p = jax.tree.map(np.float64, params)
  x = _tokens(np.asarray(images, np.float64), p)
  x = x + gelu_network(norm(x).transpose(0, 2, 1), p, "block0_tokens_").transpose(0, 2, 1)
  x = x + gelu_network(norm(x), p, "block0_channels_")
  outputs = jax.jit(network.apply)(params, images)
  np.testing.assert_allclose(outputs.taps["block0"], x, atol=1e-5)
  np.testing.assert_allclose(outputs.embedding, norm(x).mean(1), atol=1e-5)


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("wrn", {"depth": 17}, "depth: 17 is not a depth of wide residual networks; choose 10, 16"),
    ("wrn", {"depth": 4}, "depth: 4 is not"),
    ("wrn_16_2", {"depth": 10}, "depth: no option of model 'wrn_16_2'"),
    ("resnet8x4", {"stage_multiple": 2}, "stage_multiple: no option of model"),
    ("vit", {"heads": 5}, "heads: 5 does not divide dim 192"),
    ("vit", {"readout": "max"}, "readout: 'max' is unknown; choose one of token, mean"),
    ("shufflenetv1", {"widths": (40, 80, 160)}, "widths: .40, 80, 160. do not divide into 3 groups"),
    ("shufflenetv1", {"widths": (36, 72)}, "widths: .36, 72. do not divide"),
    ("shufflenetv2", {"widths": (4, 5, 6)}, "widths: .4, 5, 6. are not three even numbers"),
  ],
)
def test_mistakes_are_named_at_once(name, options, message):
  with pytest.raises(UserError, match=message) as caught:
    models.build(name, num_classes=5, image_shape=(8, 8, 1), **options)
  assert "\n" not in str(caught.value)


def test_images_have_to_fit_patches_and_positions():
  with pytest.raises(UserError, match="patch: 4 does not divide images of 8x10; choose a divisor of both sides"):
    models.describe(models.build("mixer", num_classes=5, image_shape=(8, 10, 1)), (8, 10, 1))
  with pytest.raises(UserError, match="do not fit the parameters of model 'vit'"):
    models.describe(models.build("vit", num_classes=5, image_shape=(8, 8, 1), dim=3), (12, 12, 1))


def test_he_initialisation_has_the_variances_of_its_formula():
  network = models.build("convnet", num_classes=10, image_shape=(8, 8, 3), width=64, depth=2, init="he")
  params = network.init(jax.random.key(0)).params
  head = params["head"]["kernel"]
  assert np.std(params["conv1"]["kernel"]) == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
  assert np.std(head) == pytest.approx(np.sqrt(1 / (3 * head.shape[0])), rel=0.05)
  assert not np.any(params["head"]["bias"]) and not np.any(params["conv1"]["bias"])
