"""The driver of data policies: what it feeds, how it cuts, what it remembers, and that no interruption changes it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import Block, DataPolicy, Look, Method, UserError
from jdistill.data.samplers import epoch_batches
from jdistill.training import Checkpoints, Hooks, parallel, run_loop
from jdistill.training.policy_stream import policy_stream

KEY, N, B = jax.random.key(3), 7, 3
DATA = jnp.arange(20.0) ** 2 / 50
MEMBERS = np.stack([np.arange(N), np.arange(N) + 10, np.arange(N)[::-1]])


def join(shared, row):
  return shared[row.index], row.weight, row.epoch, row.step


@functools.cache
def method():
  """Remembers what it saw: a weighted sum of the examples, and the last epoch and step."""

  def init(key, batch):
    return {"w": jax.random.normal(key) + 0 * batch[0][0], "seen": jnp.zeros(()), "at": jnp.zeros((2,))}

  def step(key, state, batch):
    x, weight, epoch, number = batch
    w = 0.9 * state["w"] + jnp.sum(x * weight) + 0.01 * jax.random.normal(key)
    at = jnp.stack([epoch, number.astype(jnp.float32)])
    return {"w": w, "seen": state["seen"] + jnp.sum(weight), "at": at}, {"toy/w": w, "toy/epoch": epoch}

  return Method(init, step, lambda state: state["w"])


@functools.cache
def shuffled():
  def draw(key, state, epoch, look):
    index, mask = epoch_batches(key, N, B)
    return Block(index, mask.astype(jnp.float32)), state

  return DataPolicy(lambda key: (), draw, 3)


@functools.cache
def drifting():
  """A policy with a state, fewer examples in later epochs, and a step without any."""

  def draw(key, state, epoch, look):
    state = state + 1 + epoch
    index = (jnp.arange(9, dtype=jnp.int32).reshape(3, 3) + state) % N
    keep = jnp.array([True, False, True])[:, None] & (jnp.arange(3)[None] <= 2 - epoch)
    return Block(index, keep.astype(jnp.float32), {"state": state.astype(jnp.float32)}), state

  return DataPolicy(lambda key: jnp.int32(0), draw, 3)


@functools.cache
def looking(least=0.0):
  """Sees the examples whose value is above what the student has become, and remembers how many there were."""

  def draw(key, state, epoch, look):
    positions = jnp.arange(N, dtype=jnp.int32)
    keep = (look.examples(positions) >= least) & (look.student(positions) > 0)
    order = jnp.argsort(jnp.logical_not(keep), stable=True).astype(jnp.int32)
    count = jnp.sum(keep)
    pad = lambda a: jnp.pad(a, (0, 2)).reshape(3, 3)  # noqa: E731
    weight = (jnp.arange(9) < count).astype(jnp.float32).reshape(3, 3)
    return Block(pad(order), weight, {"selected": count / N}), state.at[epoch].set(count)

  return DataPolicy(lambda key: jnp.zeros(8, jnp.int32), draw, 3, looks=True, hint="lower the cutoff")


def look(state, shared, members):
  """What the student predicts depends on its parameters, so that a wrong state would draw other steps."""
  student = lambda positions: (positions + jnp.int32(jnp.abs(state["w"] * 7))) % 3  # noqa: E731
  return Look(lambda positions: shared[members[positions]], student, student)


def stream(policy, epochs=4, seeds=(0, 1, 2), **options):
  options = {"look": look} | options if policy.looks else options
  return policy_stream(
    policy, KEY, shared=DATA, members=MEMBERS[: len(seeds)], join=join, epochs=epochs, seeds=seeds, batch_size=B,
    **options,
  )  # fmt: skip


def run(policy, directory=None, *, stop=None, epochs=4, seeds=(0, 1, 2), k=2, made=None, **options):
  calls = itertools.count(1)
  hooks = Hooks(stop=lambda: stop is not None and next(calls) == stop)
  checkpoints = None if directory is None else Checkpoints(directory, {})
  try:
    return run_loop(
      method(), made or stream(policy, epochs, seeds), key=KEY, steps=None, steps_per_call=k, seeds=seeds,
      checkpoints=checkpoints, hooks=hooks, **options,
    )  # fmt: skip
  finally:
    if checkpoints is not None:
      checkpoints.close()


def same(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def test_every_epoch_holds_every_example_of_every_seed_once():
  made = stream(shuffled(), record=True)
  outcome = run(shuffled(), made=made)
  assert outcome.steps == 12  # 4 epochs of ceil(7 / 3) steps
  drawn = made.drawn()
  assert drawn.index.shape == (12, 3, 3)
  np.testing.assert_allclose(drawn.epoch, np.arange(12) / 3, rtol=1e-6)
  for seed, epoch in itertools.product(range(3), range(4)):
    part = slice(3 * epoch, 3 * epoch + 3)
    index, weight = drawn.index[part, seed], drawn.weight[part, seed]
    assert sorted(index[weight > 0]) == sorted(MEMBERS[seed])
  np.testing.assert_array_equal(outcome.state["seen"], np.full(3, 4.0 * N))
  np.testing.assert_allclose(outcome.state["at"], np.tile([11 / 3, 11], (3, 1)), rtol=1e-6)
  orders = drawn.index.reshape(4, -1, 3, 3)[:, :, 0].reshape(4, -1)
  assert len({tuple(order) for order in orders}) == 4


def test_a_seed_draws_the_same_whoever_is_beside_it():
  several = run(shuffled())
  alone = run(shuffled(), seeds=(0,))
  np.testing.assert_allclose(alone.result[0], several.result[0], rtol=1e-6)


def test_empty_steps_are_cut_and_epochs_are_counted_by_the_steps_that_happen():
  made = stream(drifting(), epochs=3, record=True)
  outcome = run(drifting(), made=made)
  drawn = made.drawn()
  assert outcome.steps == 6
  np.testing.assert_allclose(drawn.epoch, np.arange(6) / 2)
  np.testing.assert_array_equal(drawn.weight.sum(-1), np.repeat([3, 2, 1], 2)[:, None] * np.ones((1, 3)))
  state, want = 0, []
  for epoch in range(3):
    state += 1 + epoch
    rows = (np.arange(9).reshape(3, 3) + state) % N
    want += [rows[0], rows[2]]
  np.testing.assert_array_equal(drawn.index[:, 1], np.stack(want) + 10)


@pytest.mark.parametrize("policy", [shuffled, drifting, looking], ids=lambda p: p.__name__)
@pytest.mark.parametrize("k", [1, 4])
def test_a_run_interrupted_anywhere_is_equal_to_the_bit(policy, k, tmp_path):
  made = {"policy": policy(), "k": k, "epochs": 3, "seeds": (0,) if policy().looks else (0, 1, 2)}
  whole = run(**made)
  assert whole.steps >= 5
  stops = 0
  while (outcome := run(directory=tmp_path / "c", stop=1, **made)).stopped:
    stops += 1
  assert stops >= (2 if k == 1 else 1) and outcome.steps == whole.steps
  same(outcome.state, whole.state)


def test_a_run_killed_inside_a_block_goes_on_with_it(tmp_path):
  """The checkpoint lies two steps behind the kill, within an epoch whose choice depended on the student."""
  whole = run(looking(), seeds=(0,), k=1)

  def killed(step, metrics):
    if step == 4:
      raise KeyboardInterrupt

  checkpoints = Checkpoints(tmp_path / "c", {})
  with pytest.raises(KeyboardInterrupt):
    run_loop(
      method(), stream(looking(), seeds=(0,)), key=KEY, steps=None, seeds=(0,), checkpoints=checkpoints, log_every=2,
      checkpoint_seconds=0.0, hooks=Hooks(on_metrics=killed),
    )  # fmt: skip
  assert checkpoints.steps() == [2]
  checkpoints.close()
  same(run(looking(), tmp_path / "c", seeds=(0,), k=3).state, run(looking(), seeds=(0,), k=3).state)
  np.testing.assert_allclose(whole.result, run(looking(), seeds=(0,), k=3).result, rtol=1e-5)


def test_draws_can_be_stored_and_run_again_on_any_number_of_devices():
  made = stream(looking(), seeds=(0,), record=True)
  whole = run(looking(), seeds=(0,), made=made)
  stored = made.drawn()
  again = run(looking(), seeds=(0,), made=stream(looking(), seeds=(0,), stored=stored))
  assert again.steps == whole.steps
  same(again.state, whole.state)
  made = stream(shuffled(), record=True)
  want = run(shuffled(), made=made).result
  found = run(shuffled(), made=stream(shuffled(), stored=made.drawn()), pool_mesh=parallel.make_mesh(pool=2)).result
  np.testing.assert_allclose(found, want, rtol=1e-6)


def test_an_epoch_without_examples_is_refused_with_what_can_be_done():
  with pytest.raises(UserError, match=r"epoch 0: no example was selected, selected 0; lower the cutoff"):
    run(looking(1e9), seeds=(0,))


def test_policies_that_look_serve_one_seed():
  with pytest.raises(ValueError, match="one seed at a time, got 3 seeds"):
    stream(looking())


def test_a_policy_made_for_certain_seeds_gives_each_its_own_state():
  def draw(key, state, epoch, look):
    index = jnp.full((1, B), state, jnp.int32)
    return Block(index, jnp.ones((1, B), jnp.float32)), state

  policy = DataPolicy(lambda key: jnp.int32(0), draw, 1, init_seeds=lambda keys: jnp.arange(len(keys), dtype=jnp.int32))
  stream = policy_stream(policy, KEY, shared=DATA, members=MEMBERS, join=join, epochs=2, seeds=(4, 5, 6), batch_size=B)
  stream.prepare(0, (), DATA)
  np.testing.assert_array_equal(stream.rows(0, 1).index[0, :, 0], [MEMBERS[s, s] for s in range(3)])
