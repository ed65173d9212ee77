"""Seeds that train side by side: each is what it is alone, on one device and on many."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_method

from jdistill.base import Batch, Network, Outputs, Variables
from jdistill.methods.knowledge import StudentInput, student_method
from jdistill.methods.knowledge.logits import ce
from jdistill.training import Checkpoints, Hooks, Stream, parallel, run_loop

KEY, SEEDS, STEPS = jax.random.key(2), [4, 0, 7], 5
many_devices = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")
ways = pytest.mark.parametrize(
  ("at_once", "devices", "k"),
  [
    (True, 1, 1), (True, 1, 3), (False, 1, 3), pytest.param(True, 8, 3, marks=many_devices),
    pytest.param(False, 2, 3, marks=many_devices),
  ],
  ids=["stacked", "stacked, three steps a call", "in turn", "on eight devices", "in turn on two devices"],
)  # fmt: skip
TOY = toy_method.toy()


def rows(seeds):
  """All seeds see the same batches."""
  batch = toy_method.stream()
  return Stream(lambda first, count: np.stack([[batch(first + i)] * len(seeds) for i in range(count)]))


def run(seeds, *, at_once=True, devices=1, k=3):
  mesh, shown = parallel.make_mesh(pool=devices) if devices > 1 else None, []
  outcome = run_loop(
    TOY, rows(seeds), key=KEY, steps=STEPS, seeds=seeds, at_once=at_once, pool_mesh=mesh, steps_per_call=k,
    log_every=1, hooks=Hooks(on_metrics=lambda step, metrics: shown.append(metrics["toy/loss"])),
  )  # fmt: skip
  return jax.device_get(outcome.result), shown


@functools.cache
def alone(seed):
  """What the method does with the seed's own keys, without any of this."""
  init, key = (jax.random.fold_in(part, seed) for part in jax.random.split(KEY))
  batches, shown = toy_method.stream(), []
  state = TOY.init(init, batches(0))
  for number in range(STEPS):
    state, metrics = TOY.step(jax.random.fold_in(key, number), state, batches(number))
    shown.append(metrics["toy/loss"])
  return state["w"], shown


@ways
def test_a_seed_among_others_is_the_seed_alone(at_once, devices, k):
  found, shown = run(SEEDS, at_once=at_once, devices=devices, k=k)
  want = [alone(seed) for seed in SEEDS]
  assert found.shape == (3, 3)  # what filled the devices up is thrown away
  np.testing.assert_allclose(found, np.stack([w for w, _ in want]), rtol=1e-5)
  assert len({row.tobytes() for row in found}) == 3
  losses = np.mean([losses for _, losses in want], axis=0)
  expected = losses if k == 1 else [losses[:3].mean(), losses[3:].mean()]
  np.testing.assert_allclose(shown, expected, rtol=1e-5)


def apply(params, x, *, train=False, rngs=None, stats=None, sites=None):
  return Outputs(x @ params, x, stats={})


NETWORK = Network(lambda key: Variables(jax.random.normal(key, (2, 3))), apply)
RNG = np.random.default_rng(0)
DATA = Batch(np.float32(RNG.normal(size=(12, 2))), np.int32(RNG.integers(0, 3, 12)), np.arange(12, dtype=np.int32))
MEMBERS = {0: [0, 1, 2, 3], 4: [2, 3, 4, 5], 7: [8, 9, 10, 11]}
STARTS = {seed: np.full((2, 3), seed, np.float32) for seed in SEEDS}
STUDENT = student_method(NETWORK, ce(), optimizer=optax.sgd(0.5, 0.9))


def join(data, row):
  index, step, start = row
  batch = jax.tree.map(lambda leaf: leaf[index], data)
  return StudentInput(batch, step, step.astype(jnp.float32), start=None if start is None else Variables(start))


@functools.cache
def students(seeds, start=False, devices=1):
  """Students with examples, and perhaps starts, of their own."""

  def rows(first, count):
    index = [[[MEMBERS[seed][(n + i) % 4] for i in range(2)] for seed in seeds] for n in range(first, first + count)]
    return np.int32(index), np.arange(first, first + count, dtype=np.int32)[:, None].repeat(len(seeds), 1), None

  def example():
    index, step, _ = jax.tree.map(lambda leaf: leaf[0], rows(0, 1))
    return index, step, np.stack([STARTS[seed] for seed in seeds]) if start else None

  mesh = parallel.make_mesh(pool=devices) if devices > 1 else None
  stream = Stream(rows, DATA, join, example)
  outcome = run_loop(STUDENT, stream, key=KEY, steps=4, seeds=seeds, pool_mesh=mesh, steps_per_call=2)
  return jax.device_get(outcome.result).variables["student"].params


@pytest.mark.parametrize("devices", [1, pytest.param(8, marks=many_devices)])
@pytest.mark.parametrize("start", [False, True], ids=["new", "started"])
def test_students_keep_their_examples_and_starts_whoever_is_beside_them(devices, start):
  together = students(tuple(SEEDS), start, devices)
  np.testing.assert_allclose(together[1:2], students((SEEDS[1],), start), rtol=1e-5, atol=1e-6)
  assert not np.allclose(together[0], together[1])
  if start:  # a few steps do not lead far from where one came from
    assert np.abs(together.mean((1, 2)) - np.array(SEEDS)).max() < 1


def test_more_seeds_change_nothing_for_those_before():
  few, more = (run(seeds)[0] for seeds in ([4, 0], [4, 0, 1, 2, 3]))
  np.testing.assert_allclose(more[:2], few, rtol=1e-6)


def test_other_seeds_share_the_programs():
  traces = []

  def step(key, state, batch):
    traces.append(1)
    return TOY.step(key, state, batch)

  method = TOY._replace(step=step)
  for seeds in ([0, 1], [5, 9]):
    run_loop(method, rows(seeds), key=KEY, steps=STEPS, seeds=seeds, steps_per_call=3)
  assert len(traces) == 1


@many_devices
def test_a_run_goes_on_with_another_number_of_devices(tmp_path):
  want, _ = run(SEEDS)
  for devices, stop in ((2, 1), (8, 1), (1, None)):
    checkpoints, calls = Checkpoints(tmp_path, {}), itertools.count(1)
    outcome = run_loop(
      TOY, rows(SEEDS), key=KEY, steps=STEPS, seeds=SEEDS, steps_per_call=2, checkpoints=checkpoints,
      pool_mesh=parallel.make_mesh(pool=devices) if devices > 1 else None,
      hooks=Hooks(stop=lambda stop=stop, calls=calls: next(calls) == stop),
    )  # fmt: skip
    checkpoints.close()
  assert outcome.steps == STEPS
  np.testing.assert_allclose(outcome.result, want, rtol=1e-5)
