"""KRR-ST against NumPy in float64 with finite differences, scikit-learn's ridge regression, and the proof of its bias
claim on a ridge problem with one weight."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numeric_gradient
from sklearn.kernel_ridge import KernelRidge

from jdistill.base import Augmentation, Batch, Network, Outputs, UserError, Variables
from jdistill.methods.dataset.krr_st import Taught, krr_st, krr_st_loss, unlabelled_batches
from jdistill.methods.dataset.pool import mean_squared_error, model_pool
from jdistill.methods.optimizers import make_optimizer
from jdistill.ops import append_bias, krr_predict
from jdistill.synthetic import Materials, SyntheticSet, feature_start

SIZE, REAL, SHAPE, FEATURES, WIDTH = 4, 7, (2, 2, 1), 5, 3
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
IMAGES, TARGETS, X = RNG.normal(size=(SIZE, *SHAPE)), RNG.normal(size=(SIZE, WIDTH)), RNG.normal(size=(REAL, *SHAPE))
GUIDE = RNG.normal(size=(4, WIDTH))


def network(dtype=jnp.float32):
  """Features `tanh(x W)`, logits `features V`; in training mode the features are twice as large."""

  def init(key):
    keys = jax.random.split(key)
    params = {
      "w": jax.random.normal(keys[0], (4, FEATURES), dtype),
      "v": jax.random.normal(keys[1], (FEATURES, WIDTH), dtype),
    }
    return Variables(params)

  def apply(params, x, *, train=False, stats=None, **_):
    features = jnp.tanh(x.reshape(x.shape[0], -1) @ params["w"]) * (2 if train else 1)
    return Outputs(features @ params["v"], features)

  return Network(init, apply)


def guide(params, x, *, train=False, stats=None, **_):
  """The target model: features `sin(x G)`, of another width than the networks', and a head that says nothing."""
  return Outputs(jnp.zeros((x.shape[0], 2), x.dtype), jnp.sin(x.reshape(x.shape[0], -1) @ params["g"]))


def noise(dtype):
  return Augmentation(lambda key, shape: jax.random.normal(key, shape, dtype), lambda record, x: x + 0.1 * record)


def build(dtype=jnp.float32, labels=TARGETS, **options):
  initial = SyntheticSet(jnp.asarray(IMAGES, dtype), jnp.asarray(labels, dtype), jnp.asarray(0.1, dtype))
  own = {"iterations": 10, "pool_size": 2, "reset_after": 3, "ridge": 0.01, "outer_lr": 0.02}
  return krr_st(network(dtype), guide, initial, **(own | options))


def taught(dtype=jnp.float32, x=X):
  batch = Batch(jnp.asarray(x, dtype), jnp.full(len(x), -1, jnp.int32), jnp.arange(len(x), dtype=jnp.int32))
  return Taught(batch, Variables({"g": jnp.asarray(GUIDE, dtype)}))


def with_ones(rows):
  return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)


def error(images, targets, weights, x, ridge=0.01, trace=None):
  """The outer loss; the trace may be that of other images, as a constant."""
  own, real = (with_ones(np.tanh(one.reshape(len(one), -1) @ weights)) for one in (images, x))
  k = own @ own.T
  trace = np.trace(k) if trace is None else trace
  predicted = real @ own.T @ np.linalg.solve(k + ridge * trace * np.eye(len(own)), targets)
  return np.mean((predicted - np.sin(x.reshape(len(x), -1) @ GUIDE)) ** 2)


