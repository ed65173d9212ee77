"""DSA: what is drawn, that it replays, and that its application differentiates as often as matching needs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from jdistill import augment, base
from jdistill.augment import operators

NAMES = ("color", "crop", "cutout", "flip", "scale", "rotate")  # order of the default strategy
SHAPES = [(4, 8, 8, 1), (3, 6, 5, 3)]
# two programs may round the coordinates of a grid differently, and by how much depends on the processor
ROUNDING = 1e-5


def augmented(aug, record, x):
  return jax.jit(aug.apply)(record, x)


def draw(aug, shape, seed=0):
  return jax.jit(aug.sample, static_argnums=1)(jax.random.key(seed), shape)


def pixels(shape, seed=7):
  return jax.random.normal(jax.random.key(seed), shape)


@functools.partial(jax.jit, static_argnums=0)
def spelled_out(name, r, x):
  """What the operator `name` of record `r` does, spelled out; the operators have their own references."""
  pad = tuple(int(n * 0.125 + 0.5) for n in x.shape[1:3])
  side = tuple(int(n * 0.5 + 0.5) for n in x.shape[1:3])
  if name == "color":
    x = operators.brightness(x, r.color[:, 0])
    return operators.contrast(operators.saturation(x, r.color[:, 1]), r.color[:, 2])
  if name == "crop":
    return operators.translate(x, r.shift, pad)
  if name == "cutout":
    return operators.cutout(x, r.cutout, side)
  return {
    "flip": lambda: operators.flip(x, r.flip),
    "scale": lambda: operators.scale(x, r.scale),
    "rotate": lambda: operators.rotate(x, r.angle),
  }[name]()


@pytest.mark.parametrize("shape", SHAPES)
def test_op_selects_the_operator_of_the_strategy(shape):
  aug, x = augment.dsa(), pixels(shape)
  apply = jax.jit(aug.apply)
  record = draw(aug, shape)._replace(flip=jnp.arange(shape[0]) > 1)
  assert record.op.shape == () and record.op.dtype == jnp.int32
  for op, name in enumerate(NAMES):
    y = apply(record._replace(op=jnp.int32(op)), x)
    np.testing.assert_allclose(y, spelled_out(name, record, x), atol=ROUNDING, err_msg=name)
    assert np.abs(np.asarray(y) - np.asarray(x)).max() > 1e-2, name


def test_a_subset_keeps_its_own_order():
  aug, x = augment.dsa("scale_flip"), pixels((3, 6, 5, 3))
  record = draw(aug, x.shape)._replace(flip=jnp.array([True, False, True]))
  np.testing.assert_array_equal(augmented(aug, record._replace(op=jnp.int32(1)), x), operators.flip(x, record.flip))
  ops = jax.vmap(lambda k: aug.sample(k, x.shape).op)(jax.random.split(jax.random.key(0), 64))
  assert set(ops.tolist()) == {0, 1}


def test_multiple_applies_all_in_order():
  x = pixels((3, 6, 5, 3))
  aug = augment.dsa("cutout_rotate_color", mode="multiple")
  record = draw(aug, x.shape)
  y = spelled_out("color", record, spelled_out("rotate", record, spelled_out("cutout", record, x)))
  np.testing.assert_allclose(augmented(aug, record, x), y, atol=ROUNDING)
  other = spelled_out("cutout", record, spelled_out("rotate", record, spelled_out("color", record, x)))
  assert float(jnp.abs(y - other).max()) > 0.01
  assert int(record.op) == 0


@pytest.mark.parametrize("strategy", ["none", "None", ""])
def test_none_is_the_identity(strategy):
  aug, x = augment.dsa(strategy), pixels((2, 4, 4, 1))
  record = draw(aug, x.shape)
  assert jax.tree.leaves(record) == []
  np.testing.assert_array_equal(aug.apply(record, x), x)


def test_replay_gives_identical_pixels():
  aug, x = augment.dsa(), pixels((4, 8, 8, 1))
  apply = jax.jit(aug.apply)
  for seed in range(8):
    record = draw(aug, x.shape, seed)
    saved = jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)), record)
    np.testing.assert_array_equal(apply(record, x), apply(saved, x))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), record, draw(aug, x.shape, seed)))


@pytest.mark.parametrize("mode", ["single", "multiple"])
def test_siamese_shares_one_draw_whatever_the_batch_size(mode):
  aug = augment.dsa(mode=mode, siamese=True)
  image = pixels((1, 6, 5, 3))
  for seed in range(3):
    small, large = draw(aug, (2, 6, 5, 3), seed), draw(aug, (5, 6, 5, 3), seed)
    assert int(small.op) == int(large.op)
    for a, b in zip(small[1:], large[1:], strict=True):
      assert a.shape[0] == 2 and b.shape[0] == 5
      np.testing.assert_array_equal(b, np.broadcast_to(np.asarray(a)[:1], b.shape))
    y = augmented(aug, large, jnp.tile(image, (5, 1, 1, 1)))
    np.testing.assert_array_equal(y, np.broadcast_to(np.asarray(y)[:1], y.shape))


def test_independent_draws_differ_between_images():
  record = draw(augment.dsa(), (64, 32, 32, 3))
  for field in ("flip", "scale", "angle", "shift", "cutout", "color"):
    assert len(np.unique(np.asarray(getattr(record, field)), axis=0)) > 1, field
  correlation = np.corrcoef(np.concatenate([record.scale, record.color, record.shift], axis=1).T)
  assert np.abs(correlation - np.eye(7)).max() < 0.5  # 64 images: a sixth of that is one standard deviation
  lows, spans = [1 / 1.2, -15, -0.5, 0, 0.5], [1.2 - 1 / 1.2, 30, 1, 2, 1]
  draws = [record.scale, record.angle, *record.color.T]
  uniform = np.concatenate([(np.ravel(d) - low) / span for d, low, span in zip(draws, lows, spans, strict=True)])
  assert len(np.unique(uniform.round(5))) > len(uniform) - 10  # no stream of random numbers is used twice


def test_bounds_and_means_of_the_draws():
  n = 4000
  r = jax.tree.map(np.asarray, draw(augment.dsa(), (n, 32, 20, 3)))

  def uniform(values, low, high):
    assert low <= values.min() < low + 0.02 * (high - low) and high - 0.02 * (high - low) < values.max() <= high
    assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / np.sqrt(12 * n)

  def integers(values, low, high):  # high included
    counts = np.bincount(values - low, minlength=high - low + 1)
    assert values.min() == low and values.max() == high
    share = 1 / len(counts)
    assert np.abs(counts / n - share).max() < 5 * np.sqrt(share / n)

  assert abs(r.flip.mean() - 0.5) < 5 * 0.5 / np.sqrt(n) and r.flip.dtype == bool
  for axis in (0, 1):
    uniform(r.scale[:, axis], 1 / 1.2, 1.2)
  uniform(r.angle, -15, 15)
  for channel, (low, high) in enumerate([(-0.5, 0.5), (0, 2), (0.5, 1.5)]):
    uniform(r.color[:, channel], low, high)
  integers(r.shift[:, 0], -4, 4)  # int(32 / 8 + 1/2)
  integers(r.shift[:, 1], -3, 3)  # int(20 / 8 + 1/2)
  integers(r.cutout[:, 0], 0, 32)  # side 16 is even
  integers(r.cutout[:, 1], 0, 20)  # side 10 is even
  odd = draw(augment.dsa(), (n, 6, 6, 1))
  integers(np.asarray(odd.cutout[:, 0]), 0, 5)  # side 3 is odd


def test_operators_are_drawn_uniformly_and_apart_from_their_numbers():
  n, shape = 3000, (1, 4, 4, 1)
  keys = jax.random.split(jax.random.key(3), n)
  records = jax.vmap(lambda k: augment.dsa().sample(k, shape))(keys)
  counts = np.bincount(np.asarray(records.op), minlength=6)
  assert len(counts) == 6
  assert ((counts - n / 6) ** 2 / (n / 6)).sum() < 25.7  # chi square, 5 degrees of freedom, p = 1e-4
  flipped = np.asarray(records.flip)[np.asarray(records.op) == 3]
  assert abs(flipped.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(flipped))


def test_params_change_the_strengths():
  params = augment.DsaParams(flip=1.0, scale=1.0, rotate=0.0, crop=0.0, cutout=1.0, brightness=0.0, saturation=0.0)
  aug, x = augment.dsa(params=params), pixels((3, 6, 5, 3))
  record = draw(aug, x.shape)
  apply = [augmented(aug, record._replace(op=jnp.int32(op)), x) for op in range(6)]
  grey = jnp.mean(x, axis=-1, keepdims=True)
  np.testing.assert_allclose(
    apply[0], jnp.broadcast_to(operators.contrast(grey, record.color[:, 2]), x.shape), atol=1e-6
  )
  np.testing.assert_array_equal(apply[1], x)
  assert float(jnp.count_nonzero(apply[2])) < x.size
  np.testing.assert_array_equal(apply[3], x[:, :, ::-1])
  np.testing.assert_array_equal(apply[4], x)
  np.testing.assert_array_equal(apply[5], x)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_in_the_pixels(x64, name):
  shape = (2, 6, 5, 2)
  aug = augment.dsa(name)
  record = draw(aug, shape)._replace(flip=jnp.array([True, False]))
  x = jnp.array(np.random.default_rng(0).standard_normal(shape))
  y = aug.apply(record, x)
  assert y.dtype == jnp.float64
  check_grads(jax.jit(lambda x: aug.apply(record, x) ** 3), (x,), order=2)


def test_the_backward_pass_keeps_only_the_record():
  aug, shape = augment.dsa(), (4, 16, 16, 3)
  pullback = jax.eval_shape(lambda r, x: jax.vjp(lambda x: aug.apply(r, x), x)[1], draw(aug, shape), pixels(shape))
  kept = sum(leaf.size for leaf in jax.tree.leaves(pullback))
  assert kept <= 4 * (1 + 2 + 1 + 2 + 2 + 3) + 8  # far from 3,072 pixels and 2,048 interpolation weights


def sgd_loss(aug, x, w, r):
  return jnp.mean(jnp.tanh(aug.apply(r, x).reshape(x.shape[0], -1) @ w) ** 2)


def inner_loop(aug, x, w, records, checkpoint):
  """A few steps of gradient descent on augmented pixels; its end depends on `x` through every step's gradient."""

  def body(w, r):
    return w - 0.3 * jax.grad(lambda w: sgd_loss(aug, x, w, r))(w), None

  w, _ = lax.scan(jax.checkpoint(body) if checkpoint else body, w, records)
  return jnp.sum(w**2)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_records_for_all_steps_are_scanned_and_differentiated(x64, checkpoint):
  """Vmapped records, one per step: the outer gradient of the scan is that of a Python loop over separate records."""
  shape, steps = (2, 6, 5, 2), 6
  aug = augment.dsa()
  keys = jax.random.split(jax.random.key(5), steps)
  records = jax.vmap(lambda k: aug.sample(k, shape))(keys)._replace(op=jnp.arange(steps, dtype=jnp.int32))
  rng = np.random.default_rng(1)
  x, w = jnp.array(rng.standard_normal(shape)), jnp.array(0.1 * rng.standard_normal((60, 3)))

  def by_hand(x):
    v = w
    for n, key in enumerate(keys):
      r = aug.sample(key, shape)
      z = spelled_out(NAMES[n], r, x).reshape(2, -1)
      h = jnp.tanh(z @ v)
      v = v - 0.3 * z.T @ (2 * h * (1 - h**2)) / h.size
    return jnp.sum(v**2)

  gradient = jax.jit(jax.grad(lambda x: inner_loop(aug, x, w, records, checkpoint)))(x)
  np.testing.assert_allclose(gradient, jax.grad(by_hand)(x), rtol=1e-9, atol=1e-12)


