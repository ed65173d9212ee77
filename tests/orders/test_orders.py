"""Orders of batches: estimates against real training, closed forms and NumPy in float64; searches and mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from jdistill import orders
from jdistill.base import Diverged

STEPS, SIZE = 6, 4
EPS_ROOT = 1e-20


def adam(lr=0.05):
  """`(init, update)` over flat vectors, with a rate that depends on the position alone."""
  direction = optax.scale_by_adam(eps_root=EPS_ROOT)

  def update(gradient, state, theta, position):
    with jax.numpy_dtype_promotion("standard"):
      change, state = direction.update(gradient, state, theta)
      rate = lr * (1 - jnp.asarray(position, gradient.dtype) / (2 * STEPS))
    return -rate * change, state

  return direction.init, update


def sgd(lr=0.1):
  return lambda theta: (), lambda gradient, state, theta, position: (-lr * gradient, state)


def powers(degree):
  """Losses that are polynomials of this degree in theta, another one for every batch, and the batches."""
  rng = np.random.default_rng(degree)
  batches = {"a": rng.normal(size=(STEPS, 3, SIZE)), "b": rng.normal(size=(STEPS, 3))}

  def loss(theta, batch):
    residual = batch["a"] @ theta - batch["b"]
    return jnp.mean(residual**2 if degree == 2 else residual**2 + 0.3 * residual**3)

  return loss, jax.tree.map(jnp.asarray, batches)


def network(dtype=np.float64):
  """A tiny classifier of one hidden layer over a flat vector; batches of different classes."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(STEPS, 8, 3)) + np.arange(STEPS)[:, None, None] / 3
  y = rng.integers(0, 2, (STEPS, 8)) ^ (np.arange(STEPS)[:, None] % 2)
  theta = jnp.asarray(rng.normal(size=3 * 5 + 5 * 2) / 2, dtype)

  def loss(theta, batch):
    hidden = jnp.tanh(batch[0] @ theta[:15].reshape(3, 5))
    log_probs = jax.nn.log_softmax(hidden @ theta[15:].reshape(5, 2))
    return -jnp.mean(jnp.take_along_axis(log_probs, batch[1][:, None], axis=1))

  return loss, (jnp.asarray(x, dtype), jnp.asarray(y)), theta


def record(loss, batches, theta, optimizer):
  """A reference of the batches in their own order."""
  init, update = optimizer
  method = orders.recording(lambda key: (theta, init(theta)), loss, update, STEPS)
  key, advance = jax.random.key(0), jax.jit(method.step)
  state = method.init(key, None)
  for step in range(STEPS):
    state, _ = advance(key, state, jax.tree.map(lambda leaf, step=step: leaf[step], batches))
  return method.result(state)


def truth(loss, batches, theta, optimizer, order):
  """Training in NumPy's manner: a plain loop, no scan, no order inside of the program."""
  init, update = optimizer
  state = init(theta)
  for position, batch in enumerate(order):
    own = jax.tree.map(lambda leaf, batch=batch: leaf[batch], batches)
    change, state = update(jax.grad(loss)(theta, own), state, theta, jnp.int32(position))
    theta = theta + change
  return np.asarray(theta)


ORDERS = orders.random_orders(np.random.default_rng(5), 3, STEPS)


def estimated(reference, loss, batches, optimizer, order, **options):
  gradient = jax.grad(loss)
  found = jax.jit(
    lambda o: orders.estimate_order(reference, o, optimizer[1], gradient=gradient, batches=batches, **options)
  )
  return found(jnp.asarray(order))


@pytest.mark.parametrize("optimizer", [sgd, adam], ids=["sgd", "adam"])
@pytest.mark.parametrize(("degree", "expansion"), [(2, 1), (3, 2)])
def test_estimates_are_exact_where_the_expansion_is(x64, degree, expansion, optimizer):
  loss, batches = powers(degree)
  theta = jnp.asarray(np.random.default_rng(1).normal(size=SIZE) / 4)
  reference = record(loss, batches, theta, optimizer())
  gaps = []
  for order in ORDERS:
    want = truth(loss, batches, theta, optimizer(), order)
    got = estimated(reference, loss, batches, optimizer(), order, expansion=expansion)
    np.testing.assert_allclose(got.theta, want, rtol=1e-9, atol=1e-11)
    lower = estimated(reference, loss, batches, optimizer(), order, expansion=expansion - 1)
    gaps.append(np.abs(lower.theta - want).max())
  assert max(gaps) > 1e-4  # one derivative less is not enough