def test_three_steps_equal_finite_differences_and_adam(x64):
  """Networks see all images in evaluation mode, and the target model the same draw of the augmentation."""
  method = build(jnp.float64, augment=noise(jnp.float64))
  given = taught(jnp.float64)
  state, step = jax.jit(method.init)(KEY, given), jax.jit(method.step)
  learned, moments = {"images": IMAGES, "labels": TARGETS}, dict.fromkeys(("images", "labels"), (0.0, 0.0))
  pool = model_pool(
    network(jnp.float64), make_optimizer("sgd", 0.1, momentum=0.9, weight_decay=1e-3), size=2, reset_after=3,
    loss=mean_squared_error, late=True,
  )  # fmt: skip
  for count in (1, 2, 3):
    key = jax.random.fold_in(KEY, count)
    key_augment, key_draw, key_pool = jax.random.split(key, 3)
    number, variables = pool.draw(key_draw, state.pool)
    weights = np.asarray(variables.params["w"])
    seen = X + 0.1 * np.asarray(jax.random.normal(key_augment, X.shape, jnp.float64))
    trace = np.sum(with_ones(np.tanh(learned["images"].reshape(SIZE, -1) @ weights)) ** 2)

    def value(images, labels, weights=weights, seen=seen, trace=trace):
      return error(images, labels, weights, seen, trace=trace)

    before = state.pool
    state, metrics = step(key, state, given)
    assert float(metrics["krr/loss"]) == pytest.approx(value(**learned), rel=1e-7)
    spread = np.mean((f := np.sin(seen.reshape(REAL, -1) @ GUIDE)) ** 2) - np.mean(f.mean(0) ** 2)
    assert float(metrics["krr/explained"]) == pytest.approx(1 - value(**learned) / spread, rel=1e-6)
    gradients = {
      "images": numeric_gradient(lambda images, old=learned["labels"]: value(images, old), learned["images"]),
      "labels": numeric_gradient(lambda labels, old=learned["images"]: value(old, labels), learned["labels"]),
    }
    rate = 0.02 * (1 - 0.999 * (count - 1) / 10)  # linear, to a thousandth
    for name, gradient in gradients.items():
      first, second = moments[name]
      first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
      moments[name] = first, second
      change = first / (1 - 0.9**count) / (np.sqrt(second / (1 - 0.999**count)) + 1e-8)
      learned[name] = learned[name] - rate * change
      np.testing.assert_allclose(getattr(method.result(state), name), learned[name], rtol=1e-5, atol=1e-7)
    # the network that was drawn is trained on the moved set, and no other
    result = method.result(state)
    want = jax.jit(pool.step)(key_pool, before, number, result.images, result.labels)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.pool, want)
  assert int(state.count) == 3 and float(result.lr) == 0.1 and method.steps == 10


def test_the_ridge_is_scikit_learns_with_the_trace_as_its_unit(x64):
  """`alpha = 1e-6 tr(K)`, not divided by the number of images; the constant is penalised like a weight."""
  rng = np.random.default_rng(2)
  own, real, targets = rng.normal(size=(6, 4)), rng.normal(size=(5, 4)), rng.normal(size=(6, 2))
  rows = with_ones(own)
  np.testing.assert_array_equal(append_bias(jnp.asarray(own)), rows)
  model = KernelRidge(alpha=1e-6 * np.sum(rows**2)).fit(rows, targets)
  want = np.mean((model.predict(with_ones(real)) - 1.0) ** 2)
  flat = lambda params, x, **_: Outputs(x, x)  # noqa: E731
  loss, _ = krr_st_loss(flat, Variables({}), *map(jnp.asarray, (own, targets, real, np.ones((5, 2)))))
  assert float(loss) == pytest.approx(want, rel=1e-7)


def test_one_image_and_equal_images_stay_finite():
  for rows in (np.repeat(IMAGES[:1], SIZE, axis=0), IMAGES[:1]):
    initial = SyntheticSet(jnp.float32(rows), jnp.float32(TARGETS[: len(rows)]), jnp.float32(1))
    method = krr_st(network(), guide, initial, pool_size=1, reset_after=2)
    state, metrics = jax.jit(method.step)(KEY, jax.jit(method.init)(KEY, taught()), taught())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))


