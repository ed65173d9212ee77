"""RCIG's losses against NumPy, its gradient against dense solves and finite differences, and its solvers' rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jdistill.base import Batch, Network, Outputs, UserError, Variables
from jdistill.bilevel import adam_solve, conjugate_gradients, implicit_gradient
from jdistill.methods.dataset.rcig import rcig
from jdistill.methods.dataset.rcig_problem import convex_problem
from jdistill.methods.dataset.solver_rates import adapted, grown, start_rates
from jdistill.synthetic import SyntheticSet

CLASSES, SIZE, REAL, SHAPE, WIDTH, L2 = 3, 4, 7, (1, 2, 1), 5, 0.05
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES, X = RNG.normal(size=(SIZE, *SHAPE)), RNG.normal(size=(REAL, *SHAPE))
LABELS, Y = np.int32([0, 1, 2, 0]), RNG.integers(0, CLASSES, REAL).astype(np.int32)
SOFT = np.eye(CLASSES)[LABELS] - 1 / CLASSES + 0.1 * RNG.normal(size=(SIZE, CLASSES))
BATCH = Batch(X, Y, np.arange(REAL, dtype=np.int32))
FEW = jax.tree.map(lambda leaf: leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf, BATCH)


def smooth(dtype=jnp.float32):
  """`tanh(x U + c) V + d`, with the names of the package's networks."""

  def init(key):
    keys, normal = jax.random.split(key, 4), lambda key, *shape: jax.random.normal(key, shape, dtype)
    first = {"kernel": normal(keys[0], 2, WIDTH), "bias": normal(keys[1], WIDTH)}
    return Variables(
      {"dense0": first, "head": {"kernel": normal(keys[2], WIDTH, CLASSES), "bias": normal(keys[3], CLASSES)}}
    )

  def apply(params, x, *, train=False, stats=None, **_):
    hidden = jnp.tanh(x.reshape(x.shape[0], -1) @ params["dense0"]["kernel"] + params["dense0"]["bias"][None])
    return Outputs(hidden @ params["head"]["kernel"] + params["head"]["bias"][None], hidden)

  return Network(init, apply)


def numpy_losses(p, tau, images, labels, temperature, keep=True):
  """`(inner, outer, accuracy)` by explicit derivatives of the network."""

  def parts(x):
    x = x.reshape(len(x), -1)
    hidden = np.tanh(x @ p["dense0"]["kernel"] + p["dense0"]["bias"])
    moved = (1 - hidden**2) * (x @ tau["dense0"]["kernel"] + tau["dense0"]["bias"])
    change = moved @ p["head"]["kernel"] + tau["head"]["bias"]  # the head's matrix does not move
    return hidden, change + (hidden @ p["head"]["kernel"] + p["head"]["bias"] if keep else 0)

  hidden, out = parts(images)
  gram = hidden @ hidden.T
  dual = np.linalg.solve(gram + L2 * np.eye(len(gram)), labels - out)
  error = labels - out - gram @ dual
  norm = sum((leaf**2).sum() for leaf in jax.tree.leaves(tau))
  inner = 0.5 * ((error**2).sum() + L2 * (np.trace(dual.T @ gram @ dual) + norm)) / labels.size
  real, real_out = parts(X)
  logits = np.exp(temperature) * (real_out + real @ hidden.T @ dual)
  likelihood = logits[np.arange(REAL), Y] - np.log(np.exp(logits).sum(1))
  ranked = np.sort(labels, axis=1)
  margin = np.minimum(ranked[:, -1] - ranked[:, -2], 1 / (2 * CLASSES)).mean()
  return inner, -likelihood.mean() - 0.7 * margin, (logits.argmax(1) == Y).mean()


def made(**options):
  network = smooth(jnp.float64)
  variables = network.init(KEY)
  learned = {"images": jnp.asarray(IMAGES), "labels": jnp.asarray(SOFT), "log_temperature": jnp.asarray(0.3)}
  return convex_problem(network, variables, BATCH, l2=L2, margin_weight=0.7, **options), learned, variables.params


