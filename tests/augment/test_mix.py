"""Cutmix, mixup and MixDistribution against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.augment import mix
from jdistill.base import UserError

X = np.random.default_rng(0).normal(2.0, 3.0, size=(3, 4, 4, 2))


def test_equals_numpy(x64):
  partner, share = np.array([1, 2, 0]), np.array([0.25, 0.0, 1.0])
  ours = mix.exchange_statistics(jnp.asarray(X), jnp.asarray(partner), jnp.asarray(share), eps=0.0)
  for i, (j, lam) in enumerate(zip(partner, share, strict=True)):
    for c in range(2):
      a, b = X[i, ..., c], X[j, ..., c]
      wanted = (a - a.mean()) / a.std() * (lam * a.std() + (1 - lam) * b.std()) + lam * a.mean() + (1 - lam) * b.mean()
      np.testing.assert_allclose(ours[i, ..., c], wanted, rtol=1e-10)
  np.testing.assert_allclose(ours[2], X[2], rtol=1e-10)  # all its own


def test_gradient_holds_statistics_constant(x64):
  partner, share = jnp.array([1, 2, 0]), jnp.zeros(3)
  grad = jax.grad(lambda x: mix.exchange_statistics(x, partner, share, eps=0.0).sum())(jnp.asarray(X))
  spread = X.std(axis=(1, 2), keepdims=True)
  np.testing.assert_allclose(grad, np.broadcast_to(spread[[1, 2, 0]] / spread, X.shape), rtol=1e-10)


def test_draws():
  x = jnp.asarray(X, jnp.float32)
  first = mix.mix_distribution(jax.random.key(0), x, beta=1.0)
  np.testing.assert_array_equal(first, mix.mix_distribution(jax.random.key(0), x, beta=1.0))
  assert np.abs(first - mix.mix_distribution(jax.random.key(1), x, beta=1.0)).max() > 1e-3
  assert np.abs(first - x).max() > 1e-3
  own, new = np.asarray(x).mean((1, 2)), np.asarray(first).mean((1, 2))
  assert (new >= own.min(0) - 1e-4).all() and (new <= own.max(0) + 1e-4).all()  # means are mixed, not invented


def test_one_colour_and_bfloat16():
  x = jnp.stack([jnp.ones((2, 2, 1)), jnp.zeros((2, 2, 1))]).astype(jnp.bfloat16)
  mixed = mix.mix_distribution(jax.random.key(0), x)
  assert mixed.dtype == jnp.bfloat16 and np.isfinite(mixed.astype(jnp.float32)).all()


def test_errors():
  key = jax.random.key(0)
  for call, match in (
    (lambda: mix.mix_distribution(key, jnp.ones((1, 2, 2, 1))), "batch of 1"),
    (lambda: mix.mix_distribution(key, jnp.ones((2, 2, 1))), "x: shape"),
    (lambda: mix.mix_distribution(key, jnp.ones((2, 2, 2, 1)), beta=0.0), "beta: 0.0"),
  ):
    with pytest.raises(UserError, match=match):
      call()


def test_cutmix_pastes_the_box_of_the_partner():
  record = mix.MixRecord(jnp.array([2, 0, 1]), jnp.float32(0.75), jnp.array([1, 0, 3, 2]))
  found = mix.cutmix().apply(record, jnp.float32(X))
  wanted = np.float32(X).copy()
  wanted[:, 1:3, 0:2] = np.float32(X)[[2, 0, 1], 1:3, 0:2]
  np.testing.assert_array_equal(found, wanted)


def test_cutmix_draws_boxes_of_the_published_size():
  sample = jax.jit(jax.vmap(lambda key: mix.cutmix().sample(key, (5, 20, 12, 1))))
  record = jax.device_get(sample(jax.random.split(jax.random.key(0), 3000)))
  sides = record.box[:, 2:] - record.box[:, :2]
  assert (record.box >= 0).all() and (sides >= 0).all() and (record.box[:, 2:] <= [20, 12]).all()
  np.testing.assert_allclose(record.share, 1 - sides.prod(1) / 240, atol=1e-6)
  assert (np.sort(record.partner, axis=1) == np.arange(5)).all() and len(np.unique(record.partner, axis=0)) > 100
  # boxes that no border cut have even sides of one common share of the image, sqrt(1 - lam)
  inner = ((record.box[:, :2] > 0) & (record.box[:, 2:] < [20, 12])).all(1)
  assert inner.sum() > 100 and (sides[inner] % 2 == 0).all()
  assert (np.abs(sides[inner] / [20, 12] @ [1, -1]) < 2 / 12 + 1e-6).all()
  # lam uniform: with rounding down and cuts the pasted share is below 1 - lam, whose mean is a half
  assert 0.2 < (1 - record.share).mean() < 0.5


def test_mixup_and_targets():
  record = mix.MixRecord(jnp.array([1, 2, 0]), jnp.float32(0.25), jnp.zeros(4, jnp.int32))
  x, y = np.float32(X), np.eye(3, dtype=np.float32)
  np.testing.assert_allclose(mix.mixup().apply(record, jnp.asarray(x)), 0.25 * x + 0.75 * x[[1, 2, 0]], rtol=1e-6)
  np.testing.assert_allclose(
    mix.mix_targets(record, jnp.asarray(y)), [[0.25, 0.75, 0], [0, 0.25, 0.75], [0.75, 0, 0.25]]
  )
  shares = jax.vmap(lambda key: mix.mixup(0.8).sample(key, X.shape).share)(jax.random.split(jax.random.key(0), 4000))
  spread = 1 / (4 * (2 * 0.8 + 1))  # variance of Beta(a, a)
  assert abs(float(shares.mean()) - 0.5) < 5 * np.sqrt(spread / 4000) and abs(float(shares.var()) - spread) < 0.005
