"""The recurrent language model: its formula in NumPy, causality, any length, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import models
from jdistill.base import UserError
from jdistill.methods.knowledge.forward import cast

TOKENS = np.array([[1, 4, 0, 2, 6], [3, 3, 5, 1, 0]], np.int32)


def _made(depth=2, **options):
  network = models.build("gru", num_classes=7, image_shape=(5,), width=4, depth=depth, **options)
  return network, network.init(jax.random.key(2))


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def _states(x, p, layer):
  gates = x @ p[f"{layer}_input"]["kernel"] + p[f"{layer}_input"]["bias"]
  state, out = np.zeros((2, 4)), []
  for t in range(gates.shape[1]):
    own = state @ p[f"{layer}_state"]["kernel"] + p[f"{layer}_state"]["bias"]
    reset, update = (_sigmoid(gates[:, t, i : i + 4] + own[:, i : i + 4]) for i in (0, 4))
    new = np.tanh(gates[:, t, 8:] + reset * own[:, 8:])
    state = (1 - update) * new + update * state
    out.append(state)
  return np.stack(out, axis=1)


def test_it_is_its_formula():
  network, variables = _made()
  p = jax.tree.map(np.float64, variables.params)
  first = _states(p["embed"]["kernel"][TOKENS], p, "gru0")
  second = _states(first, p, "gru1")
  outputs = jax.jit(network.apply)(variables.params, TOKENS)
  np.testing.assert_allclose(outputs.taps["block0"], first, atol=1e-6)
  np.testing.assert_allclose(outputs.embedding, second, atol=1e-6)
  np.testing.assert_array_equal(outputs.embedding, outputs.taps["block1"])
  np.testing.assert_allclose(outputs.logits, second @ p["head"]["kernel"] + p["head"]["bias"], atol=1e-6)
  assert outputs.stats == {} == outputs.norm_inputs
  layers = 7 * 4 + 2 * (2 * 4 * 12 + 2 * 12) + 5 * 7
  assert sum(count for *_, count in models.describe(network, (5,))) == layers


def test_later_tokens_do_not_reach_earlier_predictions_and_any_length_will_do():
  network, variables = _made(depth=1)
  run = jax.jit(network.apply)
  whole = run(variables.params, TOKENS).logits
  changed = run(variables.params, np.where(np.arange(5) >= 3, 6, TOKENS)).logits
  np.testing.assert_array_equal(whole[:, :3], changed[:, :3])
  assert np.all(np.abs(whole[1, 3:] - changed[1, 3:]).max(-1) > 1e-4)
  np.testing.assert_allclose(run(variables.params, TOKENS[:, :2]).logits, whole[:, :2], atol=1e-6)


def test_sites_gradients_and_other_precisions():
  network, variables = _made(depth=1)
  cut = network.apply(variables.params, TOKENS, sites={"block0": jnp.zeros_like}).logits
  np.testing.assert_allclose(cut, np.broadcast_to(variables.params["head"]["bias"], (2, 5, 7)), atol=1e-7)
  grads = jax.jit(jax.grad(lambda p: jnp.sum(network.apply(p, TOKENS, train=True).logits ** 2)))(variables.params)
  assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))
  assert np.all(np.any(grads["embed"]["kernel"] != 0, axis=1))  # all seven tokens occur
  half = jax.eval_shape(lambda p: network.apply(cast(p, jnp.bfloat16), TOKENS), variables.params)
  assert half.logits.dtype == jnp.bfloat16


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda n, p: models.build("gru", num_classes=7, image_shape=(8, 8, 1)), r"is not \(tokens,\), which model 'gru'"),
    (lambda n, p: models.build("mlp", num_classes=7, image_shape=(5,)), r"image_shape: \(5,\) is not \(height, width"),
    (lambda n, p: n.apply(p, jnp.zeros((2, 5))), "float32 values given to model 'gru'; it takes whole numbers"),
    (lambda n, p: n.apply(p, jnp.zeros((2, 5, 1), jnp.int32)), r"it takes \[batch, tokens\] such as \(5,\)"),
    (lambda n, p: models.build("gru", num_classes=7, image_shape=(5,), heads=2), "heads: no option of model 'gru'"),
  ],
)
def test_mistakes_are_named(call, message):
  network, variables = _made(depth=1)
  with pytest.raises(UserError, match=message) as caught:
    call(network, variables.params)
  assert "\n" not in str(caught.value)
