"""Smaller decoders cut out of larger ones: against the larger one with zeros where something was cut off."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.models import DecoderConfig, decoder_slice, language_model, smaller_config
from jdistill.models.decoder_config import GPT2
from jdistill.models.decoder_slices import kept_blocks

LLAMA = DecoderConfig(
  num_classes=11, width=12, depth=3, heads=4, kv_heads=2, head_size=4, hidden=10, context=8, epsilon=1e-12
)
VARIANTS = {
  "llama": LLAMA,
  "separate": dataclasses.replace(LLAMA, tied=False, bias="qkv"),
  "gpt2": DecoderConfig(num_classes=11, width=12, depth=3, heads=3, hidden=10, context=8, **GPT2),
}
TOKENS = jnp.array([[3, 1, 4, 1, 5, 9]])


def parameters(config):
  """Values everywhere, also where a new network has zeros and ones."""
  shapes = jax.eval_shape(language_model(config).init, jax.random.key(0)).params
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2, jnp.float32), shapes)


@functools.cache
def program(config):
  return jax.jit(lambda params: language_model(config).apply(params, TOKENS).logits)


def logits(config, params):
  return np.asarray(program(config)(params), np.float64)


def zeroed(params, cut):
  """The parameters with zeros in places of layers, `{name: index}` of kernels."""
  changed = {name: dict(layer) for name, layer in params.items()}
  for name, index in cut.items():
    changed[name]["kernel"] = changed[name]["kernel"].at[index].set(0)
  return changed


def test_of_the_vocabulary_the_first_rows_stay():
  config = VARIANTS["separate"]
  params, smaller = parameters(config), smaller_config(config, num_classes=10)
  np.testing.assert_allclose(
    logits(smaller, decoder_slice(params, config, smaller)), logits(config, params)[..., :10], atol=1e-6
  )


def test_blocks_that_are_left_out_are_those_that_add_nothing():
  config = VARIANTS["gpt2"]
  params, smaller = parameters(config), smaller_config(config, depth=2)
  kept = (0, 2)
  gone = {name: dict(layer) for name, layer in params.items()}
  for name in params:
    if name.startswith("block1_") and name.endswith(("_out", "_down")):
      gone[name] = jax.tree.map(jnp.zeros_like, params[name])
  want = logits(config, gone)
  np.testing.assert_allclose(logits(smaller, decoder_slice(params, config, smaller)), want, atol=1e-5)
  jax.tree.map(
    np.testing.assert_array_equal, *(decoder_slice(params, config, smaller, blocks=b) for b in (kept, "even"))
  )


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_hidden_units_and_heads_that_are_cut_off_are_those_that_nobody_reads(variant):
  config = VARIANTS[variant]
  params, size = parameters(config), config.size
  smaller = smaller_config(config, hidden=6, kv_heads=1)
  own = smaller.heads * size
  cut = {f"block{i}_down": np.s_[6:] for i in range(3)} | {f"block{i}_out": np.s_[own:] for i in range(3)}
  found = decoder_slice(params, config, smaller)
  assert smaller.heads == config.heads // config.groups and found["block0_out"]["kernel"].shape == (own, 12)
  np.testing.assert_allclose(logits(smaller, found), logits(config, zeroed(params, cut)), atol=1e-5)


@pytest.mark.parametrize("which", ["first", "largest"])
def test_channels_that_are_cut_off_are_those_that_are_always_zero(which):
  config = LLAMA
  params, smaller = parameters(config), smaller_config(config, width=8)
  stay = np.arange(8)
  if which == "largest":
    stay = np.sort(np.argsort(-np.square(np.asarray(params["embed"]["kernel"])).sum(0))[:8])
  gone = np.setdiff1d(np.arange(12), stay)
  cut = {"embed": np.s_[:, gone]}
  for i in range(3):
    cut |= {f"block{i}_{name}": np.s_[:, gone] for name in ("out", "down")}
  full = zeroed(params, cut)
  for name, layer in full.items():
    if "norm" in name:  # the mean of the squares is over 12 channels there and 8 here
      full[name] = {"scale": layer["scale"] * np.sqrt(8 / 12)}
  found = decoder_slice(params, config, smaller, channels=which)
  np.testing.assert_allclose(logits(smaller, found), logits(config, full), atol=2e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_equal(a.shape, b.shape),
    found,
    jax.eval_shape(language_model(smaller).init, jax.random.key(0)).params,
  )


def test_which_blocks_stay():
  assert kept_blocks(30, 6) == (0, 6, 12, 17, 23, 29) and kept_blocks(30, 1) == (0,)
  assert kept_blocks(5, 2, "first") == (0, 1) and kept_blocks(5, 2, "last") == (3, 4)
  assert kept_blocks(4, 4) == (0, 1, 2, 3)


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    ({"width": 13}, r"student_weights\.width=13: the checkpoint has 12; give 1 to 12"),
    ({"depth": 5}, r"student_weights\.depth=5: the checkpoint has 3"),
    ({"heads": 3}, r"student_weights\.heads=3: the checkpoint has 2 heads for each .*; give 2"),
    ({"heads": 4, "kv_heads": 1}, r"student_weights\.heads=4: .*; give 2"),
  ],
)
def test_sizes_that_are_no_part_are_refused(sizes, message):
  with pytest.raises(UserError, match=message):
    smaller_config(LLAMA, key="student_weights.", **sizes)


def test_blocks_that_are_not_there_are_refused():
  with pytest.raises(ValueError, match=r"blocks=\(0, 3\) must be 2 numbers below 3"):
    decoder_slice(parameters(LLAMA), LLAMA, smaller_config(LLAMA, depth=2), blocks=(0, 3))
