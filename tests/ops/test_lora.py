"""Low-rank factors against NumPy: the change of a matrix and of a convolution, what learns and what stays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jdistill import models
from jdistill.base import UserError, Variables
from jdistill.losses import cross_entropy
from jdistill.ops import lora as lora_lib
from jdistill.ops.lora import LowRank

RNG = np.random.default_rng(0)
SHAPE = (6, 6, 2)
NETWORK = models.build("convnet_bn", num_classes=3, image_shape=SHAPE, width=4, depth=1)
BASE = NETWORK.init(jax.random.key(0))
X = jnp.float32(RNG.normal(size=(5, *SHAPE)))
RANKS = {"conv0/kernel": 2, "head/kernel": 1}


def factors(scale=1.0):
  """Factors that change something."""
  found = lora_lib.init_lora(jax.random.key(1), BASE.params, RANKS)
  return {
    path: LowRank(one.a, jnp.float32(scale * np.random.default_rng(len(path)).normal(size=one.b.shape)))
    for path, one in found.items()
  }


@pytest.mark.parametrize("wrap", [lambda function: function, jax.jit], ids=["eager", "jitted"])
def test_the_change_of_a_matrix(wrap):
  a, b = [[1.0, 0.0], [2.0, -1.0], [0.0, 3.0]], [[1.0, 2.0], [0.5, 0.0]]
  want = np.array([[0.5, 1.0], [0.75, 2.0], [0.75, 0.0]])
  got = wrap(lambda a, b: lora_lib.lora_delta(a, b, alpha=0.5))(jnp.float32(a), jnp.float32(b))
  np.testing.assert_array_equal(got, want)
  for other in (jnp.zeros((3, 2)), jnp.zeros(2)):
    with pytest.raises(ValueError, match=r"lora_delta: factors of shapes \(3, 2\)"):
      lora_lib.lora_delta(jnp.float32(a), other)


def test_kernels_are_changed_as_matrices_and_the_rest_stays():
  own = factors()
  got = lora_lib.apply_lora(BASE.params, own, alpha=2.0)
  for layer, leaves in BASE.params.items():
    for leaf, value in leaves.items():
      want = np.float64(value)
      if leaf == "kernel":
        a, b = (np.float64(part) for part in own[f"{layer}/kernel"])
        for row in range(want.reshape(-1, want.shape[-1]).shape[0]):  # a sum over ranks, place by place
          place = np.unravel_index(row, want.shape[:-1])
          want[place] += 2 * sum(a[row, r] * b[r] for r in range(a.shape[1]))
      np.testing.assert_allclose(got[layer][leaf], want, rtol=1e-5, atol=1e-6)


def test_an_array_takes_the_place_of_a_kernel():
  new = jnp.ones_like(BASE.params["head"]["kernel"])
  got = lora_lib.apply_lora(BASE.params, {"head/kernel": new})
  np.testing.assert_array_equal(got["head"]["kernel"], new)
  np.testing.assert_array_equal(got["conv0"]["kernel"], BASE.params["conv0"]["kernel"])


def test_factors_change_nothing_at_first():
  """But their gradient does: that of `b` is not zero."""
  own = lora_lib.init_lora(jax.random.key(1), BASE.params, RANKS | {"head/kernel": None})
  changed = lora_lib.apply_lora(BASE.params, own)
  jax.tree.map(np.testing.assert_array_equal, changed, BASE.params)
  bound = 1 / np.sqrt(3 * 3 * 2)
  assert own["conv0/kernel"].a.shape == (18, 2) and own["conv0/kernel"].b.shape == (2, 4)
  assert 0.5 * bound < np.abs(own["conv0/kernel"].a).max() <= bound
  other = lora_lib.init_lora(jax.random.key(2), BASE.params, RANKS)
  assert (other["conv0/kernel"].a != own["conv0/kernel"].a).all()

  def loss(own):
    return jnp.mean(NETWORK.apply(lora_lib.apply_lora(BASE.params, own), X, stats=BASE.stats).logits ** 2)

  gradient = jax.grad(loss)(own)
  assert not np.any(gradient["conv0/kernel"].a) and np.any(gradient["conv0/kernel"].b)


def test_sides_of_kernels():
  shapes = jax.eval_shape(NETWORK.init, jax.random.key(0)).params
  assert lora_lib.kernels(shapes) == {"conv0/kernel": (18, 4), "head/kernel": (36, 3)}


@pytest.mark.parametrize(
  ("ranks", "words"),
  [
    ({"conv0/kernel": 0}, r"key=0: conv0/kernel maps 18 numbers to 4, so a rank lies in 1\.\.4"),
    ({"conv0/kernel": 5}, r"key=5: conv0/kernel maps 18 numbers to 4, so a rank lies in 1\.\.4"),
    ({"head/kernel": 4}, r"key=4: head/kernel maps 36 numbers to 3, so a rank lies in 1\.\.3"),
    ({"head/bias": 1}, r"key: head/bias is no kernel of this network; choose among conv0/kernel, head/kernel"),
  ],
)
def test_ranks_that_are_none(ranks, words):
  with pytest.raises(UserError, match=words):
    lora_lib.check_ranks(BASE.params, ranks, "key")


@pytest.mark.parametrize(
  ("own", "words"),
  [
    ({"conv9/kernel": jnp.zeros((1, 1))}, "factors: conv9/kernel is no parameter of this network"),
    (
      {"head/kernel": LowRank(jnp.zeros((36, 1)), jnp.zeros((1, 4)))},
      r"head/kernel has the shape \(36, 3\) and its ch",
    ),
    ({"head/kernel": jnp.zeros((3, 36))}, r"its change \(3, 36\)"),
  ],
)
def test_factors_of_another_network(own, words):
  with pytest.raises(UserError, match=words):
    lora_lib.apply_lora(BASE.params, own)


def test_a_network_of_which_only_factors_learn():
  halved = lambda e: e / 2  # noqa: E731
  network = lora_lib.with_lora(NETWORK, lambda params: RANKS, alpha=2.0, inputs=lambda x: x + 1, embedding=halved)
  own, statistics = factors(), BASE._asdict()
  got = network.apply(own, X, train=True, stats=statistics)
  plain = NETWORK.apply(lora_lib.apply_lora(BASE.params, own, alpha=2.0), X + 1, stats=BASE.stats)
  np.testing.assert_allclose(got.embedding, plain.embedding / 2, rtol=1e-5)
  bias, logits = BASE.params["head"]["bias"].reshape(1, -1), np.asarray(plain.logits)
  np.testing.assert_allclose(got.logits, (logits - bias) / 2 + bias, rtol=1e-4, atol=1e-5)
  assert got.stats is statistics  # in train mode, too

  @jax.jit
  def update(own, statistics):
    loss = lambda own: jnp.mean(cross_entropy(network.apply(own, X, stats=statistics).logits, jnp.arange(5) % 3))  # noqa: E731
    value, gradient = jax.value_and_grad(loss)(own)
    return value, optax.apply_updates(own, jax.tree.map(lambda g: -0.1 * g, gradient))

  values = []
  for _ in range(20):
    value, own = update(own, statistics)
    values.append(float(value))
  assert values[-1] < 0.7 * values[0]


def test_new_factors_of_a_new_network():
  network = lora_lib.with_lora(NETWORK, lambda params: RANKS)
  found = network.init(jax.random.key(3))
  assert isinstance(found, Variables) and set(found.params) == set(RANKS) and set(found.stats) == {"params", "stats"}
  want = NETWORK.apply(found.stats["params"], X, stats=found.stats["stats"]).logits
  np.testing.assert_allclose(network.apply(found.params, X, stats=found.stats).logits, want, rtol=1e-6)
