"""Sinkhorn plans against a NumPy iteration and an exact assignment, and SinKD's losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jdistill import losses

OPTIONS = ("temperature", "entropy_weight", "num_iters", "implicit", "per_example")
sinkhorn_plan = jax.jit(losses.sinkhorn_plan, static_argnames=OPTIONS[1:4])
sinkhorn_distance = jax.jit(losses.sinkhorn_distance, static_argnames=OPTIONS[1:4])
sinkd_batch_loss = jax.jit(functools.partial(losses.sinkd_batch_loss, scale_t2=False), static_argnames=OPTIONS)
sinkd_sample_loss = jax.jit(functools.partial(losses.sinkd_sample_loss, scale_t2=False), static_argnames=OPTIONS[:4])
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
  np.testing.assert_allclose(
    sinkhorn_plan(jnp.asarray(cost), entropy_weight=0.3, num_iters=7), plan(cost, 0.3, 7), rtol=1e-9
  )


def test_converged_plans_have_their_margins_and_near_the_best_assignment(x64):
  found = sinkhorn_plan(jnp.asarray(COST), entropy_weight=0.01, num_iters=2000)
  np.testing.assert_allclose(found.sum(0), 1, rtol=1e-9)
  np.testing.assert_allclose(found.sum(1), 1, rtol=1e-3)
  rows, columns = linear_sum_assignment(COST)
  np.testing.assert_allclose(jnp.sum(found * COST), COST[rows, columns].sum(), rtol=2e-2)


def test_a_small_eps_does_not_underflow():
  value, gradient = jax.value_and_grad(lambda c: sinkhorn_distance(c, entropy_weight=1e-3))(
    jnp.asarray(COST, jnp.float32)
  )
  assert bool(jnp.isfinite(value)) and bool(jnp.all(jnp.isfinite(gradient)))


def test_gradient_equals_finite_differences(x64):
  def value(s):
    return sinkd_batch_loss(s, jnp.asarray(T), entropy_weight=0.3, num_iters=5)

  value = jax.jit(value)
  gradient, step = jax.jit(jax.grad(value))(jnp.asarray(S)), 1e-6
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
  np.testing.assert_array_equal(jax.jit(jax.grad(losses.sinkd_batch_loss, argnums=1))(s, t), 0)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"entropy_weight": 0.0}, {"num_iters": 0}])
def test_bad_options(options):
  with pytest.raises(ValueError, match="sinkd_batch_loss"):
    losses.sinkd_batch_loss(jnp.zeros((2, 3)), jnp.ones((2, 3)), **options)


def test_one_hot_logits_are_logits():
  """Rows that are non-negative and sum to one are not refused: they may be logits."""
  z = jnp.eye(3)
  np.testing.assert_allclose(losses.sinkd_batch_loss(z, z), sinkd_batch_loss(z, z) * 4, rtol=1e-6)
  np.testing.assert_allclose(losses.sinkd_sample_loss(z, z), sinkd_sample_loss(z, z) * 4, rtol=1e-6)


def test_literal_plan_of_two_by_two():
  cost = jnp.array([[0.0, 1.0], [1.0, 0.5]])
  once = sinkhorn_plan(cost, entropy_weight=0.5, num_iters=1)
  np.testing.assert_allclose(once, [[0.7660847, 0.1401956], [0.2339153, 0.8598044]], rtol=1e-5)
  # scaling keeps P00 P11 / (P01 P10) = exp((1 + 1 - 0 - 0.5) / eps), so P00 = 1 / (1 + exp(-1.5)) when it is symmetric
  p = 1 / (1 + np.exp(-1.5))
  np.testing.assert_allclose(
    sinkhorn_plan(cost, entropy_weight=0.5, num_iters=200), [[p, 1 - p], [1 - p, p]], rtol=1e-5
  )
  np.testing.assert_allclose(sinkhorn_distance(cost, entropy_weight=0.5, num_iters=200), 0.7736383, rtol=1e-5)


def test_gradient_through_the_plan_and_around_it(x64):
  def gradient(implicit):
    return jax.jit(jax.grad(lambda c: losses.sinkhorn_distance(c, entropy_weight=0.5, num_iters=3, implicit=implicit)))

  through, step = gradient(False)(jnp.asarray(COST)), 1e-6
  for i, j in ((0, 0), (2, 1)):
    bump = np.zeros_like(COST)
    bump[i, j] = step
    ahead, behind = ((plan(c, 0.5, 3) * c).sum() for c in (COST + bump, COST - bump))
    np.testing.assert_allclose(through[i, j], (ahead - behind) / (2 * step), rtol=1e-5)
  np.testing.assert_allclose(gradient(True)(jnp.asarray(COST)), plan(COST, 0.5, 3), rtol=1e-9)


def test_masked_rows_and_columns_hold_no_mass():
  rows, columns = jnp.array([True, True, False, True]), jnp.array([True, False, True, True])
  spoiled = jnp.asarray(COST, jnp.float32).at[2].set(jnp.nan).at[:, 1].set(jnp.inf)
  both = jax.jit(jax.value_and_grad(lambda c: losses.sinkhorn_distance(c, where_rows=rows, where_columns=columns)))
  value, gradient = both(spoiled)
  kept = np.ix_([0, 1, 3], [0, 2, 3])
  np.testing.assert_allclose(value, (plan(COST[kept], 0.1, 20) * COST[kept]).sum(), rtol=1e-4)
  assert bool(jnp.all(jnp.isfinite(gradient))) and not gradient[2].any() and not gradient[:, 1].any()


def test_masked_examples_hold_back_nan():
  s, t = jnp.asarray(S, jnp.float32).at[3].set(jnp.nan), jnp.asarray(T, jnp.float32).at[3].set(jnp.inf)
  both = jax.jit(jax.value_and_grad(lambda s, where: losses.sinkd_batch_loss(s, t, scale_t2=False, where=where)))
  value, gradient = both(s, jnp.arange(4) < 3)
  np.testing.assert_allclose(value, sinkd_batch_loss(s[:3], t[:3]), rtol=1e-5)
  assert gradient[:3].any() and bool(jnp.all(jnp.isfinite(gradient))) and not gradient[3].any()
  value, gradient = both(s, jnp.zeros(4, bool))
  assert value == 0 and not gradient.any()


def test_equal_and_distinct_rows_cost_nothing_and_shifts_change_nothing():
  both = jax.jit(jax.value_and_grad(losses.sinkd_batch_loss))
  apart = 20 * jnp.eye(4)
  value, gradient = both(apart, apart)
  np.testing.assert_allclose(value, 0, atol=1e-4)  # the plan is the identity up to exp(-20)
  assert bool(jnp.all(jnp.isfinite(gradient)))
  s, t = jnp.asarray(RNG.normal(size=(4, 4)), jnp.float32), jnp.asarray(RNG.normal(size=(4, 4)), jnp.float32)
  np.testing.assert_allclose(both(s + 4, t - 2)[0], both(s, t)[0], rtol=1e-4)
  np.testing.assert_allclose(sinkd_sample_loss(s + 4, t - 2), sinkd_sample_loss(s, t), rtol=1e-4)


def test_gradient_does_not_vanish_where_supports_hardly_overlap():
  s, t = jnp.array([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]), jnp.array([[0.0, 0.0, 99.0], [0.0, 0.0, 99.0]])
  of_js = jax.jit(jax.grad(lambda z: jnp.mean(losses.js_divergence(z, t))))(s)
  of_transport = jax.jit(jax.grad(lambda z: losses.sinkd_batch_loss(z, t, scale_t2=False)))(
    s
  )  # at its own temperature, 2
  assert jnp.max(jnp.abs(of_js)) < 1e-3 < 5e-3 < jnp.max(jnp.abs(of_transport))


def test_finite_in_bfloat16_and_at_extreme_logits():
  z = jnp.array([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0], [3.0, 0.0, 1e4]], jnp.bfloat16)
  for loss in (losses.sinkd_batch_loss, losses.sinkd_sample_loss):
    value, gradient = jax.jit(jax.value_and_grad(lambda s, t, loss=loss: jnp.sum(loss(s, t))))(z, -z)
    assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
    assert bool(jnp.isfinite(value)) and bool(jnp.all(jnp.isfinite(gradient)))


def test_a_batch_of_one_warns():
  with pytest.warns(UserWarning, match="only one plan"):
    value = sinkd_batch_loss(jnp.asarray(S[:1], jnp.float32), jnp.asarray(T[:1], jnp.float32))
  np.testing.assert_allclose(value, np.abs(softmax(S[:1], 2.0) - softmax(T[:1], 2.0)).sum(), rtol=1e-5)


@pytest.mark.parametrize(
  "call, match",
  [
    (lambda: losses.sinkhorn_plan(jnp.zeros(3)), "cost must have 2 axes"),
    (lambda: losses.sinkhorn_plan(jnp.zeros((2, 3)), where_rows=jnp.ones(3)), r"where must have shape \(2,\)"),
    (lambda: losses.sinkhorn_distance(jnp.zeros((2, 3)), entropy_weight=-1), "entropy_weight must be > 0"),
    (lambda: losses.sinkd_batch_loss(jnp.ones((2, 3)), jnp.ones((3, 3))), "shapes must be equal"),
    (lambda: losses.sinkd_batch_loss(jnp.ones((2, 3)), jnp.ones((2, 3)), where=jnp.ones(3)), "where must have shape"),
    (lambda: losses.sinkd_sample_loss(jnp.ones((2, 600)), jnp.ones((2, 600))), "use sinkd_batch_loss"),
    (lambda: losses.sinkd_sample_loss(jnp.ones((2, 3)), jnp.ones((2, 3)), num_iters=0), "num_iters must be at least 1"),
  ],
)
def test_other_bad_input(call, match):
  with pytest.raises(ValueError, match=match) as caught:
    call()
  assert "\n" not in str(caught.value)