@pytest.mark.parametrize("keep", [True, False])
def test_losses_equal_numpy(keep, x64):
  found, learned, params = made(keep_output=keep)
  tau = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), found.start)
  plain = jax.tree.map(np.asarray, (params, tau))
  inner, outer, accuracy = numpy_losses(*plain, IMAGES, SOFT, 0.3, keep)
  assert float(jax.jit(found.inner)(tau, learned)) == pytest.approx(inner, rel=1e-9)
  value, share = jax.jit(found.outer)(tau, learned)
  assert float(value) == pytest.approx(outer, rel=1e-9) and float(share) == pytest.approx(accuracy)


def test_mirrors_and_fixed_labels(x64):
  """A set with its mirrors, and labels that are not learned, are those of a problem where they are written out."""
  flipped, learned, _ = made(use_flip=True)
  plain, _, _ = made()
  fixed, _, _ = made(labels=jnp.asarray(SOFT))
  tau = jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape)), flipped.start)
  twice = np.concatenate([IMAGES, IMAGES[:, :, ::-1]])
  whole = learned | {"images": jnp.asarray(twice), "labels": jnp.asarray(np.concatenate([SOFT, SOFT]))}
  images = {name: learned[name] for name in ("images", "log_temperature")}
  same = lambda a, b: jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-9), a, b)  # noqa: E731
  same(jax.jit(flipped.inner)(tau, learned), jax.jit(plain.inner)(tau, whole))
  same(jax.jit(flipped.outer)(tau, learned), jax.jit(plain.outer)(tau, whole))
  same(jax.jit(fixed.inner)(tau, images), jax.jit(plain.inner)(tau, learned))
  same(jax.jit(fixed.outer)(tau, images), jax.jit(plain.outer)(tau, learned))


def test_the_hypergradient_equals_the_dense_solve_and_finite_differences(x64):
  """The inner problem is quadratic, so one dense solve finds its optimum for any images, labels and temperature."""
  found, learned, _ = made()
  flat, unravel = ravel_pytree(found.start)
  rows, back = ravel_pytree(learned)

  @jax.jit
  def dense(rows):
    loss = lambda flat: found.inner(unravel(flat), back(rows))  # noqa: E731
    hessian = jax.hessian(loss)(flat)
    best = -jnp.linalg.solve(hessian, jax.grad(loss)(flat))
    return best, hessian, jax.grad(loss)(best)

  best, hessian, slope = dense(rows)
  np.testing.assert_allclose(slope, 0, atol=1e-10)
  value = jax.jit(lambda rows: found.outer(unravel(dense(rows)[0]), back(rows))[0])
  numeric = np.array([(value(rows + step) - value(rows - step)) / 2e-5 for step in 1e-5 * np.eye(rows.size)])
  tau = unravel(best)
  mixed = jax.jit(jax.jacobian(lambda rows: jax.grad(lambda flat: found.inner(unravel(flat), back(rows)))(best)))(rows)
  wanted = jax.jit(jax.grad(lambda flat: found.outer(unravel(flat), learned)[0]))(best)
  through = -mixed.T @ jnp.linalg.solve(hessian, wanted)
  assert np.abs(through).max() > 1e-3
  for solve, tolerance in ((conjugate_gradients(flat.size), 1e-7), (adam_solve(0.05, 5000), 1e-4)):
    run = jax.jit(lambda tau, learned, solve=solve: implicit_gradient(found.inner, found.outer, tau, learned, solve))
    got = run(tau, learned)
    np.testing.assert_allclose(ravel_pytree(got.implicit)[0], through, rtol=tolerance, atol=tolerance)
    total = ravel_pytree(jax.tree.map(jnp.add, got.direct, got.implicit))[0]
    np.testing.assert_allclose(total, numeric, rtol=tolerance, atol=max(tolerance, 1e-7))
  assert float(got.implicit["log_temperature"]) == 0