def test_the_order_of_the_reference_gives_the_reference(x64):
  loss, batches, theta = network()
  reference = record(loss, batches, theta, adam())
  np.testing.assert_allclose(reference.theta[-1], truth(loss, batches, theta, adam(), range(STEPS)), rtol=1e-12)
  for options in ({"expansion": 0}, {"moments": "reference"}, {"hessian": "secant", "expansion": 2}):
    got = estimated(reference, loss, batches, adam(), np.arange(STEPS), **options)
    np.testing.assert_allclose(got.theta, reference.theta[-1], rtol=1e-10, atol=1e-12)
    assert np.asarray(got.distance).max() < 1e-14 and np.asarray(got.finite).all()


def test_real_training_in_one_program_is_the_plain_loop(x64):
  loss, batches, theta = network()
  init, update = adam()
  for order in ORDERS:
    got = orders.train_order(jax.grad(loss), update, init(theta), theta, batches, jnp.asarray(order))
    np.testing.assert_allclose(got, truth(loss, batches, theta, adam(), order), rtol=1e-10)


def test_more_terms_are_nearer_to_a_real_training_and_moments_of_the_reference_are_not(x64):
  loss, batches, theta = network()
  reference = record(loss, batches, theta, adam(0.02))

  def error(**options):
    gaps = [
      estimated(reference, loss, batches, adam(0.02), order, **options).theta
      - truth(loss, batches, theta, adam(0.02), order)
      for order in ORDERS
    ]
    return np.linalg.norm(np.stack(gaps))

  zeroth, first, second = (error(expansion=n) for n in range(3))
  assert second < first / 3 < zeroth / 9
  assert error(expansion=1, moments="reference") > 3 * first


def numpy_secants(reference, gradients, order, lr):
  """The paper's elementwise quotients with SGD, written down in NumPy."""
  theta, gamma = np.asarray(reference.theta), np.asarray(reference.theta[0])
  for t, batch in enumerate(order):
    offset = gamma - theta[t]
    change = gradients[t, batch].copy()
    if t >= 1:
      slope = (gradients[t, batch] - gradients[t - 1, batch]) / (theta[t] - theta[t - 1])
      change += slope * offset
      if t >= 2:
        earlier = (gradients[t - 1, batch] - gradients[t - 2, batch]) / (theta[t - 1] - theta[t - 2])
        change += 0.5 * (slope - earlier) / (theta[t] - theta[t - 1]) * offset**2
    gamma = gamma - lr * change
  return gamma


def test_stored_gradients_give_what_computed_ones_give_and_the_quotients_of_numpy(x64):
  loss, batches, theta = network()
  reference = record(loss, batches, theta, sgd())
  stored = orders.store_gradients(reference, jax.grad(loss), batches)
  assert stored.gradients.shape == (STEPS, STEPS, theta.size)
  by_hand = np.stack(
    [
      np.stack([jax.grad(loss)(reference.theta[t], jax.tree.map(lambda a, i=i: a[i], batches)) for i in range(STEPS)])
      for t in range(STEPS)
    ]
  )
  np.testing.assert_allclose(stored.gradients, by_hand, rtol=1e-12)
  for order in ORDERS:
    options = {"expansion": 2, "hessian": "secant"}
    got = orders.estimate_order(stored, jnp.asarray(order), sgd()[1], **options)
    np.testing.assert_allclose(got.theta, numpy_secants(reference, by_hand, order, 0.1), rtol=1e-8)
    computed = estimated(reference, loss, batches, sgd(), order, **options)
    np.testing.assert_allclose(got.theta, computed.theta, rtol=1e-8)


