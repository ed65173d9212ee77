"""Networks by name, their options, and the messages for mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import models
from jdistill.base import UserError

SHAPE = (8, 8, 1)


def test_names_and_options():
  assert {"convnet", "mlp", "lenet", "alexnet", "vgg11", "resnet18", "convnet_bn", "vgg11_bn", "resnet18_bn"} <= set(
    models.names()
  )
  assert models.options("convnet") == {
    "width": 128,
    "depth": 3,
    "norm": "instance",
    "act": "relu",
    "pooling": "avg",
    "groups": 4,
    "embedding": "flatten",
    "init": "torch",
  }
  assert "norm" not in models.options("convnet_bn")


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: models.build("convnt", num_classes=2, image_shape=SHAPE), "'convnt' is unknown .did you mean convnet"),
    (lambda: models.options("zzz"), "model: 'zzz' is unknown; choose one of convnet, "),
    (lambda: models.build("mlp", num_classes=2, image_shape=SHAPE, width=3), "did you mean widths.*widths, act, init"),
    (lambda: models.build("convnet_bn", num_classes=2, image_shape=SHAPE, norm="layer"), "norm: no option of model"),
    (lambda: models.build("convnet", num_classes=2, image_shape=SHAPE, norm="bach"), "norm: 'bach' is unknown; choose"),
    (lambda: models.build("convnet", num_classes=2, image_shape=SHAPE, init="hee"), "init: 'hee' is unknown"),
    (lambda: models.build("convnet", num_classes=2, image_shape=SHAPE, width=0), "width: 0 is not a whole number"),
    (lambda: models.build("convnet", num_classes=2, image_shape=SHAPE, depth=2.0), "depth: 2.0 is not a whole number"),
    (lambda: models.build("mlp", num_classes=2, image_shape=SHAPE, widths=8), "widths: 8 is not a tuple"),
    (lambda: models.build("mlp", num_classes=2, image_shape=SHAPE, widths=(8, -1)), "widths: -1 is not a whole number"),
    (lambda: models.build("mlp", num_classes=0, image_shape=SHAPE), "num_classes: 0 is not a whole number"),
    (lambda: models.build("mlp", num_classes=2, image_shape=(8, 8)), "image_shape: .8, 8. is not"),
  ],
)
def test_mistakes_are_named(call, message):
  with pytest.raises(UserError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("x", "message"),
  [
    (jnp.zeros((8, 8, 1)), "takes .batch, height, width, channels"),
    (jnp.zeros((2, 8, 8, 3)), "3 channels given to model 'mlp'"),
    (jnp.zeros((2, 8, 8, 1), jnp.uint8), "uint8 pixels"),
    (jnp.zeros((2, 9, 8, 1)), "do not fit the parameters of model 'mlp', built for .8, 8, 1."),
  ],
)
def test_wrong_images_are_named(x, message):
  network = models.build("mlp", num_classes=2, image_shape=SHAPE, widths=(4,))
  params = network.init(jax.random.key(0)).params
  with pytest.raises(UserError, match=message):
    network.apply(params, x)


def test_same_arguments_give_the_same_network():
  one = models.build("mlp", num_classes=2, image_shape=SHAPE, widths=[4])
  assert one is models.build("mlp", num_classes=np.int64(2), image_shape=list(SHAPE), widths=(4,))
  assert one is not models.build("mlp", num_classes=2, image_shape=SHAPE, widths=(4,), init="flax")


def test_describe_lists_paths_shapes_and_counts():
  network = models.build("mlp", num_classes=3, image_shape=SHAPE, widths=(4,))
  assert models.describe(network, SHAPE) == [
    ("dense0/bias", (4,), 4),
    ("dense0/kernel", (64, 4), 256),
    ("head/bias", (3,), 3),
    ("head/kernel", (4, 3), 12),
  ]
  with pytest.raises(UserError, match="do not fit"):
    models.describe(network, (16, 16, 1))


def test_init_choices_reach_the_network():
  torch = models.build("mlp", num_classes=3, image_shape=SHAPE, widths=(40,)).init(jax.random.key(0)).params
  flax = models.build("mlp", num_classes=3, image_shape=SHAPE, widths=(40,), init="flax").init(jax.random.key(0)).params
  assert 0.9 / 8 < np.abs(torch["dense0"]["kernel"]).max() <= 1 / 8
  assert np.abs(torch["dense0"]["bias"]).max() > 0.5 / 8
  assert np.abs(flax["dense0"]["kernel"]).max() > 1.5 / 8
  assert not np.any(flax["dense0"]["bias"])
  assert type(torch) is dict and type(torch["dense0"]) is dict


def test_resnets_take_other_sizes_than_built_for():
  network = models.build("resnet10", num_classes=3, image_shape=(16, 16, 3), width=2)
  assert len(models.describe(network, (24, 24, 3))) == len(models.describe(network, (16, 16, 3)))


def test_float64_runs(x64):
  network = models.build("mlp", num_classes=3, image_shape=SHAPE, widths=(4,))
  params = network.init(jax.random.key(0)).params
  assert params["head"]["kernel"].dtype == jnp.float32
  params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
  assert network.apply(params, jnp.ones((2, *SHAPE), jnp.float64)).logits.dtype == jnp.float64


@pytest.mark.parametrize("norm", ["instance", "batch", "group", "layer"])
def test_shapes_in_float64_mode(norm, x64):
  network = models.build("convnet", num_classes=3, image_shape=SHAPE, width=4, norm=norm)
  assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0)))} == {
    jnp.dtype("float32")
  }
