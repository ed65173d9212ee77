"""Seeds that train side by side: each is what it is alone, on one device and on many."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_method

from jdistill.base import Batch, Network, Outputs, Variables
from jdistill.methods.knowledge import Epoch, student_method
from jdistill.methods.knowledge.logits import ce
from jdistill.training import parallel
from jdistill.training.side_by_side import side_by_side

KEY, SEEDS = jax.random.key(2), [4, 0, 7]
many_devices = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")
ways = pytest.mark.parametrize(
  ("at_once", "devices"),
  [(True, 1), (False, 1), pytest.param(True, 8, marks=many_devices), pytest.param(False, 2, marks=many_devices)],
  ids=["stacked", "in turn", "on eight devices", "in turn on two devices"],
)


def shared(batch):
  return (), batch


def toy(seeds, *, at_once=True, devices=1):
  """The toy of this folder; all seeds see the same batch."""
  mesh = parallel.make_mesh(pool=devices) if devices > 1 else None
  return side_by_side(toy_method.toy(), seeds, divide=shared, join=lambda own, batch: batch, at_once=at_once, mesh=mesh)


def run(method, batches, steps=3):
  state = jax.jit(method.init)(KEY, batches(0))
  step, shown = jax.jit(method.step), []
  for number in range(steps):
    state, metrics = step(jax.random.fold_in(KEY, number), state, batches(number))
    shown.append(metrics)
  return jax.device_get(method.result(state)), jax.device_get(shown)


def alone(seed, steps=3):
  """What the method does with the seed's own keys, without any of this."""
  method, batches = toy_method.toy(), toy_method.stream()
  state, shown = method.init(jax.random.fold_in(KEY, seed), batches(0)), []
  for number in range(steps):
    key = jax.random.fold_in(jax.random.fold_in(KEY, number), seed)
    state, metrics = method.step(key, state, batches(number))
    shown.append(metrics["toy/loss"])
  return state["w"], shown


@ways
def test_a_seed_among_others_is_the_seed_alone(at_once, devices):
  found, shown = run(toy(SEEDS, at_once=at_once, devices=devices), toy_method.stream())
  want = [alone(seed) for seed in SEEDS]
  assert found.shape == (3, 3)  # what filled the devices up is thrown away
  np.testing.assert_allclose(found, np.stack([w for w, _ in want]), rtol=1e-5)
  assert len({row.tobytes() for row in found}) == 3
  losses = np.mean([losses for _, losses in want], axis=0)
  np.testing.assert_allclose([metrics["toy/loss"] for metrics in shown], losses, rtol=1e-5)


def apply(params, x, *, train=False, rngs=None, stats=None, sites=None):
  return Outputs(x @ params, x, stats={})


NETWORK = Network(lambda key: Variables(jax.random.normal(key, (2, 3))), apply)
RNG = np.random.default_rng(0)
DATA = Batch(jnp.float32(RNG.normal(size=(12, 2))), jnp.int32(RNG.integers(0, 3, 12)), jnp.arange(12))
MEMBERS = {0: [0, 1, 2, 3], 4: [2, 3, 4, 5], 7: [8, 9, 10, 11]}
STARTS = {seed: jnp.full((2, 3), float(seed)) for seed in SEEDS}


@functools.cache
def students(seeds, start=False, devices=1):
  """Students with examples, and perhaps starts, of their own."""
  method = student_method(NETWORK, ce(), optimizer=optax.sgd(0.5, 0.9), batch_size=2)
  stacked = side_by_side(
    method,
    seeds,
    divide=lambda epoch: ((epoch.members, epoch.start), epoch._replace(members=None, start=None)),
    join=lambda own, epoch: epoch._replace(members=own[0], start=own[1]),
    at_once=True,
    mesh=parallel.make_mesh(pool=devices) if devices > 1 else None,
  )
  members = jnp.int32([MEMBERS[seed] for seed in seeds])
  starts = Variables(jnp.stack([STARTS[seed] for seed in seeds])) if start else None

  def batches(number):
    return Epoch(jnp.int32(number), DATA, members, start=starts)

  found, _ = run(stacked, batches, steps=2)
  return found.variables["student"].params


@pytest.mark.parametrize("devices", [1, pytest.param(8, marks=many_devices)])
@pytest.mark.parametrize("start", [False, True], ids=["new", "started"])
def test_students_keep_their_examples_and_starts_whoever_is_beside_them(devices, start):
  together = students(tuple(SEEDS), start, devices)
  np.testing.assert_allclose(together[1:2], students((SEEDS[1],), start), rtol=1e-5, atol=1e-6)
  assert not np.allclose(together[0], together[1])
  if start:  # two epochs do not lead far from where one came from
    assert np.abs(together.mean((1, 2)) - np.array(SEEDS)).max() < 1


def test_more_seeds_change_nothing_for_those_before():
  few, more = (run(toy(seeds), toy_method.stream())[0] for seeds in ([4, 0], [4, 0, 1, 2, 3]))
  np.testing.assert_allclose(more[:2], few, rtol=1e-6)
