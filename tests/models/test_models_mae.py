"""The masked autoencoder: its formula with the patches really cut out, what it cannot see, and masks of squares."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_transformer import block, dense, norm

from jdistill import models
from jdistill.base import UserError
from jdistill.models.mae import decoder
from jdistill.ops.patch_masks import reconstruct

SIZES = {"patch": 2, "dim": 6, "depth": 2, "heads": 2, "decoder_dim": 4, "decoder_depth": 1, "decoder_heads": 2}
RNG = np.random.default_rng(0)
X = jnp.float32(RNG.normal(size=(3, 4, 6, 2)))  # six patches of eight numbers
MASK = jnp.asarray([[0, 1, 0, 0, 1, 0], [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]], bool)


@functools.cache
def _made():
  network = models.build("mae", num_classes=5, image_shape=(4, 6, 2), **SIZES)
  variables = network.init(jax.random.key(1))
  variables.params["mask_token"] = {"bias": jnp.float32([0.3, -0.2, 0.1, 0.5])}  # zeros before any step
  return network, variables, jax.jit(network.apply)


def _squares(x):
  return np.asarray(x, np.float64).reshape(-1, 2, 2, 3, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 6, 8)


def test_it_is_its_formula_with_the_other_patches_cut_out():
  _, variables, apply = _made()
  p = jax.tree.map(np.float64, variables.params)
  out = apply(variables.params, (X, MASK))
  np.testing.assert_array_equal(out.taps["dropped"], np.float32(MASK))
  np.testing.assert_allclose(out.taps["patches"], _squares(X), atol=1e-6)
  for number, pixels in enumerate(_squares(X)):
    kept = np.flatnonzero(~np.asarray(MASK)[number])
    tokens = (dense(pixels, p["patches"]) + p["positions"]["kernel"])[None, kept]
    for name in ("block0_", "block1_"):
      tokens = block(tokens, p, name, 2)
    tokens = norm(tokens)
    np.testing.assert_allclose(out.embedding[number], tokens[0].mean(0), atol=1e-5)
    np.testing.assert_allclose(out.logits[number], dense(tokens[0].mean(0), p["head"]), atol=1e-5)
    whole = np.tile(p["mask_token"]["bias"], (1, 6, 1))
    whole[:, kept] = dense(tokens, p["decoder_map"])
    whole = norm(block(whole + p["decoder_positions"]["kernel"], p, "decoder0_", 2))
    np.testing.assert_allclose(out.taps["decoded"][number], dense(whole, p["pixels"])[0], atol=1e-5)


def test_its_size_is_that_of_its_formula():
  network = models.build("mae", num_classes=100, image_shape=(32, 32, 3))
  encoder = 49 * 192 + 64 * 192 + 6 * (4 * 192 + 193 * 576 + 193 * 192 + 193 * 768 + 769 * 192) + 2 * 192
  blocks = 2 * (4 * 96 + 97 * 288 + 97 * 96 + 97 * 384 + 385 * 96)
  rest = 193 * 96 + 96 + 64 * 96 + blocks + 2 * 96 + 97 * 48  # map, mask token, positions, blocks, norm, pixels
  count = sum(size for *_, size in models.describe(network, (32, 32, 3)))
  assert count == encoder + rest + 193 * 100 == 2_963_860  # as in docs/models.md


def test_what_was_left_out_has_no_part_in_anything():
  _, variables, apply = _made()
  other = jnp.where(jnp.repeat(jnp.repeat(MASK.reshape(3, 2, 3), 2, 1), 2, 2)[..., None], 7.0, X)
  outs = [apply(variables.params, (x, MASK)) for x in (X, other)]
  for name in ("embedding", "logits"):
    np.testing.assert_array_equal(*(getattr(out, name) for out in outs))
  np.testing.assert_array_equal(*(out.taps["decoded"] for out in outs))
  whole, empty = apply(variables.params, X), apply(variables.params, (X, jnp.zeros((3, 6), bool)))
  np.testing.assert_allclose(whole.embedding, empty.embedding, atol=1e-6)
  np.testing.assert_array_equal(whole.taps["dropped"], 0)


def test_squares_may_be_made_of_patches():
  network = models.build("mae", num_classes=5, image_shape=(4, 4, 1), **(SIZES | {"patch": 1, "depth": 1}))
  params, x = network.init(jax.random.key(0)).params, jnp.float32(RNG.normal(size=(1, 4, 4, 1)))
  out = jax.jit(network.apply)(params, (x, jnp.asarray([[0, 1, 0, 0]], bool)))
  np.testing.assert_array_equal(out.taps["dropped"].reshape(4, 4), [[0, 0, 1, 1]] * 2 + [[0] * 4] * 2)


def test_a_trained_one_fills_images():
  network, variables, apply = _made()
  filled = np.asarray(reconstruct(X, MASK, decoder(network._replace(apply=apply), variables)))
  decoded, x = np.asarray(apply(variables.params, (X, MASK)).taps["decoded"]), _squares(X)
  want = np.where(np.asarray(MASK)[..., None], decoded, x)
  np.testing.assert_allclose(_squares(filled), want, atol=1e-6)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda: _made()[0].apply(_made()[1].params, (X, jnp.zeros((3, 24), bool))),
      "patch: masks of 24 squares for 6 pat",
    ),
    (lambda: models.build("mae", num_classes=2, image_shape=(4, 4, 1), heads=5), "heads: 5 does not divide dim 192"),
    (
      lambda: models.build("mae", num_classes=2, image_shape=(4, 4, 1), decoder_heads=5),
      "decoder_heads: 5 does not divide decoder_dim 96; choose a divisor",
    ),
    (
      lambda: models.describe(models.build("mae", num_classes=2, image_shape=(6, 4, 1)), (6, 4, 1)),
      "patch: 4 does not divide images of 6x4; choose a divisor of both sides",
    ),
    (
      lambda: models.build("mlp", num_classes=2, image_shape=(4, 6, 2), widths=(3,)).apply({}, (X, MASK)),
      "x: a mask of patches given to model 'mlp', which takes none; choose 'mae'",
    ),
  ],
)
def test_mistakes_are_named_in_one_line(call, message):
  with pytest.raises(UserError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)
