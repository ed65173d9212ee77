"""Norms against NumPy in float64, pooling and flattening rules, the recorder, and the first parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as distributions

from jdistill.base import UserError
from jdistill.models.initialise import draw_params
from jdistill.models.layers import Conv, Norm, Recorder, flatten_maps, pool, stem_padding


def _maps(shape=(5, 4, 3, 8), seed=0):
  return np.random.default_rng(seed).normal(1.5, 2.0, shape)


def _reference(x, axes, scale, bias):
  mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
  return (x - mean) / np.sqrt(variance + 1e-5) * scale + bias


def _apply(kind, x, params, *, train=False, stats=None, groups=4):
  variables = {"params": params} | ({"batch_stats": stats} if stats else {})
  record = Recorder()
  y, updated = Norm(kind, groups, name="norm0").apply(
    variables,
    jnp.asarray(x, jnp.float32),
    train=train,
    record=record,
    mutable=["batch_stats"] if train and stats else [],
  )
  return np.asarray(y), record.outputs(y, y, updated.get("batch_stats", {}))


def _affine(shape, seed=1):
  rng = np.random.default_rng(seed)
  return {"scale": rng.normal(size=shape).astype(np.float32), "bias": rng.normal(size=shape).astype(np.float32)}


def test_instance_norm_is_per_image_and_channel():
  x, params = _maps(), _affine((8,))
  y, _ = _apply("instance", x, params)
  np.testing.assert_allclose(y, _reference(x, (1, 2), **params), atol=2e-5)


def test_group_norm_is_per_image_and_group_of_neighbours():
  x, params = _maps(), _affine((8,))
  y, _ = _apply("group", x, params)
  expected = np.concatenate([_reference(x[..., i : i + 2], (1, 2, 3), 1.0, 0.0) for i in range(0, 8, 2)], -1)
  np.testing.assert_allclose(y, expected * params["scale"] + params["bias"], atol=2e-5)


def test_layer_norm_has_a_scale_for_every_element():
  x, params = _maps(), _affine((4, 3, 8))
  y, _ = _apply("layer", x, params)
  np.testing.assert_allclose(y, _reference(x, (1, 2, 3), **params), atol=2e-5)


def test_no_norm_changes_nothing():
  x = _maps().astype(np.float32)
  np.testing.assert_array_equal(_apply("none", x, {})[0], x)


def test_instance_norm_of_one_pixel_keeps_the_image():
  x, params = _maps((5, 1, 1, 8)), _affine((8,))
  np.testing.assert_allclose(
    _apply("instance", x, params)[0], x * params["scale"] + params["bias"], rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize("side", [4, 1])
def test_a_bias_that_cancels_changes_nothing_behind_instance_norm(side):
  rng = np.random.default_rng(2)
  x = jnp.asarray(rng.normal(size=(3, side, side, 2)), jnp.float32)
  params = {"kernel": rng.normal(size=(3, 3, 2, 8)).astype(np.float32), "bias": np.arange(8, dtype=np.float32)}
  plain, cancelled = (Conv(8, bias_cancels=flag).apply({"params": params}, x) for flag in (False, True))
  np.testing.assert_allclose(
    _apply("instance", plain, _affine((8,)))[0], _apply("instance", cancelled, _affine((8,)))[0], atol=2e-4
  )
  # the norm leaves a map of one pixel as it is, so there the bias counts and is added
  assert bool(jnp.all(plain == cancelled)) == (side == 1)


def test_batch_norm_in_train_mode():
  x, params = _maps(), _affine((8,))
  running = {"mean": np.full(8, 0.3, np.float32), "var": np.full(8, 2.0, np.float32)}
  y, outputs = _apply("batch", x, params, train=True, stats=running)
  np.testing.assert_allclose(y, _reference(x, (0, 1, 2), **params), atol=2e-5)
  mean, variance = outputs.norm_inputs["norm0"]
  np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-5)
  np.testing.assert_allclose(variance, x.var((0, 1, 2)), rtol=1e-5)  # biased
  np.testing.assert_allclose(outputs.stats["mean"], 0.9 * 0.3 + 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
  np.testing.assert_allclose(outputs.stats["var"], 0.9 * 2.0 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=1e-5)  # unbiased


def test_batch_norm_in_eval_mode_uses_running_values():
  x, params = _maps(), _affine((8,))
  running = {"mean": np.linspace(-1, 1, 8, dtype=np.float32), "var": np.linspace(0.5, 2, 8, dtype=np.float32)}
  y, outputs = _apply("batch", x, params, stats=running)
  expected = (x - running["mean"]) / np.sqrt(running["var"] + 1e-5) * params["scale"] + params["bias"]
  np.testing.assert_allclose(y, expected, atol=2e-5)
  np.testing.assert_allclose(outputs.norm_inputs["norm0"][0], x.mean((0, 1, 2)), rtol=1e-5)  # of the batch all the same


def test_batch_norm_without_statistics():
  x, params = _maps(), _affine((8,))
  y, outputs = _apply("batch", x, params, train=True)
  np.testing.assert_allclose(y, _reference(x, (0, 1, 2), **params), atol=2e-5)
  assert outputs.stats == {}
  with pytest.raises(UserError, match="stats: none given"):
    _apply("batch", x, params)


def test_groups_must_divide_channels():
  with pytest.raises(UserError, match="groups: 3 does not divide 8 channels"):
    _apply("group", _maps(), _affine((8,)), groups=3)


def test_pool_drops_odd_edges_and_leaves_small_maps():
  x = jnp.arange(15.0).reshape(1, 3, 5, 1)
  np.testing.assert_array_equal(pool(x, "avg")[0, :, :, 0], [[3.0, 5.0]])
  np.testing.assert_array_equal(pool(x, "max")[0, :, :, 0], [[6.0, 8.0]])
  assert pool(x, "none") is x
  thin = jnp.ones((1, 1, 5, 1))
  assert pool(thin, "max") is thin


def test_flattening_puts_channels_fastest():
  x = jnp.arange(2 * 3 * 4.0).reshape(1, 2, 3, 4)
  np.testing.assert_array_equal(
    flatten_maps(x)[0, :5], [x[0, 0, 0, 0], x[0, 0, 0, 1], x[0, 0, 0, 2], x[0, 0, 0, 3], x[0, 0, 1, 0]]
  )


def test_only_28x28x1_images_get_the_wide_padding():
  assert stem_padding(jnp.zeros((2, 28, 28, 1)), 1, 3) == 3
  assert stem_padding(jnp.zeros((2, 28, 28, 3)), 1, 3) == 1
  assert stem_padding(jnp.zeros((2, 32, 32, 1)), 1, 3) == 1


def test_recorder_keeps_what_flows_on_and_refuses_unknown_sites():
  record = Recorder({"block0": lambda x: 2 * x})
  x = jnp.ones((1, 2))
  np.testing.assert_array_equal(record.tap("block0", x), 2 * x)
  np.testing.assert_array_equal(record.tap("block1", x), x)
  np.testing.assert_array_equal(record.site("embedding", x), x)
  outputs = record.outputs(x, x, {})
  assert list(outputs.taps) == ["block0", "block1"]
  np.testing.assert_array_equal(outputs.taps["block0"], 2 * x)
  stray = Recorder({"block7": lambda x: x})
  stray.tap("block0", x)
  with pytest.raises(UserError, match="sites: block7 not in this network; available are block0"):
    stray.outputs(x, x, {})


_SHAPES = {
  "conv0": {
    "kernel": jax.ShapeDtypeStruct((3, 3, 4, 50), jnp.float32),
    "bias": jax.ShapeDtypeStruct((50,), jnp.float32),
  },
  "head": {"kernel": jax.ShapeDtypeStruct((400, 5), jnp.float32), "bias": jax.ShapeDtypeStruct((5,), jnp.float32)},
  "norm0": {"scale": jax.ShapeDtypeStruct((50,), jnp.float32), "bias": jax.ShapeDtypeStruct((50,), jnp.float32)},
}


def test_torch_init_is_uniform_by_fan_in():
  params = jax.tree.map(np.asarray, draw_params(jax.random.key(0), _SHAPES, "torch"))
  for layer, fan_in in (("conv0", 36), ("head", 400)):
    bound = fan_in**-0.5
    kernel, bias = params[layer]["kernel"], params[layer]["bias"]
    assert kernel.shape == _SHAPES[layer]["kernel"].shape
    assert distributions.kstest(kernel.ravel(), "uniform", (-bound, 2 * bound)).pvalue > 0.01
    assert 0.98 * bound < np.abs(kernel).max() <= bound
    assert 0.5 * bound < np.abs(bias).max() <= bound
    assert len(np.unique(bias)) == bias.size
  np.testing.assert_array_equal(params["norm0"]["scale"], np.ones(50))
  np.testing.assert_array_equal(params["norm0"]["bias"], np.zeros(50))
  assert not np.intersect1d(params["conv0"]["kernel"] * 6, params["head"]["kernel"] * 20).size  # no draw used twice


def test_flax_init_is_truncated_normal_by_fan_in():
  params = jax.tree.map(np.asarray, draw_params(jax.random.key(1), _SHAPES, "flax"))
  for layer, fan_in in (("conv0", 36), ("head", 400)):
    kernel = params[layer]["kernel"].ravel() * fan_in**0.5
    np.testing.assert_allclose(kernel.std(), 1.0, atol=0.06)
    assert 1.9 / 0.8796 < np.abs(kernel).max() <= 2 / 0.8796 * 1.001
    np.testing.assert_array_equal(params[layer]["bias"], np.zeros_like(params[layer]["bias"]))
  np.testing.assert_array_equal(params["norm0"]["scale"], np.ones(50))