def test_forward_over_reverse_under_scan(x64):
  """d/de grad_x L(w + e u): what the mixed-mode adjoint asks for, step by step, against central differences."""
  shape, steps = (2, 4, 4, 2), 6
  aug = augment.dsa()
  records = jax.vmap(lambda k: aug.sample(k, shape))(jax.random.split(jax.random.key(6), steps))
  records = records._replace(op=jnp.arange(steps, dtype=jnp.int32))
  rng = np.random.default_rng(2)
  x, w, u = (jnp.array(rng.standard_normal(s)) for s in (shape, (32, 3), (32, 3)))

  @jax.jit
  def tangents(w):
    def body(_, r):
      return None, jax.jvp(jax.grad(lambda x, w: sgd_loss(aug, x, w, r), (0, 1)), (x, w), (jnp.zeros_like(x), u))

    return lax.scan(body, None, records)[1]

  e = 1e-5
  _, (by_x, by_w) = tangents(w)
  (x_up, w_up), _ = tangents(w + e * u)
  (x_down, w_down), _ = tangents(w - e * u)
  np.testing.assert_allclose(by_x, (x_up - x_down) / (2 * e), atol=1e-8)
  np.testing.assert_allclose(by_w, (w_up - w_down) / (2 * e), atol=1e-8)
  assert float(jnp.abs(by_x).max()) > 1e-3