def test_mixtures_over_batches_are_unbiased_and_complete_ones_lose_nothing(x64):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(STEPS, 5)))
  turn = jnp.asarray(np.linalg.qr(rng.normal(size=(STEPS, STEPS)))[0])
  for batch in range(STEPS):
    np.testing.assert_allclose(orders.recover(orders.project(x, turn), turn, batch), x[batch], atol=1e-12)
  keys = jax.random.split(jax.random.key(0), 4000)

  def once(key):
    r = orders.projection(key, STEPS, 3, x.dtype)
    return orders.recover(orders.project(x, r), r, 2)

  draws = jax.vmap(once)(keys)
  spread = np.std(draws, axis=0) / np.sqrt(len(keys))
  assert (np.abs(np.mean(draws, axis=0) - x[2]) < 5 * spread).all()
  loss, batches, theta = network()
  reference = record(loss, batches, theta, sgd())
  whole = orders.store_gradients(reference, jax.grad(loss), batches)
  mixed = orders.store_gradients(reference, jax.grad(loss), batches, turn)
  options = {"expansion": 1, "hessian": "secant"}
  a, b = (orders.estimate_order(one, jnp.asarray(ORDERS[0]), sgd()[1], **options).theta for one in (whole, mixed))
  np.testing.assert_allclose(a, b, rtol=1e-9)


def test_a_parameter_without_any_gradient_makes_no_nan():
  """A row of an embedding that no batch has: the square root of Adam has an infinite slope there."""
  loss, batches, theta = network(np.float32)
  wide = jnp.concatenate([theta, jnp.zeros(3)])
  own = lambda theta, batch: loss(theta[:-3], batch)  # noqa: E731
  reference = record(own, batches, wide, adam())
  for moments in orders.taylor.MOMENTS:
    got = estimated(reference, own, batches, adam(), ORDERS[0], moments=moments, expansion=2)
    assert np.isfinite(got.theta).all() and not np.asarray(got.theta[-3:]).any()


def test_derivatives_of_a_scalar_function(x64):
  found = orders.derivatives(lambda s: jnp.exp(2 * s) * jnp.ones(2), 3)(jnp.asarray(0.5))
  for k, value in enumerate(found):
    np.testing.assert_allclose(value, 2**k * np.exp(1.0) * np.ones(2), rtol=1e-12)


def test_a_diverged_estimate_names_its_step():
  loss, batches, theta = network(np.float32)
  reference = record(loss, batches, theta, adam())
  broken = reference._replace(theta=reference.theta.at[3].set(np.nan))
  got = estimated(broken, loss, batches, adam(), ORDERS[0])
  with pytest.raises(Diverged, match=r"estimate: step 3 of order 0 is not finite: the expansion diverged"):
    orders.require_finite(got)
  orders.require_finite(estimated(reference, loss, batches, adam(), ORDERS[0]))


@pytest.mark.parametrize(
  ("order", "message"),
  [
    ([0, 1, 2, 3, 4, 4], r"not a permutation of range\(6\): it has 6 batches, batch 5 is missing"),
    ([0, 1, 2], r"it has 3 batches, batch 3 is missing"),
    ([0, 1, 2, 3, 4, 5, 6], r"it has 7 batches"),
    ([0.0, 1.0], r"order: float64 of shape \(2,\); give the 6 numbers of batches"),
  ],
)
def test_orders_that_are_none(order, message):
  with pytest.raises(ValueError, match=message):
    orders.check_order(order, STEPS)
  np.testing.assert_array_equal(orders.check_order(ORDERS[0].tolist(), STEPS), ORDERS[0])