def test_the_gradient_can_be_clipped():
  """Adam does not see the scale of a gradient, until that is below what Adam adds to its root mean square."""
  moved = []
  for clip in (0.0, 1e-12):
    method = build(outer_clip=clip, warm_pool=False)
    state, _ = jax.jit(method.step)(KEY, method.init(KEY, taught()), taught())
    moved.append(np.abs(method.result(state).images - np.float32(IMAGES)).max())
  assert moved[0] == pytest.approx(0.02, rel=1e-3) and moved[1] < 1e-4


def test_the_first_pool_is_trained_for_random_numbers_of_steps():
  state = jax.jit(build(pool_size=4, reset_after=50).init)(KEY, taught())
  ages = np.asarray(state.pool.age)
  assert ages.min() >= 1 and ages.max() < 50 and len(set(ages.tolist())) > 1
  cold = jax.jit(build(pool_size=4, reset_after=50, warm_pool=False).init)(KEY, taught())
  assert not np.asarray(cold.pool.age).any()
  errors = []
  for networks in (state.pool, cold.pool):
    out = jax.vmap(lambda params: network().apply(params, jnp.float32(IMAGES), train=True).logits)(
      networks.variables.params
    )
    errors.append(float(jnp.mean(jnp.square(out - jnp.float32(TARGETS)[None]))))
  assert errors[0] < 0.5 * errors[1]


# -- the claim about the bias -----------------------------------------------------------------------------------------


def inner(x, y, views, ridge):
  """The weight that `1/V sum_v sum_i (v_i x_i w - y_i)^2 + ridge w^2` has its minimum at, and its slopes in `x`.

  Views `[..., V, points]` mask some of the points.
  """
  share = np.mean(views, -2)  # v^2 = v
  top, bottom = np.sum(share * x * y, -1, keepdims=True), np.sum(share * x**2, -1, keepdims=True) + ridge
  return top / bottom, (share * y * bottom - top * 2 * share * x) / bottom**2


def meta_gradient(x, y, views, ridge, real, wanted):
  """Of `mean_j (real_j w - wanted_j)^2` in the synthetic points `x`, `[..., points]`."""
  weight, slope = inner(x, y, views, ridge)
  return np.mean(2 * (real * weight - wanted) * real, -1, keepdims=True) * slope


def test_random_views_inside_make_the_outer_gradient_biased():
  """`E[argmin]` is not `argmin E`: the mean over all draws of the gradient at a solution for sampled views is not the
  gradient at the solution for all views. The gap falls with the number of views in an inner problem, like `1 / V`;
  of the deterministic problem, whose views are all the same, it is zero."""
  rng = np.random.default_rng(5)
  x, y = rng.normal(1, 0.5, 4), rng.normal(1, 0.5, 4)
  real, wanted, ridge = rng.normal(size=6), rng.normal(size=6), 0.1
  every = np.float64(list(itertools.product((0, 1), repeat=4)))  # masks of probability 1/16 each
  true = meta_gradient(x, y, every, ridge, real, wanted)
  one = meta_gradient(x, y, every[:, None], ridge, real, wanted).mean(0)
  assert np.linalg.norm(one - true) > 0.2 * np.linalg.norm(true)
  gaps = {}
  for count in (1, 4, 16, 64):
    draws = meta_gradient(x, y, every[rng.integers(16, size=(50_000, count))], ridge, real, wanted)
    mean, spread = np.mean(draws, 0), np.std(draws, 0) / np.sqrt(len(draws))
    gaps[count] = np.linalg.norm(mean - true)
    if count == 1:  # sampling agrees with the exact mean, and not with the true gradient
      assert np.all(np.abs(mean - one) < 5 * spread) and np.any(np.abs(mean - true) > 20 * spread)
  assert gaps[1] > 2 * gaps[4] > 4 * gaps[16] and gaps[64] < 0.1 * gaps[1]
  # the same numbers by the ridge regression of the package, with the gradient that JAX takes
  with jax.enable_x64(True):

    def outer(x, view):
      rows = (view * x)[:, None]
      predicted = krr_predict(jnp.asarray(real)[:, None] @ rows.T, rows @ rows.T, jnp.asarray(y)[:, None], ridge)
      return jnp.mean((predicted[:, 0] - wanted) ** 2)

    slopes = jax.jit(jax.vmap(jax.grad(outer), (None, 0)))(jnp.asarray(x), jnp.asarray(every))
    np.testing.assert_allclose(np.mean(slopes, 0), one, rtol=1e-8)
    whole = jax.grad(outer)(jnp.asarray(x), jnp.ones(4))
    np.testing.assert_allclose(whole, meta_gradient(x, y, np.ones((1, 4)), ridge, real, wanted), rtol=1e-8)


