"""Masked autoencoding as a recipe: its loss against NumPy, what is drawn, no labels, and filling that gets better."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from updates import update_of

from jdistill import models
from jdistill.base import Batch, UserError, Variables
from jdistill.methods.knowledge import student_method
from jdistill.methods.knowledge.mae import mae
from jdistill.methods.optimizers import make_optimizer
from jdistill.models.mae import decoder
from jdistill.ops.patch_masks import mean_of_kept, random_patch_mask, reconstruct

KEY = jax.random.key(0)
SIZES = {"patch": 2, "dim": 8, "depth": 1, "heads": 2, "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2}
NETWORK = models.build("mae", num_classes=3, image_shape=(4, 4, 1), **SIZES)
RNG = np.random.default_rng(0)
# every row of an image has one brightness: a patch tells its neighbour
X = jnp.asarray(np.repeat(RNG.normal(size=(32, 4, 1, 1)), 4, axis=2), jnp.float32)
IDS = jnp.arange(32, dtype=jnp.int32)
RECIPE = mae(mask_ratio=0.5, mask_side=2)
APPLY = jax.jit(NETWORK.apply)


def batch(labels=0 * IDS, weight=None):
  return Batch(X, labels, IDS, weight)


@functools.cache
def trainer():
  method = student_method(NETWORK, RECIPE, optimizer=make_optimizer("adam", 0.01))
  return jax.jit(method.init), jax.jit(method.step)


def test_the_loss_is_that_of_the_patches_left_out_and_of_no_label():
  init, step = trainer()
  assert RECIPE.needs == () and RECIPE.probed
  weight, ends = jnp.float32([1, 1, 2, 0] + 28 * [1]), []
  for labels in (IDS % 3, 0 * IDS - 1):
    inputs = update_of(batch(labels, weight))
    state = init(KEY, inputs)
    ends.append(step(KEY, state, inputs))
  jax.tree.map(np.testing.assert_array_equal, *ends)
  _, key_inputs, _, _, _ = jax.random.split(jax.random.split(KEY)[0], 5)
  (x, mask), other = RECIPE.augmented_inputs(key_inputs, batch())
  assert (x == X).all() and (other == X).all()
  assert mask.shape == (32, 4) and mask.sum(1).tolist() == [2] * 32 and len(np.unique(mask, axis=0)) == 6
  params = state.roles["student"].params
  out = APPLY(params, (x, mask))
  decoded = np.float64(out.taps["decoded"])
  pixels = np.float64(x).reshape(32, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(32, 4, 4)
  error = [np.square(decoded[i] - pixels[i])[np.asarray(mask)[i]].mean() for i in range(32)]
  assert float(ends[0][1]["loss/reconstruction"]) == pytest.approx(np.average(error, weights=weight), rel=1e-4)
  after = ends[0][0].roles["student"].params
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, after)
  assert not any(jax.tree.leaves(moved["head"])) and all(moved["pixels"].values()) and moved["mask_token"]["bias"]
  np.testing.assert_array_equal(RECIPE.predict(out, {}, ()), out.embedding)  # features are what is left


def test_a_trained_network_fills_better_than_a_mean():
  init, step = trainer()
  inputs = update_of(batch(weight=jnp.ones(32)))
  state = init(KEY, inputs)
  for number in range(200):
    state, _ = step(jax.random.fold_in(KEY, number), state, inputs)
  mask = random_patch_mask(jax.random.key(5), 32, 4, 0.25)

  def error(decode):
    return float(jnp.sum(jnp.square(reconstruct(X, mask, decode) - X)))

  decode = decoder(NETWORK._replace(apply=APPLY), Variables(state.roles["student"].params))
  assert error(decode) < 0.3 * error(mean_of_kept)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"mask_ratio": 1.0}, "method.mask_ratio=1.0: must be"),
    ({"mask_ratio": 0.9, "mask_side": 2}, "method.mask_ratio=0.9: leaves none of 4 squares to see; lower it$"),
    ({"mask_side": 3}, "method.mask_side=3: does not divide images of 4x4; give a divisor$"),
  ],
)
def test_what_cannot_be_is_refused_in_one_line(options, message):
  with pytest.raises(UserError, match=message) as caught:
    mae(**options).augmented_inputs(KEY, batch())
  assert "\n" not in str(caught.value)
