"""The mixture of two language models: its distribution at every token, its samples, and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import language, models
from jdistill.base import UserError

CONFIG = models.DecoderConfig(num_classes=7, width=8, depth=1, heads=2, context=10)
WIDER = dataclasses.replace(CONFIG, width=12)
FIRST, SECOND = models.language_model(CONFIG), models.language_model(WIDER)
PARAMS = FIRST.init(jax.random.key(0)).params, jax.tree.map(lambda a: 2 * a, SECOND.init(jax.random.key(1)).params)
PROMPTS = jnp.int32([[0, 1, 2], [3, 4, 5]])
THERE = jnp.array([[False, True, True], [True, True, True]])


def distribution(logits):
  z = np.exp(np.float64(logits) - np.max(np.float64(logits), -1, keepdims=True))
  return z / z.sum(-1, keepdims=True)


def test_samples_carry_the_mixture_s_log_probabilities():
  both = language.mixture(FIRST, SECOND, 0.3)
  samples = language.generate(both, PARAMS, PROMPTS, jax.random.key(3), max_new=5, prompt_mask=THERE)
  rows, response = language.with_prompts(PROMPTS, THERE, samples)
  q, p = (distribution(m.apply(own, rows).logits) for m, own in zip((FIRST, SECOND), PARAMS, strict=True))
  targets, mask = map(np.asarray, language.next_tokens(rows, response))
  want = np.log(np.take_along_axis(0.7 * q + 0.3 * p, targets[..., None], -1)[..., 0])[mask].reshape(2, 5)
  np.testing.assert_allclose(samples.drawn_log_probs, want, rtol=1e-4)
  np.testing.assert_allclose(samples.log_probs, want, rtol=1e-4)
  whole = both.apply(PARAMS, rows).logits
  np.testing.assert_allclose(np.exp(whole)[mask], (0.7 * q + 0.3 * p)[mask], rtol=1e-4)
  assert np.abs(q - p)[mask].max() > 0.05
  assert language.mixture(FIRST, SECOND, 0.3) is both  # and so are its programs


@pytest.mark.parametrize(("share", "side"), [(0.0, 0), (1.0, 1)])
def test_a_share_of_all_or_nothing_is_one_of_them(share, side):
  found = language.mixture(FIRST, SECOND, share).apply(PARAMS, PROMPTS).logits
  own = (FIRST, SECOND)[side].apply(PARAMS[side], PROMPTS).logits
  np.testing.assert_allclose(found, jax.nn.log_softmax(own), atol=1e-5)


def test_what_it_refuses():
  other = models.language_model(dataclasses.replace(CONFIG, num_classes=8))
  with pytest.raises(UserError, match="mixture: vocabularies of 7 and 8 tokens; both models must have the same"):
    language.mixture(FIRST, other, 0.2)
  with pytest.raises(UserError, match=r"mixture: share=1\.5"):
    language.mixture(FIRST, SECOND, 1.5)
