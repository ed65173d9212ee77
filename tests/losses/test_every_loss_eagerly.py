"""Every public loss without compilation: arrays and lists, bfloat16, masked classes; and what belongs to one loss.

XLA may drop a product with a constant zero, so that a compiled loss is right where the same loss is NaN eagerly.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_losses as formulas
import pytest
from loss_table import SIZE, TABLE, check, numpy, sides

from jdistill import losses

every = pytest.mark.parametrize("name", sorted(TABLE))


def test_the_tables_have_every_public_name():
  assert set(TABLE) | set(PARTS) == set(losses.__all__)
  assert not set(TABLE) & set(PARTS)


def plainly(name, s, t, where=None):
  """The value without compilation, with plain Python numbers."""
  return TABLE[name].call(s, t, where, **TABLE[name].numbers)


@every
def test_arrays_lists_bfloat16_and_masked_classes(name):
  s, t = sides(name)
  want = numpy(name, s, t)
  check(name, plainly(name, jnp.float32(s), jnp.float32(t)), want)
  check(name, plainly(name, s.tolist(), t.tolist()), want)
  if name != "masked_mean":  # a mean keeps its type
    half, other = (jnp.bfloat16(1e4 * x) for x in (s, t))
    check(name, plainly(name, half, other), numpy(name, half, other), large=True)
    assert jax.eval_shape(jax.grad(lambda x: jnp.sum(plainly(name, x, other))), half).dtype == jnp.bfloat16
  if TABLE[name].classes:
    masked_classes(name, np.float32(s), np.float32(t))


def masked_classes(name, s, t):
  s[..., -1] = t[..., -1] = -np.inf
  check(name, plainly(name, s, t), numpy(name, s, t))
  if not TABLE[name].learns:
    return
  gradient = jax.grad(lambda s: jnp.sum(plainly(name, s, t)))(s)
  assert np.isfinite(gradient).all() and not gradient[..., -1].any()
  if TABLE[name].stopped:
    return
  direction = np.random.default_rng(1).normal(size=s.shape)
  want = formulas.derivative(lambda s: numpy(name, s, t), np.float64(s), direction)
  np.testing.assert_allclose(np.sum(gradient * direction), want, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.kd_loss])
def test_a_label_that_is_masked_out_is_expensive_but_finite(loss):
  z = jnp.array([[1.0, 2.0, -jnp.inf]])
  args = (z,) if loss is losses.kd_loss else ()
  value, gradient = jax.value_and_grad(lambda z: loss(z, *args, jnp.array([2]))[0])(z)
  assert 1e20 < value < np.inf and np.isfinite(gradient).all()


def test_means_of_half_precision_logits_are_those_of_float32():
  rng = np.random.default_rng(0)
  z, y = jnp.bfloat16(rng.normal(size=(1000, 1000))), jnp.int32(rng.integers(0, 1000, 1000))
  want = formulas.log_softmax(np.float64(z))[np.arange(1000), y]
  np.testing.assert_allclose(jnp.mean(losses.cross_entropy(z, y)), -want.mean(), rtol=1e-5)
  theta = jnp.float16(rng.normal(size=3000) * 30)  # squares and their sum overflow in float16
  np.testing.assert_allclose(losses.trajectory_matching(theta, 2 * theta, 0 * theta), 0.25, rtol=1e-3)


def test_an_expert_that_stays_where_it_was():
  x = jnp.ones(3)
  with pytest.raises(ValueError, match="start equals target"):
    losses.trajectory_matching(0 * x, x, x)


def test_similar_embeddings_have_no_negative_loss():
  x = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
  for loss in (losses.info_nce, losses.nt_xent):
    assert (loss(x, x, temperature=0.01) >= 0).all() and (jax.jit(loss)(x, x, temperature=0.01) >= 0).all()


# what belongs to one loss: its targets, weights and states

KEY = jax.random.key(0)
LOGITS = np.float32([[1.0, 2.0, -np.inf], [0.5, -1.0, 2.0]])


def ensemble():
  other = np.float32([[3.0, 1.0, -np.inf], [0.0, 0.0, 0.0]])
  both, logits = losses.ensemble_soft_targets([LOGITS, other], weights=[3, 1], temperature=2.0)
  np.testing.assert_allclose(both, 0.75 * formulas.softmax(LOGITS / 2) + 0.25 * formulas.softmax(other / 2), rtol=1e-5)
  np.testing.assert_allclose(logits, 0.75 * LOGITS + 0.25 * other, rtol=1e-6)
  alone = losses.ensemble_soft_targets([LOGITS, np.full_like(other, np.nan)], weights=[1, 0])
  np.testing.assert_allclose(alone[0], formulas.softmax(LOGITS), rtol=1e-6)
  np.testing.assert_allclose(alone[1], LOGITS)
  traced = jax.jit(lambda w, t: losses.ensemble_soft_targets([LOGITS, other], weights=w, temperature=t))
  np.testing.assert_allclose(traced(jnp.array([3.0, 1.0]), 2.0)[0], both, rtol=1e-6)


def noisy():
  tau = np.ones(2, np.float32)
  clean = losses.noisy_soft_targets(KEY, LOGITS, tau, epsilon=np.inf)
  np.testing.assert_allclose(clean, formulas.softmax(LOGITS), rtol=1e-6)
  for place in ("probabilities", "logits"):
    noise = jax.jit(lambda e, place=place: losses.noisy_soft_targets(KEY, LOGITS, tau, epsilon=e, noise_on=place))(0.5)
    np.testing.assert_allclose(noise.sum(-1), 1, rtol=1e-6)
    assert noise[0, 2] == 0  # masked classes get no noise


def distances():
  z, y, other = np.float32(sides("dbr_loss")[0]), np.int32(formulas.LABELS), np.int32(np.roll(formulas.LABELS, -1))
  want = -formulas.log_softmax(np.float64(z) / 3)[np.arange(SIZE)[:, None], np.stack([y, other], 1)]
  np.testing.assert_allclose(losses.dbr_record(z, y, other, temperature=3.0), want, rtol=1e-5)
  with pytest.raises(ValueError, match=r"record \(5, 1\)"):
    losses.dbr_loss(z, want[:, :1], y, other)


def ofa_weights():
  every_class, labels = np.float32(sides("ofa_loss")[1]), np.int32(formulas.LABELS)
  for logits in (every_class, np.where(np.arange(4) == 3, -np.inf, every_class)):
    found = jax.jit(lambda t, c, z=logits: losses.ofa_target_weights(z, labels, temperature=t, exponent=c))(2.0, 1.3)
    np.testing.assert_allclose(found, formulas.ofa_target_weights(logits, np.arange(SIZE), 1.3, 2.0), rtol=1e-5)


def permutation():
  found = losses.teacher_optimal_permutation([[1.0, -np.inf, 3.0], [2.0, 2.0, 2.0]], [1, -1])
  np.testing.assert_array_equal(found, [[1, 2, 0], [0, 1, 2]])
  assert losses.teacher_optimal_permutation(np.zeros((0, 3)), np.zeros(0, int)).shape == (0, 3)


def temperature():
  found = jax.jit(lambda rho, low, high: losses.swing_temperature(rho, tau_lo=low, tau_hi=high))(
    jnp.array([0.0, 0.5, 2.0]), 1.0, 3.0
  )
  np.testing.assert_allclose(found, [1, 2, np.nan])
  assert losses.swing_temperature([0.5]) == 5.5
  with pytest.raises(ValueError, match="rho must be in"):
    losses.swing_temperature([2.0])


def plan():
  cost = np.float32(sides("sinkhorn_distance")[0])
  found = jax.jit(lambda c, w: losses.sinkhorn_plan(c, entropy_weight=w, num_iters=200))(cost, 1.0)
  np.testing.assert_allclose(found.sum(0), SIZE / formulas.CLASSES, rtol=1e-5)
  np.testing.assert_allclose(found.sum(1), 1, rtol=1e-3)
  assert losses.sinkhorn_plan(np.zeros((0, 3))).shape == (0, 3)


def bank():
  state = losses.crd_init(KEY, 6, features=4)
  assert isinstance(state, losses.CRDState) and state.bank_s.shape == (6, 4)
  drawn = losses.crd_negatives(KEY, [0, 1], [0, 0, 1, 1, 2, 2], 20)
  assert drawn.shape == (2, 20) and not set(np.asarray(drawn[0]).tolist()) & {0, 1}
  assert losses.crd_negatives(KEY, np.zeros(0, int), [0, 1], 3).shape == (0, 3)


def rows_outside_the_bank():
  state, x = losses.crd_init(KEY, 6, features=4), np.ones((2, 4), np.float32)
  step = jax.jit(lambda indices, negatives, where: losses.crd_loss(state, x, x, indices, negatives, where=where))
  every, first = np.array([True, True]), np.array([True, False])
  for ids in (
    ([0, 6], [[1, 2], [3, 4]]),
    ([0, -1], [[1, 2], [3, 4]]),
    ([0, 5], [[1, 2], [3, 6]]),
    ([0, 5], [[1, 2], [3, -2]]),
  ):
    with pytest.raises(ValueError, match=r"must be rows of the bank, in \[0, 6\)"):
      losses.crd_loss(state, x, x, *ids)
    wanted, of_first = step(np.array([0, 5]), np.array([[1, 2], [3, 4]]), first)
    loss, new = step(*map(np.array, ids), every)
    np.testing.assert_array_equal(loss, [wanted[0], np.nan])
    jax.tree.map(np.testing.assert_array_equal, new, of_first)  # nothing else was written
    np.testing.assert_array_equal(step(*map(np.array, ids), first)[0], [wanted[0], 0])
  losses.crd_loss(state, x, x, *ids, where=first)  # padding may have any


def warm_up():
  found = jax.jit(lambda n: losses.warmup_weight(5.0, warmup_steps=n))
  np.testing.assert_allclose([found(10.0), found(2.0), found(0.0)], [0.5, 1, 1])
  assert losses.warmup_weight(5, warmup_steps=10) == 0.5 and losses.warmup_weight(0, warmup_steps=0) == 1
  for bad in (-1, np.ones((2, 1))):
    with pytest.raises(ValueError, match="warmup_steps"):
      losses.warmup_weight(1, warmup_steps=bad)


def sum_of_losses():
  total, logs = losses.weighted_sum(
    {"a": [1.0, np.nan], "b": 2.0}, {"a": 3.0, "b": lambda step: step}, step=0.5, where=[True, False]
  )
  assert (total, logs["a"], logs["b"]) == (4.0, 1.0, 2.0)
  assert losses.weighted_sum({"a": np.zeros(0)}, {"a": 1.0})[0] == 0


def target_between():
  other = np.float32([[3.0, 1.0, 2.0], [0.0, -np.inf, 1.0]])
  found = jax.jit(losses.interpolated_target)(LOGITS, other, 0.25)
  with np.errstate(all="ignore"):
    want = formulas.softmax(0.75 * np.float64(LOGITS) + 0.25 * np.float64(other))
  np.testing.assert_allclose(jax.nn.softmax(found), want, rtol=1e-5)
  assert (want[0, 2], want[1, 1]) == (0, 0)
  for t, side in ((0.0, LOGITS), (1.0, other)):
    np.testing.assert_allclose(
      jax.nn.softmax(losses.interpolated_target(LOGITS, other, t)), formulas.softmax(side), rtol=1e-5
    )
  with pytest.raises(ValueError, match="interpolation must be in"):
    losses.interpolated_target(LOGITS, other, 1.5)


def kept_tokens():
  z = np.float32([[1.0, 3.0, 1.0, 0.0], [2.0, -np.inf, 0.0, 1.0]])
  found = losses.top_k_targets(z, 2, temperature=2.0)
  assert isinstance(found, losses.TopK)
  p = formulas.softmax(np.float64(z) / 2)
  np.testing.assert_array_equal(found.classes, [[1, 0], [0, 3]])  # the first of equals
  np.testing.assert_allclose(jnp.exp(found.log_probs), np.take_along_axis(p, found.classes, -1), rtol=1e-6)
  np.testing.assert_allclose(jnp.exp(found.rest), [p[0, 2:].sum(), p[1, 2]], rtol=1e-6)
  lost = losses.top_k_fidelity(z, found, temperature=2.0)
  assert isinstance(lost, losses.TopKFidelity)
  np.testing.assert_allclose(lost.kept_mass, 1 - np.exp(found.rest), rtol=1e-5)
  even = p.copy()
  even[0, 2:] = p[0, 2:].mean()
  np.testing.assert_allclose(lost.divergence, [np.sum(p[0] * np.log(p[0] / even[0])), 0], rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(lost.total_variation, np.abs(p - even).sum(-1) / 2, rtol=1e-4, atol=1e-6)
  for k in (0, 4):
    with pytest.raises(ValueError, match=rf"k={k} must lie in 1..3"):
      losses.top_k_targets(z, k)


PARTS = {
  "CRDState": rows_outside_the_bank,
  "crd_init": bank,
  "crd_negatives": bank,
  "dbr_record": distances,
  "ensemble_soft_targets": ensemble,
  "noisy_soft_targets": noisy,
  "ofa_target_weights": ofa_weights,
  "sinkhorn_plan": plan,
  "swing_temperature": temperature,
  "teacher_optimal_permutation": permutation,
  "TopK": kept_tokens,
  "TopKFidelity": kept_tokens,
  "interpolated_target": target_between,
  "top_k_fidelity": kept_tokens,
  "top_k_targets": kept_tokens,
  "warmup_weight": warm_up,
  "weighted_sum": sum_of_losses,
}


@pytest.mark.parametrize("name", sorted(PARTS))
def test_targets_weights_and_states(name):
  PARTS[name]()
