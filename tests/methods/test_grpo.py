"""GRPO: groups of responses, their rewards and advantages, and the gradient against a policy gradient by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import language, models
from jdistill.base import Batch, Variables
from jdistill.methods.knowledge import Sampling, StudentInput, student_method
from jdistill.methods.language.grpo import grpo, nothing_remembered, rewarded, rewards_of
from jdistill.methods.optimizers import make_optimizer
from jdistill.synthetic import Verdict
from jdistill.teachers.frozen import committee

END, VOCABULARY, GROUP, MAX_NEW = 5, 6, 4, 3
NETWORK = models.build("decoder", num_classes=VOCABULARY, image_shape=(6,), width=8, depth=1, heads=2)
PARAMS = NETWORK.init(jax.random.key(0)).params


def check(tokens, where, response):
  """Right: an even number of tokens 1 in the response. Readable: it ends."""
  count = jnp.sum((tokens == 1) & response & where, axis=1)
  return Verdict(count % 2 == 0, jnp.any((tokens == END) & response, axis=1))


OPTIONS = {"group_size": GROUP, "max_new": MAX_NEW, "end_token": END}


def data(weight=None):
  documents, counted = language.join([[1, 2], [3], [2, 2]], [[1, 1]] * 3, end_token=END)
  packed = language.pad(documents, 6, counted=counted)
  targets, mask = language.next_tokens(packed.rows, packed.counted)
  extra = {"mask": mask, "domain": jnp.int32([2, 0, 1])}
  rows = jax.tree.map(jnp.asarray, packed.rows)
  return Batch(rows, targets, jnp.int32([7, 8, 9]), weight, extra)


@functools.cache
def sampled(weight=None):
  batch = data(None if weight is None else jnp.float32(weight))
  sampling = Sampling(batch, NETWORK.language, PARAMS, (), nothing_remembered(GROUP), None, jnp.float32(0), None)
  return jax.device_get(jax.jit(lambda key: rewarded(check, **OPTIONS).sampled_batch(key, sampling))(jax.random.key(3)))


def test_every_prompt_has_a_group_whose_advantages_are_those_of_its_rewards():
  batch, memory = sampled()
  assert batch.ids.tolist() == [7] * 4 + [8] * 4 + [9] * 4
  for row, prompt in enumerate([[1, 2]] * 4 + [[3]] * 4 + [[2, 2]] * 4):
    own = batch.x.tokens[row][batch.x.segments[row] > 0].tolist()
    response = own[len(prompt) :]
    assert own[: len(prompt)] == prompt and 1 <= len(response) == batch.extra["length"][row] <= MAX_NEW
    assert batch.extra["correct"][row] == (response.count(1) % 2 == 0)
    assert batch.extra["readable"][row] == (END in response)
    # the tokens that count are the responses, as targets
    assert batch.y[row][batch.extra["mask"][row]].tolist() == response
  rewards = batch.extra["correct"].reshape(3, GROUP).astype(float)
  deviation = rewards.std(axis=1, ddof=1, keepdims=True)
  expected = (rewards - rewards.mean(1, keepdims=True)) / (deviation + 1e-6)
  np.testing.assert_allclose(batch.extra["advantage"].reshape(3, GROUP), expected, rtol=1e-5, atol=1e-6)
  assert len({tuple(row) for row in batch.x.tokens}) > 6  # responses of a group differ
  assert memory.total == memory.groups.size == 3
  np.testing.assert_array_equal(memory.groups.rows.domain[:3], [2, 0, 1])
  np.testing.assert_allclose(memory.groups.rows.advantage[:3], np.abs(expected), rtol=1e-5, atol=1e-6)


def test_padding_is_not_remembered_and_has_no_weight():
  batch, memory = sampled((1.0, 0.0, 1.0))
  assert memory.total == 2 and memory.groups.rows.domain[:2].tolist() == [2, 1]
  np.testing.assert_array_equal(batch.weight, np.repeat([1.0, 0.0, 1.0], GROUP))


def test_old_log_probs_are_those_of_the_policy_that_wrote():
  batch, _ = sampled()
  logits = NETWORK.apply(PARAMS, jax.tree.map(jnp.asarray, batch.x)).logits
  own = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), batch.y[..., None], axis=-1)[..., 0]
  np.testing.assert_allclose(batch.extra["old"][batch.extra["mask"]], own[batch.extra["mask"]], atol=1e-5)


def policy_gradient(reduction):
  """`-sum A grad log pi`, reduced."""
  batch, _ = sampled()
  mask = batch.extra["mask"]
  share = mask / mask.sum() if reduction == "token_mean" else mask / mask.sum(1, keepdims=True) / len(mask)

  def loss(params):
    logits = NETWORK.apply(params, jax.tree.map(jnp.asarray, batch.x)).logits
    own = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.y[..., None], axis=-1)[..., 0]
    return -jnp.sum(own * batch.extra["advantage"][:, None] * share)

  return jax.grad(loss)(PARAMS)


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean"])
def test_the_gradient_is_the_policy_gradient(reduction):
  recipe = rewarded(check, reduction=reduction, **OPTIONS)
  batch, _ = sampled()
  fixed = recipe._replace(sampled_batch=lambda key, sampling: (jax.tree.map(jnp.asarray, batch), sampling.memory))
  method = student_method(NETWORK, fixed, optimizer=make_optimizer("sgd", 1.0), num_examples=3)
  inputs = StudentInput(data(), jnp.int32(0), jnp.float32(0), jnp.arange(3, dtype=jnp.int32), start=Variables(PARAMS))
  moved, metrics = jax.jit(method.step)(jax.random.key(1), method.init(jax.random.key(0), inputs), inputs)
  found = jax.tree.map(lambda a, b: a - b, PARAMS, moved.roles["student"].params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, policy_gradient(reduction))
  assert metrics["method/reward"] == pytest.approx(batch.extra["correct"].mean(), rel=1e-6)
  assert metrics["method/unreadable"] == pytest.approx(1 - batch.extra["readable"].mean(), rel=1e-6)
  rewards = batch.extra["correct"].reshape(3, GROUP)
  assert metrics["method/constant"] == pytest.approx((rewards == rewards[:, :1]).all(1).mean(), rel=1e-6)


def test_the_anchor_is_k3_and_vanishes_where_the_reference_is_the_policy():
  recipe = rewarded(check, kl_weight=0.5, **OPTIONS)
  assert recipe.needs == ("teacher",) and rewarded(check, **OPTIONS).needs == ()
  batch, _ = sampled()
  fixed = recipe._replace(sampled_batch=lambda key, sampling: (jax.tree.map(jnp.asarray, batch), sampling.memory))
  for seed, same in ((0, True), (4, False)):
    variables = NETWORK.init(jax.random.key(seed))
    frozen = committee([NETWORK], [variables])
    method = student_method(NETWORK, fixed, optimizer=make_optimizer("sgd", 0.0), targets=frozen.targets)
    start = NETWORK.init(jax.random.key(0))
    inputs = StudentInput(data(), jnp.int32(0), jnp.float32(0), None, frozen.arrays, start=start)
    _, metrics = method.step(jax.random.key(1), method.init(jax.random.key(0), inputs), inputs)
    logits = [NETWORK.apply(p, jax.tree.map(jnp.asarray, batch.x)).logits for p in (start.params, variables.params)]
    own, reference = (
      np.take_along_axis(np.asarray(jax.nn.log_softmax(one), np.float64), batch.y[..., None], axis=-1)[..., 0]
      for one in logits
    )
    apart = (reference - own)[batch.extra["mask"]]
    assert metrics["loss/kl"] == pytest.approx(np.mean(np.exp(apart) - apart - 1), rel=1e-4, abs=1e-7)
    assert (metrics["loss/kl"] < 1e-6) == same


def test_rewards_are_the_papers():
  verdict = Verdict(jnp.array([True, False, False]), jnp.array([True, True, False]))
  np.testing.assert_array_equal(rewards_of(verdict, "exact"), [1, 0, 0])
  np.testing.assert_array_equal(rewards_of(verdict, "graded"), [3, -0.5, -3])


def test_groups_of_one_are_refused():
  with pytest.raises(ValueError, match=r"method\.group_size=1: must be at least 2"):
    grpo(group_size=1)
  with pytest.raises(ValueError, match="group_size=1 must be at least 2"):
    rewarded(check, group_size=1)
