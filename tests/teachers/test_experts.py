"""Experts, whose trajectories are matched, are trained as students are: against an epoch in NumPy."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy_experts as reference
import pytest

from jdistill.base import Batch, Network, Outputs, Variables
from jdistill.data.policies import shuffle
from jdistill.methods.knowledge import Sharpness, StudentInput, logits, student_method
from jdistill.methods.optimizers import make_optimizer
from jdistill.training import Hooks, run_loop
from jdistill.training.policy_stream import policy_stream

N, SHAPE, EPOCHS = 7, (2, 2, 1), 2
P = 4 * reference.CLASSES + reference.CLASSES
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, *SHAPE)).astype(np.float32), RNG.integers(0, reference.CLASSES, N).astype(np.int32)
DATA = Batch(X, Y, np.arange(N, dtype=np.int32))


class Recipe(NamedTuple):
  lr: float = 0.3
  batch_size: int = 3
  momentum: float = 0.0
  weight_decay: float = 0.0
  rho: float = 0.0
  alpha: float = 0.3
  adaptive: bool = True


def apply(theta, x, **_):
  weights, bias = theta[: -reference.CLASSES].reshape(-1, reference.CLASSES), theta[-reference.CLASSES :]
  return Outputs(x.reshape(x.shape[0], 4) @ weights + bias[None], x)


NETWORK = Network(lambda key: Variables(jax.random.normal(key, (P,), jnp.float32)), apply)


def join(data, row):
  batch = jax.tree.map(lambda leaf: leaf[row.index], data)._replace(weight=row.weight)
  return StudentInput(batch, row.step, row.epoch)


@functools.cache
def trajectory(recipe, seeds=(0,), chunk_size=None, steps_per_call=3):
  """Snapshots `[epochs + 1, seeds, P]`, and what was drawn."""
  method = student_method(
    NETWORK,
    logits.ce(),
    optimizer=make_optimizer("sgd", recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay),
    sharpness=Sharpness(recipe.rho, recipe.alpha, recipe.adaptive) if recipe.rho else None,
    chunk_size=chunk_size,
  )
  policy, size, kept = shuffle(N, recipe.batch_size, drop_last=False), min(N, recipe.batch_size), []
  stream = policy_stream(
    policy, jax.random.key(1), shared=DATA, members=np.tile(np.arange(N), (len(seeds), 1)), join=join, epochs=EPOCHS,
    seeds=seeds, batch_size=size, record=True,
  )  # fmt: skip
  keep = lambda step, trained: kept.append(np.array(trained.variables["student"].params))  # noqa: E731
  run_loop(
    method, stream, key=jax.random.key(2), steps=None, seeds=seeds, steps_per_call=steps_per_call,
    snapshot_every=policy.steps, hooks=Hooks(on_snapshot=keep),
  )  # fmt: skip
  return np.stack(kept), stream.drawn()


@pytest.mark.parametrize(
  "recipe",
  [
    Recipe(),
    Recipe(momentum=0.9, weight_decay=0.1),
    Recipe(momentum=0.5, rho=0.1),
    Recipe(batch_size=100, rho=0.1, alpha=0.0, adaptive=False),
  ],
)
def test_two_epochs_equal_numpy(recipe):
  found, drawn = trajectory(recipe)
  assert found.shape == (EPOCHS + 1, 1, P)
  steps = -(-N // recipe.batch_size)
  theta, velocity = found[0, 0].astype(np.float64), np.zeros(P)
  for number in range(EPOCHS):
    rows = range(number * steps, (number + 1) * steps)
    batches = [drawn.index[i, 0][drawn.weight[i, 0] > 0] for i in rows]
    theta, velocity, _ = reference.epoch(theta, velocity, X.astype(np.float64), Y, batches, recipe)
    np.testing.assert_allclose(found[number + 1, 0], theta, rtol=2e-5, atol=2e-6)
  assert np.abs(found[-1] - found[0]).max() > 1e-2


def test_an_expert_does_not_depend_on_those_beside_it_nor_on_how_it_is_computed():
  recipe = Recipe(momentum=0.5, rho=0.1)
  want = trajectory(recipe)[0][:, 0]
  np.testing.assert_allclose(trajectory(recipe, (3, 0))[0][:, 1], want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(trajectory(recipe, chunk_size=1)[0][:, 0], want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(trajectory(recipe, steps_per_call=1)[0][:, 0], want, rtol=1e-5, atol=1e-6)
  assert np.abs(trajectory(recipe, (3, 0))[0][:, 0] - want).max() > 1e-2
