"""Many devices compute what one does: the three routes, the gradient routes, pools, and what travels between devices.

The eight devices are those that `tests/conftest.py` makes of one CPU.
"""

import functools

import jax
import numpy as np
import pytest
import toy_method

from jdistill import bilevel, evaluation, models
from jdistill.augment import dsa, flip_crop, identity
from jdistill.base import UserError
from jdistill.methods.dataset.trajectory import Segment, trajectory_method
from jdistill.reporting.cost import cost
from jdistill.synthetic import SyntheticSet
from jdistill.training import Checkpoints, Hooks, parallel, run_loop

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")

CLASSES, SHAPE, ROWS, STEPS = 10, (4, 4, 1), 16, 4
NETWORK = models.build("mlp", num_classes=CLASSES, image_shape=SHAPE, widths=(64,))
FLAT = models.flatten(NETWORK)
KEY = jax.random.key(3)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
  """The programs are many and small: compiling them is nearly all the time that these tests take."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def optimised():
  """As users compile."""
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", True)


def method(unroll, *, soft=True, augment="none"):
  """DATM on 24 images, of which an inner step sees 16."""
  rng = np.random.default_rng(0)
  labels = rng.normal(size=(24, CLASSES)).astype(np.float32) if soft else np.arange(24, dtype=np.int32) % CLASSES
  initial = SyntheticSet(rng.normal(size=(24, *SHAPE)).astype(np.float32), labels, np.float32(0.05))
  return trajectory_method(
    FLAT.apply,
    initial,
    inner_steps=STEPS,
    batch_size=ROWS,
    augment=dsa(augment) if augment != "none" else identity(),
    unroll=unroll,
    learn_labels=soft,
    threshold=None,  # every step is accepted
    image_lr=10.0,
    lr_lr=1e-3,
  )


@functools.lru_cache
def segment():
  rng = np.random.default_rng(1)
  start = np.asarray(FLAT.ravel(NETWORK.init(KEY).params))
  return Segment(start, start + 0.05 * rng.normal(size=start.shape).astype(np.float32))


def unroll(gradient="mixed", **options):
  window = {"window": 2} if gradient == "truncated" else {}
  return functools.partial(bilevel.unroll, gradient=gradient, **window, **options)


def walk(step, state, steps):
  """States and metrics after each of some outer steps."""
  out = []
  for number in range(steps):
    state, metrics = step(jax.random.fold_in(KEY, number), state, segment())
    out.append(jax.device_get((state, metrics)))
  return out


@functools.lru_cache
def alone(steps=1, gradient="mixed", **options):
  """What one device gets."""
  made = method(unroll(gradient), **options)
  return walk(jax.jit(made.step), made.init(KEY, segment()), steps)


def spread(route, devices=8, steps=1, gradient="mixed", chunk_size=None, **options):
  """What many get."""
  mesh = parallel.make_mesh(data=devices)
  made = method(parallel.spread_unroll(unroll(gradient, chunk_size=chunk_size), mesh, route), **options)
  return walk(parallel.spread_step(made.step, mesh, route), made.init(KEY, segment()), steps)


def close(a, b, rtol=1e-5):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-6), a, b)


def moved(states):
  """Whether anything was learned at all."""
  images = jax.tree.leaves(states[-1][0])[0]
  assert not np.allclose(images, jax.tree.leaves(jax.device_get(method(unroll()).init(KEY, segment())))[0])


@pytest.mark.parametrize("route", parallel.ROUTES)
def test_three_steps_with_augmentation_and_learned_labels_equal_one_device(route):
  want = alone(3, augment="crop")
  moved(want)
  close(spread(route, steps=3, augment="crop"), want)


def test_hard_labels_equal_one_device():
  close(spread("shard_map", soft=False), alone(soft=False))


def test_rows_taken_a_few_at_a_time_on_each_device_equal_one_device():
  close(spread("shard_map", devices=4, chunk_size=2, augment="crop", steps=3), alone(3, augment="crop"))


@pytest.mark.parametrize("gradient", ["mixed_saved", "nested_remat", "truncated", "tesla"])
def test_gradient_routes_equal_one_device(gradient):
  close(spread("shard_map", devices=2, gradient=gradient), alone(gradient=gradient))


@pytest.mark.parametrize("gradient", ["full", "remat"])
def test_gradients_through_the_sums_are_refused(gradient):
  with pytest.raises(ValueError, match="use 'mixed'"):
    spread("shard_map", devices=2, gradient=gradient)
  close(spread("jit", devices=2, gradient=gradient), alone(), rtol=1e-4)


@pytest.mark.usefixtures("optimised")
def test_one_sum_of_the_size_of_the_parameters_per_inner_step_and_direction():
  mesh = parallel.make_mesh(data=8)
  made = method(parallel.spread_unroll(unroll(), mesh))
  state = jax.eval_shape(made.init, KEY, segment())
  text = parallel.spread_step(made.step, mesh).lower(KEY, state, segment()).compile().as_text()
  found = cost(text, 8).collectives
  assert {exchange.kind for exchange in found} == {"all-reduce"}
  assert {exchange.group for exchange in found} == {8}
  parameters, images = 4 * FLAT.size, 4 * 24 * int(np.prod(SHAPE))
  assert images < parameters
  assert sum(times for exchange, times in found.items() if exchange.size >= parameters) == 2 * STEPS
  assert sum(times for exchange, times in found.items() if images <= exchange.size < parameters) == 1


def test_a_mesh_that_cannot_be_is_refused():
  with pytest.raises(UserError, match=r"parallel.data=0: give at least 1"):
    parallel.make_mesh(data=0)
  with pytest.raises(UserError, match=r"parallel.pool=3 x parallel.data=4: 12 devices asked for and 8 cpu there"):
    parallel.make_mesh(3, 4)
  with pytest.raises(UserError, match=r"parallel.data=3: does not divide the 16 images"):
    spread("shard_map", devices=3)
  with pytest.raises(UserError, match=r"parallel.pool=9: there are 8 cpu devices; lower it"):
    parallel.check_sizes(9, 1)
  parallel.check_sizes(8, 8)  # they are never used at the same time
  with pytest.raises(ValueError, match="unknown route 'tpu'"):
    parallel.spread_step(lambda x: x, parallel.make_mesh(), "tpu")


# -- the loop ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", parallel.ROUTES)
def test_a_run_goes_on_with_another_number_of_devices(route, tmp_path):
  def run(steps, mesh=None, stop_after=None, directory=None):
    checkpoints = None if directory is None else Checkpoints(directory, {})
    calls = iter(range(1, 100))
    hooks = Hooks(stop=lambda: next(calls) == stop_after)
    try:
      return run_loop(
        toy_method.toy(),
        toy_method.stream(),
        key=KEY,
        steps=steps,
        checkpoints=checkpoints,
        hooks=hooks,
        mesh=mesh,
        route=route,
      )
    finally:
      if checkpoints is not None:
        checkpoints.close()

  plain = run(6)
  first = run(6, parallel.make_mesh(data=8), 2, tmp_path / "c")
  assert first.stopped and first.steps == 2
  assert all(len(leaf.sharding.device_set) == 1 or leaf.is_fully_replicated for leaf in jax.tree.leaves(first.state))
  second = run(6, None, 2, tmp_path / "c")
  assert second.stopped and second.steps == 4
  last = run(6, parallel.make_mesh(data=2), None, tmp_path / "c")
  assert last.steps == 6 and int(last.state["count"]) == 6
  close(toy_method.host(last.state), toy_method.host(plain.state), rtol=1e-6)


# -- pools -------------------------------------------------------------------------------------------------------------


def images(count=30):
  rng = np.random.default_rng(2)
  return rng.normal(size=(count, *SHAPE)).astype(np.float32), np.arange(count, dtype=np.int32) % CLASSES


def test_seeds_of_a_pool_are_those_of_one_device():
  x, y = images()
  protocol = evaluation.Protocol(epochs=4, batch_size=16, augment=flip_crop())
  run = functools.partial(evaluation.train_seeds, NETWORK, protocol, lr=0.05, key=KEY, seeds=3, first=1)
  same, mesh = evaluation.examples_of(x, y), parallel.make_mesh(pool=8)
  want = run(same)
  close(run(same, mesh=mesh), want)  # three of eight places are used
  assert not np.allclose(*(jax.tree.leaves(want)[0][i] for i in (0, 1)))
  sets = [evaluation.examples_of(x + number, y) for number in range(3)]
  separate = [
    evaluation.train_seeds(NETWORK, protocol, one, 0.05, key=KEY, seeds=1, first=1 + number)
    for number, one in enumerate(sets)
  ]
  together = run(sets, mesh=mesh)
  close(together, jax.tree.map(lambda *leaves: np.concatenate(leaves), *separate))
  assert not np.allclose(jax.tree.leaves(together)[0], jax.tree.leaves(want)[0])
