"""Text from a model: token by token without a cache, alone and among others, with and without early stop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jdistill import language, models
from jdistill.base import UserError
from jdistill.language.generate import _generate
from jdistill.models.decoder_config import GPT2

CONFIG = models.DecoderConfig(13, width=16, depth=2, heads=4, kv_heads=2, context=24)
MODEL = models.language_model(CONFIG)
PARAMS = MODEL.init(jax.random.key(7)).params
PARAMS["last_norm"] = {"scale": 3 * PARAMS["last_norm"]["scale"]}  # logits that differ, but not by much
PROMPTS = np.array([[3, 1, 4, 1], [0, 0, 5, 9], [0, 2, 6, 5]], np.int32)
MASK = np.array([[1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]], bool)
KEY = jax.random.key(5)
SAMPLED = {"max_new": 8, "temperature": 0.9, "top_k": 7, "top_p": 0.95}

generate = functools.partial(language.generate, MODEL, PARAMS)
apply = jax.jit(MODEL.apply)


def next_logits(tokens):
  """Of one row, from the whole of it."""
  padded = np.zeros((1, 24), np.int32)
  padded[0, : len(tokens)] = tokens
  return np.float64(apply(PARAMS, padded).logits[0, len(tokens) - 1])


def test_greedy_text_is_the_argmax_of_whole_rows():
  found = generate(PROMPTS, KEY, prompt_mask=MASK, max_new=8, temperature=0)
  for row in range(3):
    tokens = list(PROMPTS[row, MASK[row]])
    for step in range(8):
      logits = next_logits(tokens)
      tokens.append(int(logits.argmax()))
      assert found.tokens[row, step] == tokens[-1]
      np.testing.assert_allclose(found.log_probs[row, step], log_softmax(logits).max(), atol=1e-5)
  assert np.all(found.mask) and not np.any(found.drawn_log_probs)


def test_samples_have_the_log_probabilities_they_say():
  found = generate(PROMPTS, KEY, prompt_mask=MASK, **SAMPLED)
  rows, response = language.with_prompts(PROMPTS, MASK, found)
  targets, counted = language.next_tokens(rows, response)
  logits = apply(PARAMS, rows).logits
  own = log_softmax(np.float64(logits), axis=-1)
  options = {name: value for name, value in SAMPLED.items() if name != "max_new"}
  drawn = log_softmax(np.float64(language.restrict(logits, **options)), axis=-1)
  for log_probs, expected in ((found.log_probs, own), (found.drawn_log_probs, drawn)):
    taken = np.take_along_axis(expected, np.asarray(targets)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(np.asarray(log_probs)[found.mask], taken[counted], atol=1e-4)
  assert counted.sum() == 24 and np.any(found.log_probs != found.drawn_log_probs)
  assert len({tuple(row) for row in found.tokens.tolist()}) == 3


def test_a_row_does_not_depend_on_its_neighbours_nor_on_padding():
  together = generate(PROMPTS, KEY, prompt_mask=MASK, **SAMPLED)
  right = np.array([[3, 1, 4, 1, 0], [5, 9, 0, 0, 0], [2, 6, 5, 0, 0]], np.int32)
  padded = generate(right, KEY, prompt_mask=right > 0, **SAMPLED)
  np.testing.assert_array_equal(padded.tokens, together.tokens)
  for row in range(3):
    alone = generate(PROMPTS[row, MASK[row]][None], KEY, row_ids=np.array([row]), **SAMPLED)
    np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
    np.testing.assert_allclose(alone.drawn_log_probs[0], together.drawn_log_probs[row], atol=1e-5)
  other = generate(PROMPTS, KEY, prompt_mask=MASK, row_ids=np.array([0, 8, 2]), **SAMPLED)
  same = np.all(other.tokens == together.tokens, axis=1)
  assert same.tolist() == [True, False, True]
  assert np.any(generate(PROMPTS, jax.random.key(6), prompt_mask=MASK, **SAMPLED).tokens != together.tokens)


def test_continuing_a_sample_gives_the_longer_sample():
  longer = generate(PROMPTS, KEY, prompt_mask=MASK, **SAMPLED)
  begun = generate(PROMPTS, KEY, prompt_mask=MASK, **SAMPLED | {"max_new": 3})
  rows, _ = language.with_prompts(PROMPTS, MASK, begun)
  rest = generate(rows.tokens, KEY, prompt_mask=rows.segments > 0, **SAMPLED | {"max_new": 5})
  np.testing.assert_array_equal(np.concatenate([begun.tokens, rest.tokens], axis=1), longer.tokens)


def test_rows_end_at_the_end_token_and_the_loop_with_the_last_row():
  free = generate(PROMPTS, KEY, prompt_mask=MASK, **SAMPLED)
  ends = tuple(int(free.tokens[row, step]) for row, step in ((0, 2), (1, 1), (2, 4)))
  calls = []

  def decode(params, cache, tokens):
    jax.debug.callback(lambda: calls.append(1))
    return MODEL.decode(params, cache, tokens)

  found, counts = {}, {}
  counted = MODEL._replace(decode=decode)
  for early in (True, False):
    options = {"prompt_mask": MASK, "end_token": ends, "pad_token": 12, "early_stop": early, **SAMPLED}
    found[early] = jax.block_until_ready(language.generate(counted, PARAMS, PROMPTS, KEY, **options))
    jax.effects_barrier()
    counts[early], calls[:] = len(calls), []
  for one, other in zip(found[True], found[False], strict=True):
    np.testing.assert_array_equal(one, other)
  lengths = []
  for row in range(3):
    lengths.append(1 + next(i for i, token in enumerate(free.tokens[row].tolist()) if token in ends))
    inside = np.arange(8) < lengths[row]
    np.testing.assert_array_equal(found[True].mask[row], inside)
    np.testing.assert_array_equal(found[True].tokens[row], np.where(inside, free.tokens[row], 12))
    assert not np.any(found[True].log_probs[row, lengths[row] :])
  assert max(lengths) < 8 and counts == {True: max(lengths) - 1, False: 7}


def test_text_is_that_of_an_eager_loop_over_steps():
  """Operation by operation, with the keys as they are documented; and inside another program."""
  logits, cache = jax.jit(MODEL.prefill)(PARAMS, MODEL.init_cache(3, 7), PROMPTS, MASK)
  options = {name: value for name, value in SAMPLED.items() if name != "max_new"}
  columns = []
  for step in range(4):
    places = [(row, int(MASK[row].sum()) + step) for row in range(3)]
    keys = jnp.stack([jax.random.fold_in(jax.random.fold_in(KEY, row), place) for row, place in places])
    columns.append(language.sample(keys, logits, **options))
    if step < 3:
      logits, cache = MODEL.decode(PARAMS, cache, columns[-1][0])
  tokens, drawn, own = (np.stack(column, axis=1) for column in zip(*columns, strict=True))
  inside = jax.jit(lambda params, key: language.generate(MODEL, params, PROMPTS, key, prompt_mask=MASK, **SAMPLED))
  for found in (generate(PROMPTS, KEY, prompt_mask=MASK, **SAMPLED), inside(PARAMS, KEY)):
    np.testing.assert_array_equal(found.tokens[:, :4], tokens)
    np.testing.assert_allclose(found.drawn_log_probs[:, :4], drawn, atol=1e-5)
    np.testing.assert_allclose(found.log_probs[:, :4], own, atol=1e-5)


def test_other_prompts_keys_and_parameters_share_a_program():
  generate(PROMPTS, KEY, prompt_mask=MASK, **SAMPLED)
  before = _generate._cache_size()
  moved = jax.tree.map(lambda leaf: leaf + 0.1, PARAMS)
  language.generate(MODEL, moved, PROMPTS + 1, jax.random.key(1), prompt_mask=MASK, row_ids=np.arange(3), **SAMPLED)
  assert _generate._cache_size() == before


def test_several_models_are_sampled_at_once():
  stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), PARAMS)
  draw = functools.partial(language.generate, MODEL, prompt_mask=MASK, **SAMPLED)
  both = jax.vmap(lambda params: draw(params, PROMPTS, KEY))(stacked)
  for i, factor in enumerate((1.0, 0.5)):
    one = draw(jax.tree.map(functools.partial(jnp.multiply, factor), PARAMS), PROMPTS, KEY)
    np.testing.assert_array_equal(both.tokens[i], one.tokens)


def test_other_decoders_generate_too():
  model = models.language_model(models.DecoderConfig(13, width=16, context=12, dtype="bfloat16", **GPT2))
  found = language.generate(model, model.init(KEY).params, PROMPTS, KEY, prompt_mask=MASK, max_new=8)
  assert np.all(np.isfinite(found.log_probs)) and found.log_probs.dtype == jnp.float32


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"max_new": 21}, "max_new=21: prompts of 4 tokens and a response of 21 exceed the context of 24; give at most 20"),
    ({"max_new": 0}, "max_new=0: must be at least 1"),
    ({"top_k": 14}, "top_k=14: must be from 1 to 13, the size of the vocabulary"),
    ({"temperature": -0.1}, "temperature=-0.1: must be at least 0"),
    ({"prompts": np.zeros((2, 0), np.int32)}, r"prompts: shape \(2, 0\) holds no token; give every row at least one"),
    ({"prompt_mask": MASK & (np.arange(3) != 1)[:, None]}, "prompts: row 1 is empty; give every row at least one tok"),
    ({"prompts": PROMPTS + 9}, "prompts: id 13 is outside the vocabulary; give 0 to 12"),
    ({"prompts": PROMPTS.astype(np.float32)}, r"prompts: float32 of shape \(3, 4\); give whole numbers"),
    ({"prompt_mask": MASK[:2]}, r"prompt_mask: shape \(2, 4\) for prompts \(3, 4\); give one value per token"),
    ({"end_token": 13}, "end_token, pad_token: 13 is outside the vocabulary; give 0 to 12"),
    ({"pad_token": -1}, "end_token, pad_token: -1 is outside the vocabulary"),
    ({"row_ids": np.arange(4)}, r"row_ids: shape \(4,\) for 3 prompts; give one id per prompt"),
    ({"key": jax.random.split(KEY)}, r"key: key<fry> of shape \(2,\); give one typed key, jax.random.key\(seed\)"),
    ({"key": jnp.zeros(2, jnp.uint32)}, r"key: uint32 of shape \(2,\); give one typed key"),
  ],
)
def test_mistakes_are_named(changed, message):
  options = {"prompts": PROMPTS, "key": KEY, "prompt_mask": MASK, "max_new": 8} | changed
  if "prompts" in changed and "prompt_mask" not in changed:
    options["prompt_mask"] = None
  with pytest.raises(UserError, match=message) as caught:
    generate(options.pop("prompts"), options.pop("key"), **options)
  assert "\n" not in str(caught.value)
