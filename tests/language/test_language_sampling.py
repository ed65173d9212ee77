"""Which tokens are drawn, how often, and with what probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from jdistill import language
from jdistill.base import UserError

LOGITS = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32) * 2
LOGITS[4] = np.round(LOGITS[4])  # equal logits
LOGITS[5] = 1.5


def restricted(logits, temperature, top_k, top_p):
  """Token by token, from the most probable one."""
  out = np.full(logits.shape, -np.inf)
  for row, own in enumerate(np.float64(logits) / temperature):
    order = np.argsort(-own, kind="stable")[:top_k]
    mass = softmax(own[order])
    kept = [token for i, token in enumerate(order) if i == 0 or top_p is None or mass[:i].sum() < top_p]
    out[row, kept] = own[kept]
  return out


@pytest.mark.parametrize("temperature", [0.5, 1.7])
@pytest.mark.parametrize(("top_k", "top_p"), [(None, None), (3, None), (None, 0.6), (4, 0.75), (9, 1.0), (1, 0.01)])
def test_what_may_be_drawn(temperature, top_k, top_p):
  found = language.restrict(LOGITS, temperature=temperature, top_k=top_k, top_p=top_p)
  np.testing.assert_allclose(found, restricted(LOGITS, temperature, top_k, top_p), rtol=1e-6)
  assert np.all(np.sum(np.isfinite(found), axis=1) <= (top_k or 9))


def test_frequencies_are_the_probabilities_and_log_probabilities_are_theirs():
  count = 8000
  options = {"temperature": 0.8, "top_k": 5, "top_p": 0.95}
  draw = jax.jit(lambda keys, logits: language.sample(keys, logits, **options))
  logits = np.repeat(LOGITS[:1], count, axis=0)
  tokens, drawn, own = draw(jax.random.split(jax.random.key(1), count), logits)
  probabilities = softmax(restricted(LOGITS[:1], *options.values())[0])
  frequencies = np.bincount(tokens, minlength=9) / count
  assert np.all(np.abs(frequencies - probabilities) <= 4 * np.sqrt(probabilities * (1 - probabilities) / count))
  np.testing.assert_allclose(drawn, np.log(probabilities[tokens]), rtol=1e-5)
  np.testing.assert_allclose(own, log_softmax(LOGITS[0])[tokens], rtol=1e-5)


def test_temperature_0_takes_the_greatest_logit():
  tokens, drawn, own = language.sample(jax.random.split(jax.random.key(0), 6), jnp.asarray(LOGITS), temperature=0)
  np.testing.assert_array_equal(tokens, LOGITS.argmax(1))
  np.testing.assert_array_equal(drawn, np.zeros(6))
  np.testing.assert_allclose(own, log_softmax(LOGITS, axis=1).max(1), rtol=1e-5)
  one, *_ = language.sample(jax.random.split(jax.random.key(0), 6), jnp.asarray(LOGITS), top_k=1)
  np.testing.assert_array_equal(one, tokens)


def test_bfloat16_logits_are_summed_in_float32():
  logits = jnp.asarray(LOGITS, jnp.bfloat16)
  _, drawn, own = language.sample(jax.random.split(jax.random.key(0), 6), logits, top_p=0.9)
  assert drawn.dtype == own.dtype == jnp.float32
  assert language.restrict(logits, top_k=2).dtype == jnp.float32


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"temperature": -1.0}, "temperature=-1.0: must be at least 0 and finite; 0 takes the most probable token"),
    ({"temperature": float("nan")}, "temperature=nan: must be at least 0 and finite"),
    ({"temperature": 0}, "temperature=0: no distribution; take the greatest logit, as `sample` does"),
    ({"top_k": 10}, "top_k=10: must be from 1 to 9, the size of the vocabulary, or None for all"),
    ({"top_k": 0}, "top_k=0: must be from 1 to 9"),
    ({"top_p": 0.0}, "top_p=0.0: must be above 0 and at most 1, or None for all"),
    ({"top_p": 1.5}, "top_p=1.5: must be above 0"),
  ],
)
def test_mistakes_are_named(options, message):
  with pytest.raises(UserError, match=message) as caught:
    language.restrict(LOGITS, **options)
  assert "\n" not in str(caught.value)
