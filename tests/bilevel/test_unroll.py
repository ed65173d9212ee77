"""The gradient routes of `unroll` against each other, finite differences, and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jdistill.bilevel import unroll, unroll_trace
from jdistill.losses import trajectory_matching

EXACT = ("full", "remat", "mixed", "mixed_saved", "nested_remat")
STEPS, EXAMPLES, FEATURES, CLASSES = 5, 6, 3, 4


def mlp(theta, x):
  w, v = theta["w"], theta["v"]
  return jnp.tanh(x @ w) @ v


def loss(theta, shared, batch):
  x = shared["x"][batch["indices"]]
  target = jax.nn.softmax(shared["y"][batch["indices"]])
  losses = -jnp.sum(target * jax.nn.log_softmax(mlp(theta, x)), -1)
  return jnp.sum(losses * batch["mask"]) / jnp.sum(batch["mask"])


def problem(dtype, steps=STEPS):
  rng = np.random.default_rng(0)
  make = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
  theta = {"w": make(FEATURES, 5), "v": make(5, CLASSES)}
  target = jax.tree.map(lambda a: a + 0.1 * make(*a.shape), theta)
  shared = {"x": make(EXAMPLES, FEATURES), "y": make(EXAMPLES, CLASSES)}
  indices = jnp.asarray(rng.integers(0, EXAMPLES, (steps, 4)), jnp.int32)
  batches = {"indices": indices, "mask": jnp.ones((steps, 4), dtype).at[-1, 2:].set(0)}
  return theta, target, shared, batches, jnp.asarray(0.3, dtype)


def outer(gradient, momentum=0.0, fn=loss):
  def value(theta, shared, lr, target, batches):
    end = unroll(fn, theta, shared, batches, lr, momentum=momentum, gradient=gradient)
    return trajectory_matching(end, target, jax.tree.map(lambda a: a + 0.5, target))

  return value


@functools.cache
def gradients(gradient, dtype, momentum=0.0, steps=STEPS, fn=loss):
  theta, target, shared, batches, lr = problem(dtype, steps)
  return jax.jit(jax.grad(outer(gradient, momentum, fn), argnums=(0, 1, 2)))(theta, shared, lr, target, batches)


def relative_error(a, b):
  a, b = (ravel_pytree(t)[0] for t in (a, b))
  return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("route", EXACT[1:])
def test_exact_routes_agree_in_float64(route, momentum, x64):
  assert relative_error(gradients(route, np.float64, momentum), gradients("full", np.float64, momentum)) < 1e-12


@pytest.mark.parametrize("route", EXACT[1:])
def test_exact_routes_agree_in_float32(route):
  assert relative_error(gradients(route, np.float32), gradients("full", np.float32)) < 1e-5


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_mixed_equals_finite_differences(momentum, x64):
  theta, target, shared, batches, lr = problem(np.float64)
  value = outer("mixed", momentum)
  grads = jax.grad(value, argnums=(0, 1, 2))(theta, shared, lr, target, batches)
  rng, step = np.random.default_rng(1), 1e-5
  for _ in range(3):
    direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), (theta, shared, lr))
    ahead, behind = (
      value(*jax.tree.map(lambda a, d, s=s: a + s * d, (theta, shared, lr), direction), target, batches)
      for s in (step, -step)
    )
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), grads, direction)))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-6)


def test_linear_regression_equals_its_closed_form(x64):
  """For `|x theta - y|^2 / 2` the end point is a matrix power, whose gradient NumPy knows by finite differences."""
  rng = np.random.default_rng(2)
  x, y, theta = rng.normal(size=(6, 3)), rng.normal(size=6), rng.normal(size=3)
  steps, lr = 4, 0.05

  def quadratic(theta, shared, batch):
    return 0.5 * jnp.sum((shared[0] @ theta - shared[1]) ** 2) + 0.0 * batch.astype(float)

  def closed_form(x, y):
    contraction = np.eye(3) - lr * x.T @ x
    solution = np.linalg.solve(x.T @ x, x.T @ y)
    return np.linalg.matrix_power(contraction, steps) @ (theta - solution) + solution

  end = unroll(quadratic, jnp.asarray(theta), (jnp.asarray(x), jnp.asarray(y)), jnp.arange(steps), lr)
  np.testing.assert_allclose(end, closed_form(x, y), rtol=1e-10)
  got = jax.grad(lambda s: jnp.sum(unroll(quadratic, jnp.asarray(theta), s, jnp.arange(steps), lr)))((x, y))
  h = 1e-6
  for k in range(6):
    bump = np.eye(6)[k] * h
    want = (closed_form(x, y + bump).sum() - closed_form(x, y - bump).sum()) / (2 * h)
    np.testing.assert_allclose(got[1][k], want, rtol=1e-6)
    bump = np.zeros_like(x)
    bump[k, 1] = h
    want = (closed_form(x + bump, y).sum() - closed_form(x - bump, y).sum()) / (2 * h)
    np.testing.assert_allclose(got[0][k, 1], want, rtol=1e-6)


def test_tesla_is_exact_for_one_step_only(x64):
  # of the shared values and the learning rate, which is what it is for; the start's own curvature is dropped always
  one, exact = (gradients(route, np.float64, steps=1)[1:] for route in ("tesla", "full"))
  assert relative_error(one, exact) < 1e-12
  assert relative_error(gradients("tesla", np.float64)[1:], gradients("full", np.float64)[1:]) > 1e-3


def test_tesla_is_the_unroll_with_every_point_held_constant(x64):
  """Its own definition: every inner gradient is taken at a trajectory that does not depend on the shared values."""
  theta, target, shared, batches, lr = problem(np.float64)
  points = [theta]
  rows = [jax.tree.map(lambda a, n=n: a[n], batches) for n in range(STEPS)]
  for row in rows:
    points.append(jax.tree.map(lambda p, g: p - lr * g, points[-1], jax.grad(loss)(points[-1], shared, row)))

  def frozen(shared, lr):
    end = theta
    for point, row in zip(points, rows, strict=False):
      end = jax.tree.map(lambda p, g: p - lr * g, end, jax.grad(loss)(point, shared, row))
    return trajectory_matching(end, target, jax.tree.map(lambda a: a + 0.5, target))

  want = jax.grad(frozen, argnums=(0, 1))(shared, lr)
  assert relative_error(gradients("tesla", np.float64)[1:], want) < 1e-12


def test_tesla_is_exact_for_a_loss_linear_in_the_parameters(x64):
  def linear(theta, shared, batch):
    return jnp.sum(theta["v"] * jnp.sum(jnp.tanh(shared["y"])) * jnp.sum(batch["mask"])) + jnp.sum(theta["w"])

  assert relative_error(gradients("tesla", np.float64, fn=linear), gradients("full", np.float64, fn=linear)) < 1e-12


def test_nested_remat_with_a_rest(x64):
  # 7 steps are three stretches of two and one more
  assert relative_error(*(gradients(route, np.float64, 0.5, steps=7) for route in ("nested_remat", "full"))) < 1e-12


def along(route, dtype, momentum, fn=loss, marks=(1, 4)):
  """Gradients of a sum over points on the way (`marks` of 5 steps) and the last, each with a target of its own."""
  theta, target, shared, batches, lr = problem(dtype)

  def value(theta, shared, lr):
    points = unroll(fn, theta, shared, batches, lr, momentum=momentum, marks=marks, gradient=route)
    starts = jax.tree.map(lambda a: a + 0.5, target)
    goals = [jax.tree.map(lambda a, n=n: a * (1 + 0.1 * n), target) for n in range(len(points))]
    return sum(trajectory_matching(p, g, starts) for p, g in zip(points, goals, strict=True))

  return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2)))(theta, shared, lr)


def written_out(momentum, marks=(1, 4)):
  """The same by JAX through a Python loop that keeps every point, the velocity in the graph."""
  theta, target, shared, batches, lr = problem(np.float64)

  def value(theta, shared, lr):
    points, velocity = [theta], jax.tree.map(jnp.zeros_like, theta)
    for n in range(STEPS):
      slope = jax.grad(loss)(points[-1], shared, jax.tree.map(lambda a, n=n: a[n], batches))
      velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, slope)
      points.append(jax.tree.map(lambda p, v: p - lr * v, points[-1], velocity))
    total, starts = 0.0, jax.tree.map(lambda a: a + 0.5, target)
    for n, end in enumerate((*marks, STEPS)):
      total += trajectory_matching(points[end], jax.tree.map(lambda a, n=n: a * (1 + 0.1 * n), target), starts)
    return total

  return jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2)))(theta, shared, lr)


@pytest.mark.parametrize(("momentum", "routes"), [(0.0, ("mixed",)), (0.9, EXACT)])
def test_points_on_the_way_have_the_gradient_of_a_loop_written_out(momentum, routes, x64):
  want = written_out(momentum)
  for route in routes:
    value, found = along(route, np.float64, momentum)
    np.testing.assert_allclose(value, want[0], rtol=1e-12)
    assert relative_error(found, want[1]) < 1e-11, route  # of the whole, which is nearly that of the last point alone


def test_tesla_on_the_way_is_exact_for_a_loss_linear_in_the_parameters_and_else_is_not(x64):
  def linear(theta, shared, batch):
    return jnp.sum(theta["v"] * jnp.sum(jnp.tanh(shared["y"])) * jnp.sum(batch["mask"])) + jnp.sum(theta["w"])

  exact, found = (along(route, np.float64, 0.0, linear) for route in ("full", "tesla"))
  assert relative_error(found[1], exact[1]) < 1e-12
  assert relative_error(along("tesla", np.float64, 0.0)[1], along("full", np.float64, 0.0)[1]) > 1e-3


def test_points_on_the_way_are_those_of_shorter_runs():
  theta, _, shared, batches, lr = problem(np.float32)
  points = unroll(loss, theta, shared, batches, lr, momentum=0.9, marks=(2, 3))
  assert len(points) == 3
  for end, point in zip((2, 3, STEPS), points, strict=True):
    short = unroll(loss, theta, shared, jax.tree.map(lambda a, end=end: a[:end], batches), lr, momentum=0.9)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), point, short)


@pytest.mark.parametrize("window", [1, 2, STEPS])
def test_truncated_is_the_gradient_from_a_start_held_constant(window, x64):
  theta, target, shared, batches, lr = problem(np.float64)
  early, late = (jax.tree.map(lambda a, s=s: a[s], batches) for s in (slice(-window), slice(-window, None)))
  if window == STEPS:
    early = None

  def value(shared, lr, gradient, batches, theta, **options):
    end = unroll(loss, theta, shared, batches, lr, gradient=gradient, **options)
    return trajectory_matching(end, target, jax.tree.map(lambda a: a + 0.5, target))

  middle = unroll(loss, theta, shared, early, lr) if early is not None else theta
  want = jax.grad(value, argnums=(0, 1))(shared, lr, "full", late, middle)
  got = jax.grad(value, argnums=(0, 1))(shared, lr, "truncated", batches, theta, window=window)
  assert relative_error(got, want) < 1e-12


@pytest.mark.parametrize("route", [*EXACT, "tesla"])
def test_zero_learning_rate_leaves_the_start(route):
  theta, target, shared, batches, _ = problem(np.float32)
  end = unroll(loss, theta, shared, batches, 0.0, gradient=route)
  jax.tree.map(np.testing.assert_array_equal, end, theta)
  assert float(trajectory_matching(end, target, theta)) == 1.0


def row_loss(theta, rows, batch):
  losses = -jnp.sum(jax.nn.softmax(rows["y"]) * jax.nn.log_softmax(mlp(theta, rows["x"])), -1)
  return batch["factor"] * jnp.sum(losses * batch["weight"])


def by_rows(route, dtype, chunk_size, momentum=0.0, indices=True, **options):
  """Gradients of the same problem stated as a weighted sum over picked rows, or with the picking inside the loss."""
  theta, target, shared, batches, lr = problem(dtype)
  weight = batches["mask"] / jnp.sum(batches["mask"], axis=1, keepdims=True)
  rest = {"weight": weight, "factor": jnp.ones(STEPS, dtype)}

  def value(theta, shared, lr):
    if indices:
      end = unroll(
        row_loss, theta, shared, rest, lr,
        indices=batches["indices"], chunk_size=chunk_size, gradient=route, momentum=momentum, **options,
      )  # fmt: skip
    else:
      pick = lambda shared, index: jax.tree.map(lambda leaf: leaf[index], shared)  # noqa: E731
      end = unroll(
        lambda theta, shared, batch: row_loss(theta, pick(shared, batch["indices"]), batch),
        theta, shared, rest | {"indices": batches["indices"]}, lr, chunk_size=chunk_size, gradient=route,
        momentum=momentum, **options,
      )  # fmt: skip
    return trajectory_matching(end, target, jax.tree.map(lambda a: a + 0.5, target))

  return jax.jit(jax.grad(value, argnums=(0, 1, 2)))(theta, shared, lr)


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("route", EXACT)
def test_picked_rows_in_chunks_give_the_gradient_of_the_whole(route, chunk_size, x64):
  momentum = 0.9 if chunk_size else 0.0
  assert (
    relative_error(by_rows(route, np.float64, chunk_size, momentum), gradients("full", np.float64, momentum)) < 1e-12
  )


def test_chunks_without_picking(x64):
  assert relative_error(by_rows("mixed", np.float64, 1, indices=False), gradients("full", np.float64)) < 1e-12


@pytest.mark.parametrize("route, options", [("tesla", {}), ("truncated", {"window": 3})])
def test_inexact_routes_do_not_depend_on_chunks(route, options, x64):
  got, want = (by_rows(route, np.float64, size, **options) for size in (2, None))
  assert relative_error(got, want) < 1e-12


def test_chunks_shrink_the_activations():
  """Scratch memory of one step: the activations of a chunk and not those of the batch."""
  size, batch = 64, 512

  def wide(theta, rows, weight):
    for _ in range(4):
      rows = jnp.tanh(rows @ theta.reshape(size, size))
    return jnp.sum(weight * jnp.mean(jnp.square(rows), 1))

  def scratch(chunk_size):
    def value(shared):
      weight, indices = jnp.ones((2, batch)), jnp.tile(jnp.arange(batch), (2, 1))
      options = {"indices": indices, "chunk_size": chunk_size}
      return jnp.sum(unroll(wide, jnp.ones(size * size), shared, weight, 0.1, **options))

    return jax.jit(jax.grad(value)).lower(jnp.ones((batch, size))).compile().memory_analysis().temp_size_in_bytes

  assert scratch(32) < 0.4 * scratch(None)


def test_masked_rows_do_not_count():
  theta, _, shared, batches, lr = problem(np.float32)
  other = batches | {"indices": batches["indices"].at[-1, 2:].set(0)}
  jax.tree.map(np.testing.assert_array_equal, *(unroll(loss, theta, shared, b, lr) for b in (batches, other)))


def test_trace_agrees_and_its_losses_fall():
  theta, _, shared, batches, lr = problem(np.float32)
  same = jax.tree.map(lambda a: jnp.broadcast_to(a[:1], (20, *a.shape[1:])), batches)
  end, losses = unroll_trace(loss, theta, shared, same, lr)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), end, unroll(loss, theta, shared, same, lr))
  assert losses.shape == (20,) and losses[-1] < losses[0]


def test_memory_of_mixed_and_remat_grows_by_parameters_only():
  """Scratch memory per added step: about one parameter vector, where `full` adds a step's activations."""
  size, batch = 64, 512

  def wide(theta, shared, row):
    h = shared
    for _ in range(4):
      h = jnp.tanh(h @ theta.reshape(size, size))
    return jnp.mean(jnp.square(h)) + 0.0 * row

  def scratch(route, steps):
    value = jax.grad(lambda s: jnp.sum(unroll(wide, jnp.ones(size * size), s, jnp.zeros(steps), 0.1, gradient=route)))
    return jax.jit(value).lower(jnp.ones((batch, size))).compile().memory_analysis().temp_size_in_bytes

  growth = {route: (scratch(route, 24) - scratch(route, 8)) / 16 for route in EXACT}
  parameters = 4 * size * size
  assert growth["mixed"] <= 1.5 * parameters and growth["remat"] <= 1.5 * parameters, growth
  assert growth["full"] > 10 * parameters, growth
  # the square root of 24 steps is 4 and of 8 is 2: about four more vectors in all
  assert growth["nested_remat"] <= 0.4 * parameters, growth