def test_only_one_operator_runs_and_a_batch_of_ops_still_works():
  aug, shape = augment.dsa(), (2, 4, 4, 1)
  x = pixels(shape)
  records = jax.vmap(lambda k: aug.sample(k, shape))(jax.random.split(jax.random.key(8), 3))
  one = jax.tree.map(lambda leaf: leaf[0], records)
  assert "cond[" in str(jax.make_jaxpr(aug.apply)(one, x))
  mapped = jax.jit(jax.vmap(aug.apply, (0, None)))(records, x)
  for n in range(3):
    single = augmented(aug, jax.tree.map(lambda leaf, n=n: leaf[n], records), x)
    np.testing.assert_allclose(mapped[n], single, atol=ROUNDING)
  networks = jax.make_jaxpr(jax.vmap(aug.apply, (None, 0)))(one, jnp.stack([x, x]))
  assert "cond[" in str(networks)


def test_a_batch_sharded_over_devices_stays_there_and_gives_the_same_pixels():
  aug, x = augment.dsa(mode="multiple"), pixels((8, 6, 6, 2))
  record = draw(aug, x.shape)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  by_batch = jax.sharding.NamedSharding(mesh, jax.P("data"))
  placed = jax.device_put(x, by_batch)
  split = jax.tree.map(lambda leaf: jax.device_put(leaf, by_batch) if leaf.ndim else leaf, record)
  compiled = jax.jit(aug.apply).lower(split, placed).compile()
  for collective in ("all-gather", "all-reduce", "all-to-all"):
    assert collective not in compiled.as_text()
  np.testing.assert_allclose(compiled(split, placed), augmented(aug, record, x), atol=ROUNDING)


