"""CV-DD against NumPy in float64: weights, pairs, blocks, the committee's loss; and against SRe2L for one teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numeric_gradient
from recovery_problem import CLASSES, IMAGES, LABELS, RANGE, TEACHER, apply, build, on_device, reference_loss

from jdistill.base import Outputs, UserError, Variables
from jdistill.methods.dataset.cv_dd import (
  choose_members,
  committee_blocks,
  committee_recover_loss,
  committee_stream,
  cv_dd,
)
from jdistill.ops.voting import check_weights, committee_weights
from jdistill.synthetic import Materials, SyntheticSet

KEY = jax.random.key(2)
OTHER = np.random.default_rng(4).normal(size=TEACHER.params.shape)
PRIOR = np.float32([60, 50, 55])
PLAIN = {"jitter": 0, "crop_scale": None, "flip_images": False, "iterations": 3, "image_lr": 0.2}


def members(dtype=np.float64):
  return tuple(
    Variables(jnp.asarray(weights.astype(dtype)), on_device(dtype).stats) for weights in (TEACHER.params, OTHER)
  )


def committee(applies, dtype=np.float32, **options):
  initial = SyntheticSet(jnp.asarray(IMAGES.astype(dtype)), jnp.asarray(LABELS), jnp.asarray(0.1, dtype))
  return cv_dd(applies, initial, tuple(bound.astype(dtype) for bound in RANGE), **(PLAIN | options))


def test_weights_are_a_softmax_of_those_that_vote():
  want = np.exp(PRIOR / 5 - 12) / np.exp(PRIOR / 5 - 12).sum()
  np.testing.assert_allclose(committee_weights(PRIOR, temperature=5.0), want, rtol=1e-5)
  where = np.array([[True, True, False], [False, False, True]])
  found = jax.jit(lambda p: committee_weights(p, temperature=5.0, where=where))(PRIOR)
  np.testing.assert_allclose(found, [[1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2)), 0], [0, 0, 1]], rtol=1e-5)
  np.testing.assert_allclose(committee_weights(np.array([np.inf, 1.0])[1:], temperature=1.0), [1.0])
  for prior, temperature, match in (
    (PRIOR, 0.0, "temperature=0.0"),
    (PRIOR[None], 1.0, "one number per member"),
    (np.array([1, np.nan]), 1.0, "finite"),
  ):
    with pytest.raises(ValueError, match=match):
      committee_weights(prior, temperature=temperature)
  np.testing.assert_array_equal(check_weights([0.25, 0.75]), np.float32([0.25, 0.75]))
  for wrong in ([0.5, 0.6], [1.5, -0.5], [np.nan, 1.0]):
    with pytest.raises(ValueError, match="must sum to 1"):
      check_weights(wrong)


def test_a_block_has_one_image_of_a_class():
  labels = np.repeat(np.arange(3), 2)
  for size in (3, 100):
    blocks, index = committee_blocks(labels, size)
    np.testing.assert_array_equal(blocks, [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(index, [0, 1])
  blocks, index = committee_blocks(labels, 2)
  np.testing.assert_array_equal(blocks, [[0, 2], [4, 0], [1, 3], [5, 1]])
  np.testing.assert_array_equal(index, [0, 0, 1, 1])


def test_who_votes():
  index = np.array([0, 0, 1, 2, 3])
  found = choose_members(PRIOR, index, KEY, voters=2, pairs="fixed")
  np.testing.assert_array_equal(found, np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 0]], bool))
  best = choose_members(PRIOR, index, KEY, voters=2, pairs="best")
  np.testing.assert_array_equal(best, np.tile([True, False, True], (5, 1)))
  drawn = np.asarray(choose_members(PRIOR, np.arange(60), KEY, voters=2, pairs="random"))
  assert (drawn.sum(1) == 2).all() and (drawn.sum(0) > 25).all()
  twice = np.asarray(choose_members(PRIOR, index, KEY, voters=2, pairs="random"))
  np.testing.assert_array_equal(twice[0], twice[1])


@pytest.mark.parametrize("all_vote", [False, True])
def test_the_loss_is_the_weighted_sum(x64, all_vote):
  x, y, weights = IMAGES[:3], LABELS[:3], np.array([0.3, 0.7])
  total = lambda x: sum(  # noqa: E731
    share * reference_loss(x, y, 0.2, weights=w) for share, w in zip(weights, (TEACHER.params, OTHER), strict=True)
  )
  loss = lambda x: committee_recover_loss(  # noqa: E731
    (apply, apply), members(), jnp.asarray(weights), x, jnp.asarray(y), all_vote=all_vote, r_bn=0.2
  )[0]
  np.testing.assert_allclose(loss(jnp.asarray(x)), total(x), rtol=1e-10)
  found = jax.jit(jax.grad(loss))(jnp.asarray(x))
  np.testing.assert_allclose(found, numeric_gradient(total, x), rtol=1e-5, atol=1e-7)


def test_who_does_not_vote_is_not_asked():
  """A network whose outputs are NaN has no part in loss and gradient."""

  def broken(params, x, **options):
    out = apply(params, x, **options)
    return jax.tree.map(lambda leaf: leaf * jnp.nan, Outputs(*out[:4], {}))._replace(stats=out.stats)

  loss = lambda x: committee_recover_loss(  # noqa: E731
    (apply, broken), members(np.float32), jnp.float32([1, 0]), x, jnp.asarray(LABELS), r_bn=0.2
  )[0]
  value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.float32(IMAGES))
  np.testing.assert_allclose(value, reference_loss(IMAGES, LABELS, 0.2), rtol=1e-5)
  assert np.isfinite(gradient).all()


def test_one_teacher_is_sre2l():
  method, batch = committee((apply,), voters=1, block_size=3), ((on_device(np.float32),), PRIOR[:1])
  own, teacher = build(block_size=3, iterations=3, image_lr=0.2)
  state, other = method.init(KEY, batch), own.init(KEY, teacher)
  step, plain = jax.jit(method.step), jax.jit(own.step)
  assert method.steps == own.steps == 6
  for number in range(6):
    key = jax.random.fold_in(KEY, number)
    (state, metrics), (other, wanted) = step(key, state, batch), plain(key, other, teacher)
    np.testing.assert_allclose(metrics["recover/loss"], wanted["recover/loss"], rtol=1e-5)
  np.testing.assert_allclose(method.result(state).images, own.result(other).images, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(method.result(state).labels, LABELS)


def test_votes_are_constants_of_a_block_and_teachers_stay_as_they_are():
  batch = members(np.float32), np.float32([60, 50])
  before = jax.tree.map(np.array, batch)
  for voter, first in (("prior", 1 / (1 + np.exp(-2))), ("equal", 0.5)):
    method = committee((apply, apply), voter=voter)
    state = method.init(KEY, batch)
    np.testing.assert_allclose(state.carried, [[first, 1 - first]] * 2, rtol=1e-5)
    later, _ = jax.jit(method.step)(KEY, state, batch)
    np.testing.assert_array_equal(later.carried, state.carried)
  jax.tree.map(np.testing.assert_array_equal, batch, before)
  drawn = np.asarray(committee((apply, apply), voter="random").init(KEY, batch).carried)
  np.testing.assert_allclose(drawn.sum(1), 1, rtol=1e-6)
  assert (drawn > 0).all() and (drawn[0] != drawn[1]).any()
  feed, found = committee_stream(), Materials(IMAGES, LABELS, CLASSES, 0, committee=batch[0], prior=batch[1])
  assert feed.stream(found)(3)[0] is batch[0]


def test_mistakes():
  with pytest.raises(ValueError, match=r"voters=2: there are 1 teachers; .*method.voters=1"):
    committee((apply,))
  soft = SyntheticSet(jnp.zeros((3, 2, 2, 1)), jnp.eye(3), jnp.float32(0.1))
  with pytest.raises(ValueError, match="soft labels"):
    cv_dd((apply, apply), soft, RANGE)
  without = lambda params, x, **options: apply(params, x, **options)._replace(norm_inputs={})  # noqa: E731
  with pytest.raises(ValueError, match="teacher_applies: number 2 of 2: the teacher has no batch norm"):
    committee((apply, without)).init(KEY, (members(np.float32), PRIOR[:2]))
  with pytest.raises(UserError, match=r"method\.voter='loud': unknown"):
    committee((apply, apply), voter="loud")
