"""Tokens of feature maps: patches in reading order, and the same random positions in two networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.ops import sample_tokens, tokenize_feature_map


def test_tokenize():
  x = jnp.arange(2 * 4 * 6 * 2).reshape(2, 4, 6, 2)
  tokens = tokenize_feature_map(x, patch=(2, 3))
  assert tokens.shape == (2, 4, 12)
  np.testing.assert_array_equal(tokens[1, 2], np.asarray(x)[1, 2:4, 0:3].ravel())  # third patch: second row, left
  np.testing.assert_array_equal(tokenize_feature_map(x), x.reshape(2, 24, 2))
  np.testing.assert_array_equal(tokenize_feature_map(x[:, 0]), x[:, 0])


def test_sample_tokens_draws_the_same_positions_in_both():
  positions = jnp.broadcast_to(jnp.arange(5.0)[None, :, None], (3, 5, 1)) + 10 * jnp.arange(3.0).reshape(3, 1, 1)
  s, t = sample_tokens(jax.random.key(0), positions, jnp.concatenate([positions, -positions], axis=2), 4)
  assert s.shape == (12, 1) and t.shape == (12, 2)
  np.testing.assert_array_equal(s[:, 0], t[:, 0])
  np.testing.assert_array_equal(s[:, 0], -t[:, 1])
  drawn = np.asarray(s).reshape(3, 4)
  np.testing.assert_array_equal(drawn // 10, [[0] * 4, [1] * 4, [2] * 4])  # image after image
  assert all(len(set(row)) == 4 for row in drawn)  # without repetition
  assert len({tuple(row % 10) for row in drawn}) > 1  # each image its own
  gradient = jax.grad(lambda t: sample_tokens(jax.random.key(0), positions, t, 4)[1].sum())(positions)
  assert not gradient.any()


@pytest.mark.parametrize(
  "call, match",
  [
    (lambda: tokenize_feature_map(jnp.zeros((1, 4, 4, 2)), patch=3), "do not divide"),
    (lambda: tokenize_feature_map(jnp.zeros((4, 4))), "tokenize_feature_map"),
    (
      lambda: sample_tokens(jax.random.key(0), jnp.zeros((2, 3, 1)), jnp.zeros((2, 4, 1)), 2),
      "pool the larger map",
    ),
    (lambda: sample_tokens(jax.random.key(0), jnp.zeros((2, 3, 1)), jnp.zeros((2, 3, 1)), 4), "between 1 and"),
  ],
)
def test_wrong_arguments(call, match):
  with pytest.raises(ValueError, match=match):
    call()
