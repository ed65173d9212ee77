"""AST's smooth experts: the penalty and its gradient against finite differences in NumPy, and the loss schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numeric_gradient

from jdistill.base import Augmentation, Batch, Network, Outputs, Variables
from jdistill.methods.knowledge import StudentInput, student_method
from jdistill.methods.knowledge.smooth import input_gradient_penalty, smooth_ce
from jdistill.methods.optimizers import make_optimizer

RNG = np.random.default_rng(4)
SHAPE, HIDDEN, CLASSES = (2, 3, 2), 4, 3
X, Y = RNG.normal(size=(5, *SHAPE)), np.array([0, 1, 2, 1, 0])
FIRST, SECOND = RNG.normal(size=(12, HIDDEN)) / 2, RNG.normal(size=(HIDDEN, CLASSES)) / 2


def apply(params, x, **_):
  hidden = jnp.tanh(x.reshape(x.shape[0], -1) @ params["a"])
  return Outputs(hidden @ params["b"], hidden)


def logits(x, first=FIRST, second=SECOND):
  return np.tanh(x.reshape(len(x), -1) @ first) @ second


def penalty(first, second, target=1.0):
  """By hand: the slope of the sum of an image's logits, its norm over channels, the mean over pixels; `[5]`."""
  hidden = np.tanh(X.reshape(5, -1) @ first)
  slope = (((1 - hidden**2) * second.sum(1)) @ first.T).reshape(X.shape)
  return ((np.sqrt((slope**2).sum(-1)) - target) ** 2).mean((1, 2))


@pytest.mark.parametrize("target", [1.0, 0.2])
def test_the_penalty_and_its_gradient_in_the_parameters(target, x64):
  slope = numeric_gradient(lambda x: logits(x).sum(), X)
  want = ((np.linalg.norm(slope, axis=-1) - target) ** 2).mean((1, 2))
  np.testing.assert_allclose(penalty(FIRST, SECOND, target), want, rtol=1e-6)

  def value(params):
    return input_gradient_penalty(lambda x: apply(params, x), jnp.asarray(X), target=target)

  params = {"a": jnp.asarray(FIRST), "b": jnp.asarray(SECOND)}
  np.testing.assert_allclose(value(params), want, rtol=1e-6)
  np.testing.assert_allclose(jax.jit(value)(params), value(params), rtol=1e-12)
  got = jax.jit(jax.grad(lambda params: jnp.sum(value(params))))(params)
  for name, wanted in (
    ("a", numeric_gradient(lambda first: penalty(first, SECOND, target).sum(), FIRST)),
    ("b", numeric_gradient(lambda second: penalty(FIRST, second, target).sum(), SECOND)),
  ):
    assert np.abs(wanted).max() > 1e-2
    np.testing.assert_allclose(got[name], wanted, rtol=1e-6, atol=1e-9)


def test_a_network_without_any_slope_has_a_finite_gradient():
  params = {"a": jnp.zeros((12, HIDDEN)), "b": jnp.zeros((HIDDEN, CLASSES))}

  def value(params):
    return jnp.sum(input_gradient_penalty(lambda x: apply(params, x), jnp.float32(X)))

  found, gradient = jax.value_and_grad(value)(params)
  assert found == 5.0 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def cross_entropy(first, second, x):
  z = logits(x, first, second)
  return (np.log(np.exp(z).sum(-1)) - z[np.arange(5), Y]).mean()


@pytest.mark.parametrize(("epoch", "factor"), [(0.0, 0.5), (0.9, 0.5), (1.0, 0.55), (9.5, 0.95), (10.0, 1.0), (49, 1)])
def test_an_update_descends_the_scheduled_sum(epoch, factor, x64):
  """The cross entropy is of augmented images, here doubled ones, and the penalty of the images as they are."""
  doubled = Augmentation(lambda key, shape: (), lambda record, x: 2 * x)
  network = Network(lambda key: Variables({"a": jnp.float32(FIRST), "b": jnp.float32(SECOND)}), apply)
  optimizer = make_optimizer("sgd", 0.1, momentum=0.0)
  method = student_method(network, smooth_ce(), optimizer=optimizer, augment=doubled)
  batch = Batch(jnp.float32(X), jnp.int32(Y), jnp.arange(5, dtype=jnp.int32))
  given = StudentInput(batch, jnp.int32(0), jnp.float32(epoch))
  key = jax.random.key(0)
  state, metrics = jax.jit(method.step)(key, method.init(key, given), given)
  assert metrics["loss/penalty"] == pytest.approx(penalty(FIRST, SECOND).mean(), rel=1e-5)
  assert metrics["loss/ce"] == pytest.approx(cross_entropy(FIRST, SECOND, 2 * X), rel=1e-5)

  def total(first, second):
    return factor * cross_entropy(first, second, 2 * X) + 2 * penalty(first, second).mean()

  for name, old, wanted in (
    ("a", FIRST, numeric_gradient(lambda first: total(first, SECOND), FIRST)),
    ("b", SECOND, numeric_gradient(lambda second: total(FIRST, second), SECOND)),
  ):
    moved = (old - np.float64(state.roles["student"].params[name])) / 0.1
    np.testing.assert_allclose(moved, wanted, rtol=1e-3, atol=1e-5)  # float32 differences of parameters near one


def test_without_a_penalty_there_is_no_such_term():
  assert list(smooth_ce(penalty_weight=0.0).terms) == ["ce"]
  assert float(smooth_ce(ce_start=1.0).terms["ce"].weight(jnp.float32(0))) == 1.0


def test_inputs_that_are_no_images_are_refused():
  for x in (jnp.zeros((3, 4), jnp.int32), jnp.zeros((3, 4))):
    with pytest.raises(ValueError, match=r"smooth_ce: its penalty is for images"):
      input_gradient_penalty(lambda x: None, x)
