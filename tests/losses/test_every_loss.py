"""Every public loss in the cases that break losses, beside NumPy in float64: values and gradients, compiled.

One program serves most tests of a loss, with the mask and all numbers traced. `test_every_loss_eagerly.py` has the
rest, and the test that no public name is missing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_losses as formulas
import pytest
from loss_table import SIZE, TABLE, VALIDATED, check, grid, numpy, sides

TOGETHER = "name"
LEFT_OUT = 2
KEPT = np.arange(SIZE) != LEFT_OUT
every = pytest.mark.parametrize("name", sorted(TABLE))
with_classes = pytest.mark.parametrize("name", sorted(name for name, loss in TABLE.items() if loss.classes))
with_mask = pytest.mark.parametrize("name", sorted(name for name, loss in TABLE.items() if loss.masked))


def total(name, s, t, where, numbers):
  value = TABLE[name].call(s, t, where, **numbers)
  return jnp.sum(value), value


@functools.lru_cache(maxsize=1)
def program(name):
  """Value and gradient as one program, in which mask and numbers are traced."""
  return jax.jit(jax.value_and_grad(functools.partial(total, name), has_aux=True))


def compiled(name, s, t, where=None):
  where = np.ones(SIZE, bool) if where is None else where
  numbers = {key: jnp.float32(number) for key, number in TABLE[name].numbers.items()}
  (_, value), gradient = program(name)(jnp.float32(s), jnp.float32(t), jnp.asarray(where), numbers)
  return np.asarray(value), np.asarray(gradient)


CASES = {
  "ordinary": lambda s, t: (s, t),
  "equal": lambda s, t: (t, t),
  "ties": lambda s, t: (np.ones_like(s), t),
  "ties on both sides": lambda s, t: (np.ones_like(s), np.full_like(s, 0.5)),
  "zeros": lambda s, t: (0 * s, t),
  "zeros on both sides": lambda s, t: (0 * s, 0 * s),
}


@every
def test_values_and_gradients(name):
  for case, change in CASES.items():
    s, t = change(*sides(name))
    value, gradient = compiled(name, s, t)
    check(name, value, numpy(name, s, t))
    assert np.isfinite(gradient).all(), case
  if TABLE[name].learns and not TABLE[name].stopped:
    s, t = sides(name)
    direction = np.random.default_rng(1).normal(size=s.shape)
    want = formulas.derivative(lambda s: numpy(name, s, t), s, direction)
    found = np.sum(compiled(name, s, t)[1] * direction)
    np.testing.assert_allclose(found, want, rtol=2e-3, atol=2e-3)  # float32, and sums of both signs


@every
def test_large_inputs(name):
  s, t = (np.float32(jnp.bfloat16(1e4 * x)) for x in sides(name))
  want = numpy(name, s, t)
  for other, expected in ((t, want), (s, numpy(name, s, s))):
    value, gradient = compiled(name, s, other)
    check(name, value, expected, large=True)
    assert np.isfinite(gradient).all()


@with_classes
@pytest.mark.parametrize("masked_by", ["both", "student", "teacher"])
def test_classes_of_minus_infinity(name, masked_by):
  s, t = (x.copy() for x in sides(name))
  for side, x in (("student", s), ("teacher", t)):
    if masked_by in ("both", side):
      x[..., -1] = -np.inf  # nobody's label
  want = numpy(name, s, t)
  value, gradient = compiled(name, s, t)
  check(name, value, want)
  assert np.isfinite(gradient).all()
  if masked_by == "both":
    assert not gradient[..., -1].any()
  lowest = np.finfo(np.float32).min  # what else masks are written with
  np.testing.assert_array_equal(compiled(name, jnp.maximum(s, lowest), jnp.maximum(t, lowest))[0], value)


@with_mask
def test_excluded_rows_may_hold_anything(name):
  s, t = (x.copy() for x in sides(name))
  want = numpy(name, s[KEPT], t[KEPT], np.flatnonzero(KEPT))
  s[LEFT_OUT], t[LEFT_OUT] = np.nan, np.inf
  kept = {"rows": KEPT, "views": np.tile(KEPT, 2)}.get(TABLE[name].result)
  value, gradient = compiled(name, s, t, KEPT)
  if kept is not None:
    assert not value[~kept].any()
    value = value[kept]
  elif TABLE[name].result == "square":
    assert not value[~KEPT].any() and not value[:, ~KEPT].any()
    value = value[np.ix_(KEPT, KEPT)]
  check(name, value, want)
  assert np.isfinite(gradient).all() and not gradient[LEFT_OUT].any()
  value, gradient = compiled(name, np.full_like(s, np.nan), np.full_like(t, np.nan), np.zeros(SIZE, bool))
  assert not value.any() and not gradient.any()


@pytest.mark.parametrize("name", sorted(name for name, loss in TABLE.items() if loss.batched))
@pytest.mark.filterwarnings("ignore:.*a batch of one has only one plan", "ignore:.*values near 1 whatever they are")
def test_the_smallest_batches_under_vmap(name):
  loss, (s, t) = TABLE[name], map(np.float32, sides(name))
  both = jax.value_and_grad(lambda s, t: total(name, s, t, None, loss.numbers), has_aux=True)
  size = max(loss.least, 1)
  pairs = np.stack([s[:size], s[-size:]]), np.stack([t[:size], t[:size]])
  (_, values), gradients = jax.jit(jax.vmap(both))(*pairs)
  assert np.isfinite(gradients).all()
  for value, a, b in zip(values, *pairs, strict=True):
    check(name, value, numpy(name, a, b))
  if loss.least:
    for size in (0, loss.least - 1):
      with pytest.raises(ValueError, match=r"at least|at once|must be"):
        both(s[:size], t[:size])
  else:
    (_, value), gradient = jax.jit(both)(s[:0], t[:0])
    assert not value.any() and value.shape == (() if loss.result == "scalar" else (0, *values.shape[2:]))
    assert gradient.shape == s[:0].shape


@pytest.mark.parametrize("name", sorted(name for name, loss in TABLE.items() if loss.shift))
def test_a_constant_changes_nothing(name):
  s, t = sides(name)
  value, gradient = compiled(name, s, t)
  moved = grid(np.random.default_rng(2), s.shape).max(TABLE[name].shift, keepdims=True) * 512 + 1024
  shifted, slope = compiled(name, s + moved, t)  # exact in float32
  np.testing.assert_allclose(shifted, value, rtol=2e-5, atol=2e-5)
  np.testing.assert_allclose(slope, gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  "name, number",
  [(name, number) for name, loss in sorted(TABLE.items()) for number in sorted(set(loss.numbers) & VALIDATED)],
)
def test_bad_numbers_are_named(name, number):
  """That good ones may be traced is in all other tests: the programs get them as arguments."""
  s, t = (jnp.float32(x) for x in sides(name))
  for bad in (-1.0, float("nan"), jnp.float32(-1), np.full((SIZE, 1), 2.0, np.float32)):
    with pytest.raises(ValueError, match=number) as caught:
      TABLE[name].call(s, t, None, **{**TABLE[name].numbers, number: bad})
    assert "\n" not in str(caught.value)


@with_mask
def test_bad_masks_are_refused(name):
  s, t = (jnp.float32(x) for x in sides(name))
  with pytest.raises(ValueError, match=r"where|weights|mask"):
    TABLE[name].call(s, t, np.ones(SIZE + 1, bool), **TABLE[name].numbers)
