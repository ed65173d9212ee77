"""Decoder-only transformers: their formula in NumPy, the cache, padding and documents, and what they refuse."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_decoder import forward

from jdistill import models
from jdistill.base import UserError
from jdistill.methods.knowledge.forward import cast
from jdistill.models.decoder_config import GPT2
from jdistill.models.decoder_layers import TokenNorm, rotate

SIZES = {"num_classes": 11, "width": 16, "depth": 2, "heads": 4, "context": 16}
CONFIGS = {
  "llama": models.DecoderConfig(**SIZES, kv_heads=2, hidden=20, tied=False, theta=100.0),
  "qwen": models.DecoderConfig(**SIZES, kv_heads=1, bias="qkv", head_size=6, epsilon=1e-6),
  "gpt2": models.DecoderConfig(**SIZES, **GPT2),
  "gpt2_apart": models.DecoderConfig(**SIZES, **GPT2 | {"fused": False}, hidden=24),
}
TOKENS = np.random.default_rng(0).integers(0, 11, (3, 7)).astype(np.int32)


@functools.cache
def made(name):
  """The model and parameters that are all drawn: norms and biases, too."""
  model = models.language_model(CONFIGS[name])
  rng, shapes = np.random.default_rng(1), jax.eval_shape(model.init, jax.random.key(0)).params

  def leaf(path, shape):
    spread = 1 / np.sqrt(shape.shape[0]) if path[-1].key == "kernel" else 0.3
    return np.float32(rng.normal(size=shape.shape) * spread + (path[-1].key == "scale"))

  return model, jax.tree.map_with_path(leaf, shapes)


@functools.cache
def programs(name):
  model, _ = made(name)
  return jax.jit(model.apply), jax.jit(model.prefill), jax.jit(model.decode)


def whole(name, x=TOKENS):
  return programs(name)[0](made(name)[1], x)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_its_formula(name):
  outputs = whole(name)
  for row, tokens in enumerate(TOKENS):
    logits, embedding, taps = forward(made(name)[1], tokens, CONFIGS[name])
    np.testing.assert_allclose(outputs.logits[row], logits, atol=1e-5)
    np.testing.assert_allclose(outputs.embedding[row], embedding, atol=1e-5)
    for i, tap in enumerate(taps):
      np.testing.assert_allclose(outputs.taps[f"block{i}"][row], tap, atol=1e-5)
  assert list(outputs.taps) == ["block0", "block1"] and outputs.stats == {} == outputs.norm_inputs
  np.testing.assert_allclose(outputs.embedding @ models.head_kernel(made(name)[1]), outputs.logits, atol=1e-5)


def test_in_float64_it_is_its_formula_to_the_last_digits(x64):
  for name in ("llama", "gpt2"):
    model, params = made(name)
    outputs = model.apply(cast(params, jnp.float64), TOKENS)
    np.testing.assert_allclose(outputs.logits[1], forward(params, TOKENS[1], CONFIGS[name])[0], atol=1e-13)


def test_neighbours_share_a_head_of_keys_and_values():
  """With copied heads of keys and values grouped attention is the ordinary one."""
  _, params = made("llama")
  full = models.language_model(dataclasses.replace(CONFIGS["llama"], kv_heads=4))

  def copied(kernel):
    return np.repeat(kernel.reshape(16, 2, 4), 2, axis=1).reshape(16, 16)

  shared = {
    layer: {"kernel": copied(leaves["kernel"])} if layer.endswith(("_key", "_value")) else leaves
    for layer, leaves in params.items()
  }
  np.testing.assert_allclose(jax.jit(full.apply)(shared, TOKENS).logits, whole("llama").logits, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_cache_gives_what_the_whole_row_gives_at_every_position(name):
  model, params = made(name)
  _, prefill, decode = programs(name)
  expected = whole(name).logits
  cache = model.init_cache(3, 9)
  for t in range(7):
    logits, cache = decode(params, cache, TOKENS[:, t])
    np.testing.assert_allclose(logits, expected[:, t], atol=1e-5)
  at_once, filled = prefill(params, model.init_cache(3, 9), TOKENS, np.ones((3, 7), bool))
  np.testing.assert_allclose(at_once, expected[:, -1], atol=1e-5)
  assert jax.tree.structure(filled) == jax.tree.structure(cache)
  for one, other in zip(jax.tree.leaves(filled), jax.tree.leaves(cache), strict=True):
    assert one.dtype == other.dtype
    np.testing.assert_allclose(one, other, atol=1e-5)
  assert filled.keys[0].shape == (3, CONFIGS[name].groups, 9, 4) and int(filled.used) == 7


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_of_different_lengths_share_a_cache(name, side):
  """Padding on either side; its ids are out of range, so that what they would give is NaN."""
  model, params = made(name)
  _, prefill, decode = programs(name)
  lengths = (2, 4, 3)
  tokens, mask = np.full((3, 4), 99, np.int32), np.zeros((3, 4), bool)
  for row, length in enumerate(lengths):
    place = slice(4 - length, 4) if side == "left" else slice(0, length)
    tokens[row, place], mask[row, place] = TOKENS[row, :length], True
  expected = whole(name).logits
  logits, cache = prefill(params, model.init_cache(3, 7), tokens, mask)
  for step in range(4):
    for row, length in enumerate(lengths):
      np.testing.assert_allclose(logits[row], expected[row, length - 1 + step], atol=1e-5)
    if step < 3:
      logits, cache = decode(params, cache, np.array([TOKENS[r, n + step] for r, n in enumerate(lengths)]))
  assert cache.positions.tolist() == [5, 7, 6]
  assert np.all(np.isnan(decode(params, cache, TOKENS[:, 0])[0]))  # the cache is full


def _packed():
  """Rows of TOKENS in one: 3 tokens, padding, 4 tokens, 1 token, padding; and padding alone."""
  tokens, segments, positions = np.full((2, 12), 99), np.zeros((2, 12), np.int32), np.zeros((2, 12), np.int32)
  for number, (row, start, length) in enumerate(((0, 0, 3), (1, 5, 4), (2, 9, 1)), 1):
    tokens[0, start : start + length] = TOKENS[row, :length]
    segments[0, start : start + length] = number
    positions[0, start : start + length] = np.arange(length)
  return models.Rows(tokens.astype(np.int32), segments, positions)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_documents_of_a_row_do_not_see_each_other_nor_padding(name):
  expected, rows = whole(name), _packed()
  found = whole(name, rows)
  for row, start, length in ((0, 0, 3), (1, 5, 4), (2, 9, 1)):
    np.testing.assert_allclose(found.logits[0, start : start + length], expected.logits[row, :length], atol=1e-5)
  assert np.all(np.isfinite(found.logits)) and np.all(np.isfinite(found.embedding))


def test_gradients_pass_by_padding():
  model, params = made("gpt2")
  rows = _packed()

  def loss(params, rows):
    return jnp.sum(jnp.where((rows.segments > 0)[..., None], model.apply(params, rows).logits, 0) ** 2)

  def apart(params):
    logits = model.apply(params, TOKENS[:, :4]).logits
    return jnp.sum(jnp.where(np.arange(4) < np.array([[3], [4], [1]]), jnp.sum(logits**2, -1), 0))

  packed, expected = jax.jit(jax.grad(loss))(params, rows), jax.jit(jax.grad(apart))(params)
  for one, other in zip(jax.tree.leaves(packed), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(one, other, atol=2e-4 * np.abs(other).max())


def test_later_tokens_do_not_reach_earlier_predictions_and_ids_out_of_range_are_seen():
  expected = whole("llama").logits
  changed = whole("llama", np.where(np.arange(7) >= 4, (TOKENS + 1) % 11, TOKENS)).logits
  np.testing.assert_array_equal(changed[:, :4], expected[:, :4])
  assert np.all(np.abs(changed[:, 4:] - expected[:, 4:]).max(-1) > 1e-3)
  wrong = TOKENS.copy()
  wrong[1, 4] = 11
  found = whole("llama", wrong).logits
  assert np.all(np.isnan(found[1])) and np.array_equal(found[::2], expected[::2])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_bfloat16_stays_near_and_finite(name):
  model = models.language_model(dataclasses.replace(CONFIGS[name], dtype="bfloat16"))
  params = made(name)[1]
  outputs = jax.jit(model.apply)(params, TOKENS)
  assert outputs.logits.dtype == jnp.float32 and outputs.embedding.dtype == jnp.bfloat16
  np.testing.assert_allclose(outputs.logits, whole(name).logits, atol=0.15)
  logits, cache = jax.jit(model.prefill)(params, model.init_cache(3, 8), TOKENS)
  assert cache.keys[0].dtype == jnp.bfloat16
  np.testing.assert_allclose(logits, outputs.logits[:, -1], atol=0.05)
  huge = jax.tree.map(lambda leaf: 1e3 * leaf, params)
  assert np.all(np.isfinite(jax.jit(model.apply)(huge, TOKENS).logits))
  half = jax.eval_shape(lambda p: made(name)[0].apply(cast(p, jnp.bfloat16), TOKENS), params)
  assert half.embedding.dtype == jnp.bfloat16 and half.logits.dtype == jnp.float32


def test_a_gradient_may_compute_blocks_anew():
  model, params = made("llama")
  remat = models.language_model(dataclasses.replace(CONFIGS["llama"], remat=True))

  def gradient(model):
    program = jax.jit(jax.grad(lambda params: jnp.sum(model.apply(params, TOKENS).logits ** 2))).lower(params).compile()
    return program(params), program.cost_analysis()["flops"]

  (kept, before), (anew, after) = gradient(model), gradient(remat)
  for one, other in zip(jax.tree.leaves(kept), jax.tree.leaves(anew), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(one).max())
  assert after > 1.15 * before


def test_rotation_depends_on_distances_and_pairs_halves():
  rng = np.random.default_rng(2)
  query, key = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

  def at(x, place):
    return rotate(jnp.asarray(x), jnp.full((1, 1), place), 100.0)

  products = [float(jnp.sum(at(query, place) * at(key, place - 3))) for place in (3, 8, 400)]
  np.testing.assert_allclose(products, products[0], rtol=1e-4)
  assert abs(products[0] - float(np.sum(query * key))) > 0.1
  unit = rotate(jnp.zeros((1, 1, 1, 8)).at[..., 1].set(1), jnp.ones((1, 1), jnp.int32), 100.0)[0, 0, 0]
  angle = 100.0 ** (-1 / 4)
  np.testing.assert_allclose(unit, [0, np.cos(angle), 0, 0, 0, np.sin(angle), 0, 0], atol=1e-6)


def test_norms_add_up_in_float32():
  x = jnp.full((1, 1, 4096), 300.0, jnp.bfloat16)  # the sum of squares has no place in bfloat16
  y = TokenNorm("rms", 1e-5).apply({"params": {"scale": jnp.ones(4096)}}, x)
  np.testing.assert_array_equal(y.astype(jnp.float32), np.ones((1, 1, 4096)))


def test_first_parameters():
  config = models.DecoderConfig(50, width=48, depth=8, heads=4, kv_heads=2)
  params = models.language_model(config).init(jax.random.key(3)).params
  spread = 1 / np.sqrt(3 * 48)
  for name in ("embed", "block3_query", "block5_gate"):
    assert np.std(params[name]["kernel"]) == pytest.approx(spread, rel=0.1)
  for name in ("block0_out", "block7_down"):
    assert np.std(params[name]["kernel"]) == pytest.approx(spread / 4, rel=0.1)
  assert np.all(params["last_norm"]["scale"] == 1) and "head" not in params
  logits = jax.eval_shape(models.language_model(config).apply, params, TOKENS).logits
  assert logits.shape == (3, 7, 50)


def test_counts_are_the_published_ones():
  smollm2 = models.DecoderConfig(
    49_152, width=576, depth=30, heads=9, kv_heads=3, hidden=1536, context=8192, theta=100_000.0
  )
  gpt2 = models.DecoderConfig(50_257, width=768, depth=12, heads=12, **GPT2)
  for config, count in ((smollm2, 134_515_008), (gpt2, 124_439_808)):
    shapes = jax.eval_shape(models.language_model(config).init, jax.random.key(0)).params
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


def test_they_are_networks_of_the_zoo():
  network = models.build("decoder", num_classes=11, image_shape=(7,), width=16, kv_heads=2)
  model = models.language_model(models.DecoderConfig(11, width=16, kv_heads=2))
  assert network.apply is model.apply and network is models.build(
    "decoder", num_classes=11, image_shape=(7,), width=16, kv_heads=2
  )
  assert models.options("decoder")["kv_heads"] == 0 and models.options("decoder")["init"] == "decoder"
  assert "norm" not in models.options("gpt2")
  names = [name for name, *_ in models.describe(models.build("gpt2", num_classes=11, image_shape=(7,), depth=1), (7,))]
  assert names == sorted(
    [f"block0_{layer}/{kind}" for layer in ("qkv", "out", "up", "down") for kind in ("bias", "kernel")]
    + [f"{layer}/{kind}" for layer in ("block0_norm0", "block0_norm1", "last_norm") for kind in ("bias", "scale")]
    + ["embed/kernel", "positions/kernel"]
  )
  torch = models.build("decoder", num_classes=11, image_shape=(7,), width=16, init="torch").init(jax.random.key(0))
  assert 0.2 < np.abs(torch.params["block0_query"]["kernel"]).max() <= 0.25


def test_sites_replace_states():
  model, params = made("llama")
  cut = model.apply(params, TOKENS, sites={"embedding": jnp.zeros_like}).logits
  np.testing.assert_array_equal(cut, np.zeros((3, 7, 11)))
  with pytest.raises(UserError, match="sites: block9 not in this network; available are block0, block1, embedding"):
    model.apply(params, TOKENS, sites={"block9": jnp.zeros_like})


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda m, p: models.DecoderConfig(11, heads=6), "heads: 6 does not divide width 64; choose a divisor"),
    (lambda m, p: models.DecoderConfig(11, kv_heads=3), "kv_heads: 3 does not divide heads 4; choose a divisor"),
    (lambda m, p: models.DecoderConfig(11, head_size=5), "head_size: 5 is odd, and rotary positions turn pairs"),
    (lambda m, p: models.DecoderConfig(11, norm="batch"), "norm: 'batch' is unknown; choose one of rms, layer"),
    (lambda m, p: models.DecoderConfig(0), "num_classes: 0 is not a whole number: give one from 1"),
    (lambda m, p: models.DecoderConfig(11, depth=1.5), "depth: 1.5 is not a whole number: give one from 1"),
    (lambda m, p: models.DecoderConfig(11, theta=-1.0), "theta: -1.0 is no positive number; give one such as 10000"),
    (lambda m, p: models.DecoderConfig(11, tied="no"), "tied: 'no' is neither True nor False"),
    (lambda m, p: models.language_model(CONFIGS["llama"], "hee"), "init: 'hee' is unknown; choose one of decoder, tor"),
    (lambda m, p: m.apply(p, np.zeros((1, 17), np.int32)), "x: rows of 17 tokens; the model takes 1 to 16, its cont"),
    (lambda m, p: m.apply(p, np.zeros((1, 0), np.int32)), "x: rows of 0 tokens; the model takes 1 to 16"),
    (lambda m, p: m.apply(p, jnp.zeros((1, 3))), "x: float32 values given to a decoder; it takes whole numbers"),
    (lambda m, p: m.apply(p, np.zeros(3, np.int32)), r"x: shape \(3,\) given to a decoder; it takes \[batch, tokens\]"),
    (lambda m, p: m.apply(p, _packed()._replace(positions=np.zeros(12))), "tokens, segments and positions of shapes"),
    (lambda m, p: m.init_cache(1, 17), "length: a cache of 17 tokens; give 1 to 16, the context of the model"),
    (lambda m, p: m.prefill(p, m.init_cache(3, 6), TOKENS), "tokens: 7 do not fit a cache of 6; make a longer one"),
    (
      lambda m, p: models.build("decoder", num_classes=11, image_shape=(99,), context=32),
      "context: 32 of model 'decoder' is less than the 99 tokens of a row; raise it",
    ),
    (
      lambda m, p: models.build("decoder", num_classes=11, image_shape=(9,), depths=3),
      "depths: no option of model 'decoder' .did you mean depth",
    ),
    (
      lambda m, p: models.build("gpt2", num_classes=2**30, image_shape=(9,)),
      "model 'gpt2': would have 6.87e.10 parameters, more than 1e.10; lower its width or depth",
    ),
  ],
)
def test_mistakes_are_named(call, message):
  with pytest.raises(UserError, match=message) as caught:
    call(*made("llama"))
  assert "\n" not in str(caught.value)
