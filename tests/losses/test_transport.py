"""Sinkhorn plans against a NumPy iteration and an exact assignment, and SinKD's losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jdistill.losses import sinkd_batch_loss, sinkd_sample_loss, sinkhorn_distance, sinkhorn_plan

RNG = np.random.default_rng(0)
COST = RNG.uniform(0, 2, (4, 4))
S, T = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3))


def plan(cost, eps, num_iters):
  kernel, v = np.exp(-cost / eps), np.ones(cost.shape[1])
  for _ in range(num_iters):
    u = 1 / (kernel @ v)
    v = (cost.shape[0] / cost.shape[1]) / (kernel.T @ u)
  return u[:, None] * kernel * v[None]


def softmax(z, t):
  e = np.exp(z / t - (z / t).max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("shape", [(4, 4), (3, 5)])
def test_plan_is_the_iteration_of_the_kernel(shape, x64):
  cost = RNG.uniform(0, 2, shape)
  np.testing.assert_allclose(sinkhorn_plan(jnp.asarray(cost), eps=0.3, num_iters=7), plan(cost, 0.3, 7), rtol=1e-9)


def test_converged_plans_have_their_margins_and_near_the_best_assignment(x64):
  found = sinkhorn_plan(jnp.asarray(COST), eps=0.01, num_iters=2000)
  np.testing.assert_allclose(found.sum(0), 1, rtol=1e-9)
  np.testing.assert_allclose(found.sum(1), 1, rtol=1e-3)
  rows, columns = linear_sum_assignment(COST)
  np.testing.assert_allclose(jnp.sum(found * COST), COST[rows, columns].sum(), rtol=2e-2)


def test_a_small_eps_does_not_underflow():
  value, gradient = jax.value_and_grad(lambda c: sinkhorn_distance(c, eps=1e-3))(jnp.asarray(COST, jnp.float32))
  assert bool(jnp.isfinite(value)) and bool(jnp.all(jnp.isfinite(gradient)))


def test_gradient_equals_finite_differences(x64):
  def value(s):
    return sinkd_batch_loss(s, jnp.asarray(T), eps=0.3, num_iters=5)

  gradient, step = jax.grad(value)(jnp.asarray(S)), 1e-6
  for i, j in ((0, 0), (2, 1)):
    ahead, behind = (value(jnp.asarray(S).at[i, j].add(sign * step)) for sign in (1, -1))
    np.testing.assert_allclose(gradient[i, j], (ahead - behind) / (2 * step), rtol=1e-5)


def test_batch_loss_is_the_transport_of_rows(x64):
  p, q = softmax(S, 2.0), softmax(T, 2.0)
  cost = np.abs(p[:, None] - q[None]).sum(-1)
  want = (plan(cost, 0.1, 20) * cost).sum()
  np.testing.assert_allclose(sinkd_batch_loss(jnp.asarray(S), jnp.asarray(T)), want / 4, rtol=1e-8)
  np.testing.assert_allclose(sinkd_batch_loss(jnp.asarray(S), jnp.asarray(T), per_example=False), want, rtol=1e-8)
  # the order of the examples does not matter
  order = np.array([2, 0, 3, 1])
  np.testing.assert_allclose(sinkd_batch_loss(jnp.asarray(S[order]), jnp.asarray(T)), want / 4, rtol=1e-3)


def test_sample_loss_is_the_transport_of_classes(x64):
  p, q = softmax(S, 2.0), softmax(T, 2.0)
  costs = np.abs(p[:, :, None] - q[:, None])
  want = [(plan(c, 0.1, 20) * c).sum() for c in costs]
  np.testing.assert_allclose(sinkd_sample_loss(jnp.asarray(S), jnp.asarray(T)), want, rtol=1e-8)


def test_masked_examples_take_no_part(x64):
  where = jnp.array([True, True, True, False])
  got = sinkd_batch_loss(jnp.asarray(S).at[3].set(99.0), jnp.asarray(T).at[3].set(-99.0), where=where)
  np.testing.assert_allclose(got, sinkd_batch_loss(jnp.asarray(S[:3]), jnp.asarray(T[:3])), rtol=1e-9)


def test_the_teacher_gets_no_gradient():
  s, t = jnp.asarray(S, jnp.float32), jnp.asarray(T, jnp.float32)
  np.testing.assert_array_equal(jax.grad(sinkd_batch_loss, argnums=1)(s, t), 0)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"eps": 0.0}, {"num_iters": 0}])
def test_bad_options(options):
  with pytest.raises(ValueError, match="sinkd_batch_loss"):
    sinkd_batch_loss(jnp.zeros((2, 3)), jnp.ones((2, 3)), **options)


def test_probabilities_are_refused():
  with pytest.raises(ValueError, match="look like probabilities"):
    sinkd_batch_loss(jnp.asarray(softmax(S, 1.0), jnp.float32), jnp.asarray(T, jnp.float32))