@pytest.mark.parametrize(
  ("build", "words"),
  [
    (lambda: augment.dsa("color_blur"), ["strategy", "'blur'", "color, crop, cutout, flip, rotate, scale"]),
    (lambda: augment.dsa("color_"), ["strategy", "''", "color_"]),
    (lambda: augment.dsa("flip_flip"), ["strategy", "flip_flip", "once"]),
    (lambda: augment.dsa(mode="S"), ["mode", "'S'", "single", "multiple"]),
    (lambda: augment.dsa(params=augment.DsaParams(scale=0.8)), ["params.scale", "0.8", "1"]),
    (lambda: augment.dsa(params=augment.DsaParams(flip=1.5)), ["params.flip", "1.5"]),
    (lambda: draw(augment.dsa(), (8, 8, 3)), ["shape", "(8, 8, 3)", "(batch, height, width, channels)"]),
    (lambda: augment.dsa().apply(draw(augment.dsa(), (2, 4, 4, 1)), jnp.ones((3, 4, 4, 1))), ["record", "2", "3"]),
    (lambda: augment.dsa().apply(draw(augment.dsa(), (2, 4, 4, 1)), jnp.ones((2, 4, 4, 1), jnp.uint8)), ["x", "uint8"]),
  ],
)
def test_mistakes_are_named_in_one_line(build, words):
  with pytest.raises(base.UserError) as error:
    build()
  message = str(error.value)
  assert "\n" not in message
  for word in words:
    assert word in message
