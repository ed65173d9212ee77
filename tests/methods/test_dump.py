"""DUMP as a data policy: what it reads of the method's memory, what it draws, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import Batch, Look, UserError
from jdistill.methods.language.dump import dump
from jdistill.methods.language.grpo import Group, Remembered, nothing_remembered
from jdistill.ops.ring import push

DOMAIN = jnp.int32([2, 0, 1, 2, 2, 0, 1, 2, 2, 2])
NAMES = ("easy", "middle", "hard")


def look(memory):
  def examples(positions):
    return Batch(positions, positions, positions, extra={"domain": DOMAIN[positions]})

  return Look(examples, None, None, memory=memory)


def remembered(groups, before=None):
  """A memory after groups `(domain, advantages)`."""
  found = before or nothing_remembered(2)
  for domain, advantages in groups:
    row = Group(jnp.int32([domain]), jnp.float32([advantages]))
    found = Remembered(push(found.groups, row), found.total + 1)
  return found


def draw(policy, state, memory, key=0):
  return jax.jit(lambda key, state, memory: policy.next(key, state, jnp.int32(0), look(memory)))(
    jax.random.key(key), state, memory
  )


def expected(lists, counts, temperature):
  """The probabilities by the formula of the paper."""
  counts = np.array(counts)
  scores = np.array([np.mean(own or [0]) for own in lists]) + np.sqrt(2 * np.log(counts.sum() + 1) / (counts + 1))
  weights = np.exp((scores - scores.max()) / temperature)
  return weights / weights.sum()


def shown(block, kind):
  return [float(block.metrics[f"{kind}/{name}"]) for name in NAMES]


def test_advantages_enter_once_and_probabilities_are_the_papers():
  policy = dump(10, 4, NAMES, window=3, temperature=0.5)
  state = policy.init(jax.random.key(0))
  block, state = draw(policy, state, nothing_remembered(2))
  np.testing.assert_allclose(shown(block, "p"), 1 / 3, rtol=1e-6)
  memory = remembered([(0, [0.2, 0.4]), (2, [1.0, 0.8])])
  block, state = draw(policy, state, memory)
  np.testing.assert_allclose(shown(block, "p"), expected([[0.2, 0.4], [], [1.0, 0.8]], [2, 0, 2], 0.5), rtol=1e-5)
  again, state = draw(policy, state, memory)  # nothing new
  assert shown(again, "p") == shown(block, "p")
  memory = remembered([(0, [0.6, 0.0]), (1, [0.1, 0.1])], memory)
  block, state = draw(policy, state, memory)
  lists = [[0.4, 0.6, 0.0], [0.1, 0.1], [1.0, 0.8]]  # a window holds three
  np.testing.assert_allclose(shown(block, "p"), expected(lists, [4, 2, 2], 0.5), rtol=1e-5)
  np.testing.assert_allclose(shown(block, "advantage"), [np.mean(own) for own in lists], rtol=1e-6)


def test_more_groups_than_the_method_remembers_leave_the_last_ones():
  policy = dump(10, 4, NAMES, window=2)
  memory = nothing_remembered(2)
  capacity = memory.groups.capacity
  many = Group(jnp.zeros(capacity, jnp.int32), jnp.tile(jnp.arange(capacity, dtype=jnp.float32)[:, None], (1, 2)))
  memory = Remembered(push(memory.groups, many), jnp.int32(capacity))
  memory = Remembered(push(memory.groups, Group(jnp.int32([0]), jnp.float32([[0.5, 0.7]]))), jnp.int32(capacity + 1))
  block, state = draw(policy, policy.init(jax.random.key(0)), memory)
  assert shown(block, "advantage")[0] == pytest.approx(0.6)
  assert int(state.read) == capacity + 1 and int(state.windows.counts[0]) == 2 * capacity


@pytest.mark.parametrize("adaptive", [True, False])
def test_draws_have_these_probabilities_and_are_uniform_within_a_domain(adaptive):
  policy = dump(10, 10, NAMES, temperature=0.5, adaptive=adaptive, steps=2000)
  memory = remembered([(0, [0.9, 0.9]), (1, [0.1, 0.1]), (2, [0.5, 0.5])] * 50)
  block, _ = draw(policy, policy.init(jax.random.key(0)), memory)
  assert block.index.shape == (2000, 10) and (block.weight == 1).all()
  count = np.bincount(np.asarray(block.index).ravel(), minlength=10)
  domain = np.asarray(DOMAIN)
  p = expected([[0.9], [0.1], [0.5]], [100, 100, 100], 0.5) if adaptive else np.full(3, 1 / 3)
  own = p[domain] / np.bincount(domain)[domain] * count.sum()
  assert np.sum((count - own) ** 2 / own) < 9 + 4 * np.sqrt(18)  # chi-squared of 9 degrees of freedom


def test_the_log_tells_where_nothing_is_learned():
  policy = dump(10, 4, NAMES, window=2)
  silent = remembered([(domain, [0.0, 0.0]) for domain in range(3)])
  block, _ = draw(policy, policy.init(jax.random.key(0)), silent)
  words = policy.remark({name: float(value) for name, value in block.metrics.items()})
  assert "nothing is learned; warm up longer" in words
  loud = remembered([(1, [0.0, 0.5])], silent)
  block, _ = draw(policy, policy.init(jax.random.key(0)), loud)
  assert policy.remark({name: float(value) for name, value in block.metrics.items()}) == ""


def examples(domain):
  return Batch(np.zeros(len(domain)), np.zeros(len(domain), int), np.arange(len(domain)), extra={"domain": domain})


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (examples(np.array([0, 1, 2, 3])), "an example is of domain 3, and the task names 3"),
    (examples(np.array([0, 2, 2, 0])), "the domain 'middle' has no example"),
    (examples(np.array([0, 1]))._replace(extra={}), "the examples have no domains"),
  ],
)
def test_examples_that_do_not_suit_are_refused(data, message):
  with pytest.raises(UserError) as error:
    dump(4, 2, NAMES).check(data)
  assert message in str(error.value)
  dump(4, 2, NAMES).check(examples(np.array([0, 1, 2, 1])))


def test_methods_that_remember_nothing_and_bad_options_are_refused():
  policy = dump(10, 4, NAMES)
  with pytest.raises(ValueError, match=r"use method\.name='grpo'"):
    policy.next(jax.random.key(0), policy.init(jax.random.key(0)), jnp.int32(0), look(()))
  for options, message in (({"temperature": 0.0}, "must be above 0"), ({"window": 0}, "must be at least 1")):
    with pytest.raises(UserError, match=message):
      dump(10, 4, NAMES, **options)
