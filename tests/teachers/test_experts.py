"""Expert training against an epoch in NumPy, and what a recorded trajectory holds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_experts as reference
import pytest

from jdistill.augment import flip_crop, identity
from jdistill.base import Outputs
from jdistill.data.samplers import epoch_batches
from jdistill.teachers import ExpertRecipe, expert_epoch, record_expert

N, SHAPE = 7, (2, 2, 1)
P = 4 * reference.CLASSES + reference.CLASSES
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, *SHAPE)), RNG.integers(0, reference.CLASSES, N).astype(np.int32)


def apply(theta, x, **_):
  weights, bias = theta[: -reference.CLASSES].reshape(-1, reference.CLASSES), theta[-reference.CLASSES :]
  return Outputs(x.reshape(x.shape[0], 4) @ weights + bias[None], x)


@pytest.mark.parametrize(
  "recipe",
  [
    ExpertRecipe(lr=0.3, batch_size=3),
    ExpertRecipe(lr=0.3, batch_size=3, momentum=0.9, weight_decay=0.1),
    ExpertRecipe(lr=0.3, batch_size=3, momentum=0.5, rho=0.1, alpha=0.3),
    ExpertRecipe(lr=0.3, batch_size=100, rho=0.1, alpha=0.0, adaptive=False),
  ],
)
def test_two_epochs_equal_numpy(recipe, x64):
  theta, velocity = np.random.default_rng(1).normal(size=P), np.zeros(P)
  carry = (jnp.asarray(theta), jnp.asarray(velocity))
  epoch = jax.jit(expert_epoch(apply, recipe, identity()))
  for number in range(2):
    key = jax.random.key(number)
    carry, loss = epoch(key, carry, jnp.asarray(X), jnp.asarray(Y))
    indices, mask = epoch_batches(jax.random.split(key)[0], N, min(recipe.batch_size, N))
    batches = [np.asarray(row)[np.asarray(valid)] for row, valid in zip(indices, mask, strict=True)]
    theta, velocity, want = reference.epoch(theta, velocity, X, Y, batches, recipe)
    np.testing.assert_allclose(loss, want, rtol=1e-10)
  np.testing.assert_allclose(carry[0], theta, rtol=1e-9)
  np.testing.assert_allclose(carry[1], velocity, rtol=1e-9)


def init(key):
  return jax.random.normal(key, (P,), jnp.float32)


@functools.lru_cache
def jitted(donate=False):
  recipe = ExpertRecipe(lr=0.1, batch_size=3, momentum=0.5)
  return jax.jit(expert_epoch(apply, recipe, flip_crop(1)), donate_argnums=(1,) if donate else ())


def record(seed, epochs=4, **options):
  x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y)
  return record_expert(jax.random.key(seed), init, options.pop("epoch", jitted()), x, y, epochs=epochs, **options)


def test_a_trajectory_starts_at_its_initialisation_and_is_decided_by_its_key():
  trajectory = record(0)
  assert trajectory.shape == (5, P) and trajectory.dtype == np.float32
  np.testing.assert_array_equal(trajectory[0], init(jax.random.fold_in(jax.random.key(0), 0)))
  assert (np.abs(np.diff(trajectory, axis=0)).max(1) > 1e-4).all()
  np.testing.assert_array_equal(trajectory, record(0))
  assert np.abs(trajectory[0] - record(1)[0]).max() > 1e-2
  np.testing.assert_array_equal(trajectory[:3], record(0, epochs=2))  # a longer run begins like a shorter one


def test_every_epoch_draws_anew():
  """From one and the same point, the epochs of one expert differ in order and augmentation."""
  carry = (init(jax.random.key(5)), jnp.zeros(P))
  ends = [jitted()(jax.random.key(k), carry, jnp.asarray(X, jnp.float32), jnp.asarray(Y))[0][0] for k in (0, 0, 1)]
  np.testing.assert_array_equal(ends[0], ends[1])
  assert np.abs(ends[0] - ends[2]).max() > 1e-4


def test_snapshots_survive_the_donation_of_the_carry():
  np.testing.assert_array_equal(record(0, epoch=jitted(donate=True)), record(0))


def test_progress_is_told_after_every_epoch():
  told = []
  trajectory = record(0, epochs=3, on_epoch=lambda number, theta, loss: told.append((number, np.array(theta), loss)))
  assert [number for number, _, _ in told] == [1, 2, 3]
  np.testing.assert_array_equal(np.stack([theta for _, theta, _ in told]), trajectory[1:])
  assert all(np.isfinite(loss) and np.shape(loss) == () for _, _, loss in told)
