"""MEAL V2's discriminator loss: one value in all modes, and who gets which gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill.losses import adversarial

RNG = np.random.default_rng(0)
S, T = RNG.normal(size=(3, 5)), RNG.normal(size=(3, 5))
W, B = RNG.normal(size=(5, 2)), RNG.normal(size=2)


def apply(params, x):
  return jnp.tanh(x) @ params[0] + params[1][None]


def reference(w, b, s, t):
  total = 0.0
  for rows, target in ((s, (1, 0)), (t, (0, 1))):
    for row in rows:
      for d, y in zip(np.tanh(row) @ w + b, target, strict=True):
        p = 1 / (1 + np.exp(-d))
        total -= y * np.log(p) + (1 - y) * np.log(1 - p)
  return total / (4 * len(s))


def arrays():
  return (jnp.asarray(W), jnp.asarray(B)), jnp.asarray(S), jnp.asarray(T)


def test_literal_numbers():
  loss = adversarial.discriminator_loss(lambda p, x: x, None, jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 0.0]]))
  np.testing.assert_allclose(loss, (np.log1p(np.exp(-2)) + 3 * np.log(2)) / 4, rtol=1e-6)


def test_modes(x64):
  params, s, t = arrays()
  grads = {}
  for mode in ("adversarial", "joint", "detached"):

    def loss(params, s, t, mode=mode):
      return adversarial.discriminator_loss(apply, params, s, t, mode=mode)

    value, grads[mode] = jax.value_and_grad(loss, argnums=(0, 1, 2))(params, s, t)
    np.testing.assert_allclose(value, reference(W, B, S, T), rtol=1e-12)
    np.testing.assert_array_equal(grads[mode][2], 0)
    np.testing.assert_allclose(grads[mode][0][0], grads["adversarial"][0][0], rtol=1e-12)
  np.testing.assert_allclose(grads["adversarial"][1], -grads["joint"][1], rtol=1e-12)
  np.testing.assert_array_equal(grads["detached"][1], 0)
  assert np.abs(grads["joint"][1]).min() > 0
  joint = lambda params, s: adversarial.discriminator_loss(apply, params, s, t, mode="joint")  # noqa: E731
  check_grads(joint, (params, s), order=1, modes=["rev"])


def test_off_does_not_call():
  assert adversarial.discriminator_loss(None, None, jnp.ones((2, 5)), jnp.ones((2, 5)), mode="off") == 0


def test_generator(x64):
  params, s, _ = arrays()
  d = np.tanh(S) @ W + B
  flipped = np.mean(np.log1p(np.exp(d)) - np.array([0, 1]) * d)
  negated = -np.mean(np.log1p(np.exp(d)) - np.array([1, 0]) * d)
  for mode, expected in (("flipped", flipped), ("negated", negated)):
    loss = lambda params, s, mode=mode: adversarial.generator_loss(apply, params, s, mode=mode)  # noqa: E731
    value, (of_params, of_student) = jax.value_and_grad(loss, argnums=(0, 1))(params, s)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_array_equal(of_params[0], 0)
    assert np.abs(of_student).min() > 0
  check_grads(lambda s: adversarial.generator_loss(apply, params, s), (s,), order=1, modes=["rev"])


def test_padding_changes_nothing(x64):
  params, s, t = arrays()
  where = jnp.array([True, True, False])
  loss = lambda s: adversarial.discriminator_loss(apply, params, s, t, mode="joint", where=where)  # noqa: E731
  value, grad = jax.value_and_grad(loss)(s.at[2].set(1e300))
  np.testing.assert_allclose(value, reference(W, B, S[:2], T[:2]), rtol=1e-12)
  np.testing.assert_array_equal(grad[2], 0)
  generator = adversarial.generator_loss(apply, params, s, where=where)
  np.testing.assert_allclose(generator, adversarial.generator_loss(apply, params, s[:2]), rtol=1e-12)
  nothing = adversarial.discriminator_loss(apply, params, s, t, where=jnp.zeros(3, bool))
  assert nothing == 0


def test_bfloat16_and_large_logits():
  logits = jnp.full((2, 2), 1e4, jnp.bfloat16)
  loss = lambda s: adversarial.discriminator_loss(lambda p, x: x, None, s, -logits)  # noqa: E731
  value, grad = jax.value_and_grad(loss)(logits)
  assert value.dtype == jnp.float32 and np.isfinite(value) and np.isfinite(grad.astype(jnp.float32)).all()


def test_errors():
  x = jnp.ones((2, 5))
  with pytest.raises(ValueError, match="mode must be one of"):
    adversarial.discriminator_loss(apply, None, x, x, mode="paper")
  with pytest.raises(ValueError, match="mode must be one of"):
    adversarial.generator_loss(apply, None, x, mode="paper")
  with pytest.raises(ValueError, match="shapes must be equal"):
    adversarial.discriminator_loss(apply, None, x, jnp.ones((2, 4)))
  with pytest.raises(ValueError, match=r"scores of shape \(4, 2\)"):
    adversarial.discriminator_loss(lambda p, x: x, None, x, x)
