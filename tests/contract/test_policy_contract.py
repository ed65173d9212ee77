"""What every data policy promises: blocks of fixed shape, drawn by the key alone, positions among the examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import catalog, schema
from jdistill.base import Batch, Look
from jdistill.data.policies import cut
from jdistill.methods.language.grpo import nothing_remembered

SIZE, BATCH, CLASSES = 83, 5, 3
KEY = jax.random.key(3)
every_policy = pytest.mark.parametrize("name", catalog.policy_names())


def look():
  """Networks that answer with fixed random logits."""
  rng = np.random.default_rng(0)
  student, teacher = (jnp.float32(rng.normal(size=(SIZE, CLASSES))) for _ in range(2))
  x, y = jnp.float32(rng.normal(size=(SIZE, 2, 2, 1))), jnp.asarray(rng.integers(0, CLASSES, SIZE), jnp.int32)

  def examples(positions):
    return Batch(x[positions], y[positions], positions)

  memory = nothing_remembered(2)  # for policies that follow what a method learns from
  own = Look(
    examples, lambda positions: student[positions], lambda positions: teacher[positions], size=SIZE, memory=memory
  )
  return own._replace(held_out=own)


@functools.lru_cache
def built(name):
  policy = catalog.policy(name)(SIZE, BATCH)
  seen = look() if policy.looks else None
  return policy, jax.jit(lambda key, state, epoch: policy.next(key, state, epoch, seen))


def draw(name, epochs=4, key=KEY, first=0, state=None):
  """The blocks of some epochs and the last state; the loop folds the number of the epoch into the key."""
  policy, following = built(name)
  state, blocks = policy.init(key) if state is None else state, []
  for epoch in range(first, first + epochs):
    block, state = following(jax.random.fold_in(key, epoch), state, jnp.int32(epoch))
    blocks.append(jax.device_get(block))
  return blocks, state


def form(tree):
  return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


@every_policy
def test_blocks_have_one_shape_and_positions_of_examples(name):
  policy, following = built(name)
  blocks, state = draw(name)
  size = blocks[0].index.shape[1]
  most = catalog.policy_fields(name)["interval"].default if "interval" in catalog.policy_fields(name) else SIZE / BATCH
  assert size <= BATCH and policy.steps <= np.ceil(most)
  for block in blocks:
    assert block.index.shape == block.weight.shape == (policy.steps, size)
    assert block.index.dtype == np.int32 and block.weight.dtype == np.float32
    assert block.index.min() >= 0 and block.index.max() < SIZE and (block.weight >= 0).all()
    assert all(np.shape(value) == () and np.isfinite(value) for value in block.metrics.values())
    index, weight = cut(block)
    assert len(index) and (weight > 0).any(axis=1).all()
  assert form(state) == form(jax.tree.map(jnp.asarray, policy.init(KEY)))
  assert following._cache_size() == 1


def draws(name):
  """Whether the policy uses its key at all, in the first state or in an epoch; one that replays an order does not."""
  policy, following = built(name)
  state, epoch = policy.init(KEY), jnp.int32(0)
  programs = (jax.make_jaxpr(policy.init)(KEY), jax.make_jaxpr(following)(KEY, state, epoch))
  inside = [eqn.params["jaxpr"].jaxpr for eqn in programs[1].jaxpr.eqns if "jaxpr" in eqn.params]
  return any(p.invars[0] in eqn.invars for p in (programs[0].jaxpr, *inside) for eqn in p.eqns if p.invars)


@every_policy
def test_the_key_and_the_epoch_decide_what_is_drawn(name):
  same = jax.tree.map(np.array_equal, draw(name)[0], draw(name)[0])
  assert all(jax.tree.leaves(same))
  orders = {block.index.tobytes() for key in (KEY, jax.random.key(4)) for block in draw(name, key=key)[0]}
  assert len(orders) > 4 if draws(name) else len(orders) == 1  # eight epochs, hardly two of them alike


@every_policy
def test_a_policy_goes_on_from_its_state(name):
  whole, _ = draw(name, 5)
  _, state = draw(name, 2)
  rest, _ = draw(name, 3, first=2, state=state)
  jax.tree.map(np.testing.assert_array_equal, rest, whole[2:])


@every_policy
def test_options_are_keywords_with_defaults_in_their_range(name):
  for key, field in catalog.policy_fields(name).items():
    assert field.default is not schema.REQUIRED and schema.checked(key, field.default, field) == field.default


FRACTIONS = [name for name in catalog.policy_names() if "fraction" in catalog.policy_fields(name)]


@pytest.mark.parametrize("name", FRACTIONS)
def test_fewer_examples_are_fewer_steps_and_not_masked_ones(name):
  policy = catalog.policy(name)(40, 5, fraction=0.25)
  block, _ = policy.next(KEY, policy.init(KEY), jnp.int32(0), look() if policy.looks else None)
  index, weight = cut(block)
  assert index.shape == (2, 5) and (weight == 1).all() and len(set(index.ravel().tolist())) == 10
  assert policy.looks or policy.steps == 2