def build(dtype=jnp.float32, labels=LABELS, network=None, **options):
  initial = SyntheticSet(jnp.asarray(IMAGES, dtype), jnp.asarray(labels), jnp.asarray(0.03, dtype))
  own = {"pool_size": 2, "reset_after": 3, "l2": L2 / SIZE, "inner_lr": 0.05, "solver_lr": 0.3, "tune_rates": False}
  return rcig(network or smooth(dtype), initial, **(own | options))


@jax.jit
def dense_gradient(variables, learned):
  """Value, direct and implicit gradient at the optimum of the inner problem, which is quadratic."""
  found = convex_problem(smooth(), variables, BATCH, l2=L2, margin_weight=0.7)
  flat, unravel = ravel_pytree(found.start)
  loss = lambda flat: found.inner(unravel(flat), learned)  # noqa: E731
  tau = unravel(-jnp.linalg.solve(jax.hessian(loss)(flat), jax.grad(loss)(flat)))
  return implicit_gradient(found.inner, found.outer, tau, learned, conjugate_gradients(flat.size))


@pytest.mark.parametrize("clip", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_two_steps_move_images_labels_and_temperature_by_adabelief(clip, x64):
  """With solvers run to the end, along the dense gradient; the result is their average without bias."""
  method = build(jnp.float64, labels=SOFT, inner_steps=1500, solver_steps=3000, clip_implicit=clip, margin_weight=0.7)
  state, step, seen, moments = jax.jit(method.init)(KEY, BATCH), jax.jit(method.step), [], {}
  for count in (1, 2):
    key = jax.random.fold_in(KEY, count)
    number = int(jax.random.randint(jax.random.split(key, 3)[0], (), 0, 2))
    variables = jax.tree.map(lambda leaf, i=number: leaf[i], state.pool.variables)
    learned = {name: role.params for name, role in state.roles.items()}
    got = dense_gradient(variables, learned)
    before, (state, metrics) = state, step(key, state, BATCH)
    assert float(metrics["krr/loss"]) == pytest.approx(float(got.value), rel=1e-4)
    for name, lr in (("images", 3e-3), ("labels", 3e-3), ("log_temperature", 0.03)):
      direct, through = np.asarray(got.direct[name]), np.asarray(got.implicit[name])
      if clip and np.linalg.norm(through) > 0:
        through = through * min(1, np.linalg.norm(direct) / np.linalg.norm(through))
      gradient = direct + through
      first, second = moments.get(name, (0.0, 0.0))
      first = 0.9 * first + 0.1 * gradient
      second = 0.999 * second + 0.001 * (gradient - first) ** 2
      moments[name] = first, second
      change = lr * first / (1 - 0.9**count) / np.sqrt(second / (1 - 0.999**count))
      got_change = np.asarray(before.roles[name].params - state.roles[name].params)
      np.testing.assert_allclose(got_change, change, rtol=2e-2, atol=2e-2 * lr)
    seen.append({name: np.asarray(state.roles[name].params) for name in ("images", "labels")})
    others = np.delete(np.asarray(state.pool.age - before.pool.age), number)
    assert (others == 0).all() and int(state.count) == count
  for name in ("images", "labels"):
    want = (0.99 * 0.01 * seen[0][name] + 0.01 * seen[1][name]) / (1 - 0.99**2)
    np.testing.assert_allclose(getattr(method.result(state), name), want, rtol=1e-6)


def test_before_the_first_step_the_result_is_the_start_and_labels_may_stay():
  method = build(label_lr=0.0, inner_steps=3, solver_steps=3)
  state = jax.jit(method.init)(KEY, FEW)
  np.testing.assert_array_equal(method.result(state).images, np.float32(IMAGES))
  state, _ = jax.jit(method.step)(KEY, state, FEW)
  np.testing.assert_allclose(method.result(state).labels, np.eye(CLASSES)[LABELS] - 1 / CLASSES, rtol=1e-6)
  assert np.abs(method.result(state).images - IMAGES).max() > 1e-4 and float(method.result(state).lr) == np.float32(
    0.03
  )


def test_rates_grow_until_a_solve_is_uneven():
  """Values `|1 - rate|^k` of gradient descent on a parabola fall in every step up to a rate of 2."""
  values = lambda rate: jnp.abs(1 - rate) ** jnp.arange(4.0)  # noqa: E731
  first = 0.05 * 1.2 ** np.arange(40)
  want = 0.7 * first[np.flatnonzero(first >= 2)[0]]
  assert float(jax.jit(lambda: grown(values, 0.05))()) == pytest.approx(want, rel=1e-5)
  assert float(grown(lambda rate: jnp.full(3, jnp.nan), 0.05)) == pytest.approx(0.035)
  endless = grown(lambda rate: jnp.arange(3.0)[::-1], 0.05)
  assert 700 <= float(endless) < 1.2 * 700


@pytest.mark.parametrize(
  ("fails", "falls", "factor"), [(15, 35, 0.9), (14, 36, 1.05), (14, 35, 1.05), (14, 34, 1.0), (50, 0, 0.9)]
)
def test_rates_follow_how_solves_fare(fails, falls, factor):
  fall, fail, uneven = jnp.float32([3, 2, 1]), jnp.float32([1, 0.5, jnp.nan]), jnp.float32([3, 1, 2])
  update, rates = jax.jit(adapted), start_rates(0.1, 2.0)
  for count in range(1, 51):
    one = fail if count <= fails else fall if count <= fails + falls else uneven
    assert count > 1 or float(rates.rates[0]) == np.float32(0.1)
    rates = update(rates, one, fall, jnp.int32(count))
  np.testing.assert_allclose(rates.rates, [0.1 * factor, 2.0 * 1.05], rtol=1e-6)
  np.testing.assert_array_equal(rates.fails, [0, 0])
  np.testing.assert_array_equal(rates.falls, [0, 0])


@pytest.mark.slow
def test_tuned_rates_let_solves_fall():
  method = build(tune_rates=True, inner_lr=1e-4, solver_lr=1e-4)
  state = jax.jit(method.init)(KEY, FEW)
  assert float(state.rates.rates.min()) > 1e-3
  step = jax.jit(method.step)
  for count in range(3):
    state, metrics = step(jax.random.fold_in(KEY, count), state, FEW)
    assert float(metrics["inner/end"]) < float(metrics["inner/start"])
  assert {name: float(value) for name, value in method.figures(state, 3).items()} == {
    "inner_rate": float(metrics["rate/inner"]), "solver_rate": float(metrics["rate/solver"]),
  }  # fmt: skip


def test_equal_images_in_float32_stay_finite():
  same = SyntheticSet(jnp.float32(np.repeat(IMAGES[:1], SIZE, axis=0)), jnp.asarray(LABELS), jnp.float32(1))
  method = rcig(smooth(), same, tune_rates=False, pool_size=2, inner_steps=3, solver_steps=3)
  state, metrics = jax.jit(method.step)(KEY, jax.jit(method.init)(KEY, FEW), FEW)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))


def test_mistakes():
  with pytest.raises(UserError, match=r"method\.image_lr=0 and method\.label_lr=0: rcig learns nothing"):
    build(image_lr=0.0, label_lr=0.0)
  with pytest.raises(ValueError, match=r"method\.l2=0\.0: must be above 0"):
    build(l2=0.0)
  with pytest.raises(ValueError, match=r"method\.inner_steps=1: must be at least 2"):
    build(inner_steps=1)
  method = build()
  state = jax.eval_shape(method.init, KEY, FEW)
  with pytest.raises(ValueError, match="the set has images"):
    jax.eval_shape(method.step, KEY, state, FEW._replace(x=np.zeros((REAL, 2, 2, 1), np.float32)))