def test_a_reference_of_something_else_is_refused():
  loss, batches, theta = network(np.float32)
  reference, gradient = record(loss, batches, theta, adam()), jax.grad(loss)
  orders.check_replay(reference, gradient, adam()[1], theta, batches)
  with pytest.raises(ValueError, match="recorded from another start"):
    orders.check_replay(reference, gradient, adam()[1], theta + 1, batches)
  with pytest.raises(ValueError, match="update 0 is another one"):
    orders.check_replay(reference, gradient, adam(0.01)[1], theta, batches)
  late = lambda g, s, t, p: jax.tree.map(lambda a: jnp.where(p == STEPS - 1, 0.5, 1.0) * a, adam()[1](g, s, t, p)[0])  # noqa: E731
  with pytest.raises(ValueError, match="update 5 is another one"):
    orders.check_replay(reference, gradient, lambda *a: (late(*a), None), theta, batches)
  other = jax.tree.map(lambda leaf: leaf[::-1], batches)
  with pytest.raises(ValueError, match="update 0 is another one"):
    orders.check_replay(reference, gradient, adam()[1], theta, other)
  with pytest.raises(ValueError, match=r"recorded with 6 batches, and there are \[5\]"):
    orders.check_replay(reference, gradient, adam()[1], theta, jax.tree.map(lambda leaf: leaf[1:], batches))
  with pytest.raises(ValueError, match="do not match"):
    orders.check_replay(reference, gradient, adam()[1], theta[1:], batches)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"expansion": 3}, "expansion=3; choose 0, 1 or 2"),
    ({"moments": "own"}, "moments='own'; choose propagated or reference"),
    ({"hessian": "full"}, "hessian='full'; choose jvp or secant"),
    ({"gradient": None}, "no gradients are stored; give gradient and batches"),
  ],
)
def test_options_of_estimates_that_do_not_fit(options, message):
  loss, batches, theta = network(np.float32)
  reference = record(loss, batches, theta, sgd())
  given = {"gradient": jax.grad(loss), "batches": batches} | options
  with pytest.raises(ValueError, match=message):
    orders.estimate_order(reference, jnp.arange(STEPS), sgd()[1], **given)
  stored = orders.store_gradients(reference, jax.grad(loss), batches)
  with pytest.raises(ValueError, match="needs gradients that can be differentiated"):
    orders.estimate_order(stored, jnp.arange(STEPS), sgd()[1])


def test_bytes_are_those_of_the_arrays():
  loss, batches, theta = network(np.float32)
  reference = record(loss, batches, theta, adam())
  state = adam()[0](theta)
  size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))  # noqa: E731
  assert orders.estimator().nbytes(STEPS, theta.size, state) == size(reference)
  for mixed in (None, 2):
    own = orders.estimator(hessian="secant", stored=True, mixtures=mixed)
    kept = own.prepare(jax.random.key(0), reference, jax.grad(loss), batches)
    assert own.nbytes(STEPS, theta.size, state) == size(kept)
  with pytest.raises(ValueError, match="stored gradients cannot be differentiated"):
    orders.estimator(stored=True)
  with pytest.raises(ValueError, match="mixtures=2: without stored=True no gradients are kept"):
    orders.estimator(mixtures=2)


def test_moving_one_batch_through_all_positions():
  moved = orders.moved_orders(np.array([2, 0, 1, 3]), 0)
  np.testing.assert_array_equal(moved, [[0, 2, 1, 3], [2, 0, 1, 3], [2, 1, 0, 3], [2, 1, 3, 0]])
  with pytest.raises(ValueError, match="batch 7 is not in the order"):
    orders.moved_orders(np.arange(4), 7)


def test_random_orders_are_permutations_and_more_of_them_begin_alike():
  some, more = (orders.random_orders(np.random.default_rng(3), count, 7) for count in (2, 5))
  np.testing.assert_array_equal(some, more[:2])
  assert more.dtype == np.int32 and (np.sort(more, axis=1) == np.arange(7)).all()
  assert orders.random_orders(np.random.default_rng(3), 0 + 1, 7).shape == (1, 7)


def test_the_search_finds_an_order_and_only_permutations_are_asked_about():
  asked = []

  def inversions(found):
    asked.append(found)
    assert (np.sort(found, axis=1) == np.arange(7)).all()
    return [stats.kendalltau(one, np.arange(7)).statistic * -1 for one in found]

  sizes = {"steps": 7, "population": 12, "generations": 25}
  found = orders.search_curriculum(inversions, np.random.default_rng(0), **sizes)
  np.testing.assert_array_equal(found.order, np.arange(7))
  assert found.value == -1 and found.history == sorted(found.history, reverse=True) and len(found.history) == 26
  assert found.asked == sum(map(len, asked)) == 12 + 25 * 10
  again = orders.search_curriculum(inversions, np.random.default_rng(0), **sizes)
  np.testing.assert_array_equal(again.order, found.order)
  with pytest.raises(ValueError, match="0 < elite < population"):
    orders.search_curriculum(inversions, np.random.default_rng(0), steps=7, population=2)
  with pytest.raises(ValueError, match="or is not finite"):
    orders.search_curriculum(lambda found: np.full(len(found), np.nan), np.random.default_rng(0), steps=3)