# -- what a run hands over, and mistakes ------------------------------------------------------------------------------


def test_the_start_and_the_stream_look_at_no_label():
  images, teacher = np.float32(RNG.normal(size=(9, *SHAPE))), Variables({"g": np.float32(GUIDE)})
  embed = lambda x: np.asarray(guide(teacher.params, jnp.asarray(x)).embedding)  # noqa: E731
  options = {"ipc": 2, "num_classes": 3, "seed": 4, "embed": embed}
  found = feature_start().make(images, np.zeros(9, np.int32), **options)
  again = feature_start().make(images, None, expert_logits=None, experts=0, **options)
  jax.tree.map(np.testing.assert_array_equal, found, again)
  assert found.images.shape == (6, *SHAPE) and {row.tobytes() for row in found.images} <= {x.tobytes() for x in images}
  np.testing.assert_array_equal(found.labels, embed(found.images))
  empty = feature_start().empty(2, 3, SHAPE, WIDTH)
  for like, own in zip(jax.tree.leaves(empty), jax.tree.leaves(found), strict=True):
    assert like.shape == own.shape and like.dtype == own.dtype
  blank = feature_start(initial="noise").make(images, None, **options)
  assert not {row.tobytes() for row in blank.images} & {x.tobytes() for x in images}
  stream = unlabelled_batches(batch_real=5).stream(Materials(images, np.arange(9), 3, 0, teacher=teacher))
  assert (stream(0).batch.y == -1).all() and len(set(stream(0).batch.ids.tolist())) == 5
  assert stream(0).batch.ids.tolist() != stream(1).batch.ids.tolist()
  with pytest.raises(UserError, match=r"ipc=4: 12 images are asked for, and there are 9; lower ipc"):
    feature_start().make(images, None, **(options | {"ipc": 4}))
  with pytest.raises(UserError, match="needs a target model"):
    feature_start().make(images, None, **(options | {"embed": None}))


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (
      lambda: build(labels=np.int32([0, 1, 2, 0]), dtype=jnp.int32),
      r"labels are int32 \(4,\); they must be the target",
    ),
    (lambda: build(ridge=0.0), r"method\.ridge=0\.0: must be above 0"),
    (lambda: krr_predict(jnp.ones((2, 1)), jnp.ones((1, 1)), jnp.ones((1, 1)), 0.0, rule="trace"), "must be positive"),
    (
      lambda: build(labels=TARGETS[:, :2]).step(KEY, state_of(TARGETS[:, :2]), taught()),
      r"\(4, 2\) .* \(7, 3\) differ",
    ),
    (lambda: build().step(KEY, state_of(TARGETS), taught(x=X[:, :1])), r"the set has images \(2, 2, 1\)"),
    (
      lambda: unlabelled_batches(batch_real=10).stream(Materials(X, np.zeros(REAL), 3, 0)),
      r"method\.batch_real=10: larger than the 7 real images; lower it",
    ),
    (lambda: unlabelled_batches(batch_real=5).stream(Materials(X, np.zeros(REAL), 3, 0)), "add 'teachers' to config"),
  ],
)
def test_mistakes_are_named(make, message):
  with pytest.raises(ValueError, match=message) as caught:
    make()
  assert "\n" not in str(caught.value)


def state_of(labels):
  return build(labels=labels, warm_pool=False).init(KEY, taught())
