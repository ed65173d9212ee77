"""Perplexities of domains against NumPy in float64: unequal lengths, masked NaN, bfloat16, eager and jitted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.language.domains import domain_perplexity, mean_by_domain, target_losses

RNG = np.random.default_rng(0)
D, N, T, V = 3, 2, 5, 7
TABLE = RNG.normal(size=(V, V))
TOKENS = RNG.integers(0, V, (D, N, T))
MASK = RNG.random((D, N, T)) > 0.4
MASK[:, 0, 1] = True


def bigram(params, tokens):
  return params[tokens]


def reference(table):
  log_p = table - np.log(np.exp(table).sum(-1, keepdims=True))
  found = []
  for tokens, mask in zip(TOKENS, MASK, strict=True):
    values = [-log_p[row[t - 1], row[t]] for row, own in zip(tokens, mask, strict=True) for t in range(1, T) if own[t]]
    found.append(np.exp(np.mean(values)))
  return found


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: jax.jit(f, static_argnums=0)])
def test_perplexities_are_means_over_tokens(wrap):
  found = wrap(domain_perplexity)(bigram, jnp.float32(TABLE), jnp.int32(TOKENS), jnp.asarray(MASK))
  np.testing.assert_allclose(found, reference(TABLE), rtol=1e-5)


def test_logits_of_bfloat16_are_widened():
  table = jnp.bfloat16(TABLE)
  found = domain_perplexity(bigram, table, jnp.int32(TOKENS), jnp.asarray(MASK))
  np.testing.assert_allclose(found, reference(np.asarray(table, np.float64)), rtol=1e-5)


def test_values_that_do_not_count_may_be_anything():
  values = np.array([[1.0, np.nan, 3.0], [np.inf, 2.0, 2.0], [7.0, 7.0, 7.0]])
  where = np.array([[True, False, True], [False, True, True], [False] * 3])
  found = np.asarray(mean_by_domain(jnp.float32(values), jnp.asarray(where), jnp.int32([1, 1, 0]), 3))
  np.testing.assert_allclose(found, [np.nan, 2.0, np.nan])


def test_losses_are_those_of_the_targets():
  logits, targets = RNG.normal(size=(4, V)), RNG.integers(0, V, 4)
  want = np.log(np.exp(logits).sum(-1)) - logits[np.arange(4), targets]
  np.testing.assert_allclose(target_losses(jnp.float32(logits), jnp.int32(targets)), want, rtol=1e-5, atol=1e-6)


def test_an_empty_domain_is_refused():
  with pytest.raises(ValueError, match="none empty"):
    domain_perplexity(bigram, jnp.float32(TABLE), jnp.zeros((2, 0, T), jnp.int32), jnp.zeros((2, 0, T), bool))