@pytest.mark.parametrize(
  "options, steps, match",
  [
    ({"gradient": "fast"}, 2, "unknown gradient route 'fast'"),
    ({"gradient": "tesla", "momentum": 0.9}, 2, "assumes plain SGD"),
    ({}, 0, "no steps"),
    ({"gradient": "truncated"}, 2, "needs a window of 1..2 steps, got window=None"),
    ({"gradient": "truncated", "window": 3}, 2, "got window=3"),
    ({"chunk_size": 3}, 2, "chunk_size: 3 does not divide 4 rows"),
    ({"gradient": "full", "axis_name": "data"}, 2, "gradient='full' cannot spread rows"),
    ({"marks": (2,)}, 2, r"marks=\(2,\) must rise within 1..1"),
    ({"marks": (3, 1)}, 5, r"marks=\(3, 1\) must rise within 1..4"),
    ({"marks": (1,), "gradient": "truncated", "window": 1}, 2, "'truncated' has no points on the way"),
    ({"marks": (1,), "gradient": "tesla", "momentum": 0.9}, 2, "assumes plain SGD"),
  ],
)
def test_bad_input(options, steps, match):
  theta, _, shared, batches, lr = problem(np.float32)
  with pytest.raises(ValueError, match=match):
    unroll(loss, theta, shared, jax.tree.map(lambda a: a[:steps], batches), lr, **options)


def test_batches_of_unequal_lengths():
  theta, _, shared, batches, lr = problem(np.float32)
  with pytest.raises(ValueError, match=r"lengths \[4, 5\]"):
    unroll(loss, theta, shared, batches | {"mask": batches["mask"][:4]}, lr)
