"""Frozen networks as teachers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import models
from jdistill.base import Network, Outputs, UserError, Variables
from jdistill.teachers.frozen import ask, averaged, committee, nbytes, variables_hash

X, IDS = jnp.float32(np.random.default_rng(0).normal(size=(3, 4, 4, 1))), jnp.arange(3, dtype=jnp.int32)


def linear(classes=2):
  def apply(params, x, *, train=False, rngs=None, stats=None, sites=None):
    return Outputs(x.reshape(x.shape[0], -1) @ params, x.reshape(x.shape[0], -1))

  return Network(lambda key: Variables(jax.random.normal(key, (16, classes))), apply)


def test_every_network_answers_for_itself_in_order():
  network = linear()
  weights = [network.init(jax.random.key(i)) for i in range(3)]
  teacher = committee([network] * 3, weights)
  found = ask(teacher, X, IDS)
  for out, one in zip(found, weights, strict=True):
    np.testing.assert_allclose(out.logits, X.reshape(3, -1) @ one.params, rtol=1e-6)
  assert teacher.nbytes == 3 * 16 * 2 * 4
  assert teacher.name == "online, 3 networks"
  assert committee([network], weights[:1]).name == "online"


def test_it_looks_in_evaluation_mode():
  """With running statistics, not those of the batch: an example's answer does not depend on its neighbours."""
  network = models.build("convnet_bn", num_classes=2, image_shape=(4, 4, 1), width=2, depth=1)
  variables = network.init(jax.random.key(0))
  teacher = committee([network], [variables])
  whole = ask(teacher, X, IDS)[0]
  alone = ask(teacher, X[1:2], IDS[1:2])[0]
  np.testing.assert_allclose(whole.logits[1:2], alone.logits, rtol=1e-4, atol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, whole.stats, variables.stats)
  assert teacher.nbytes == nbytes(variables)


def test_it_may_look_in_train_mode():
  """With the statistics of the batch: the answers are those of an untrained network's batch norm, whatever ran."""
  network = models.build("convnet_bn", num_classes=2, image_shape=(4, 4, 1), width=2, depth=1)
  variables = network.init(jax.random.key(0))
  moved = variables._replace(stats=jax.tree.map(lambda leaf: leaf + 3, variables.stats))
  found = [ask(committee([network], [one], train=True), X, IDS)[0].logits for one in (variables, moved)]
  np.testing.assert_array_equal(*found)
  wanted = network.apply(variables.params, X, train=True, stats=variables.stats).logits
  np.testing.assert_allclose(found[0], wanted, rtol=1e-5, atol=1e-6)
  assert np.abs(found[0] - ask(committee([network], [moved]), X, IDS)[0].logits).max() > 0.01
  assert committee([network], [variables], train=True).name == "online, train mode"


def test_each_part_of_a_batch_by_itself():
  """Train mode in halves is train mode on each half, and running statistics stay."""
  network = models.build("convnet_bn", num_classes=2, image_shape=(4, 4, 1), width=2, depth=1)
  variables, x = network.init(jax.random.key(0)), jnp.concatenate([X, 2 * X[:1]])
  before = jax.tree.map(np.array, variables)
  halves = committee([network], [variables], train=True, parts=2)
  found = ask(halves, x, jnp.arange(4))[0].logits
  alone = [ask(committee([network], [variables], train=True), x[at : at + 2], jnp.arange(2))[0].logits for at in (0, 2)]
  np.testing.assert_allclose(found, jnp.concatenate(alone), rtol=1e-5, atol=1e-6)
  assert np.abs(found - ask(committee([network], [variables], train=True), x, jnp.arange(4))[0].logits).max() > 1e-3
  jax.tree.map(np.testing.assert_array_equal, variables, before)
  with pytest.raises(UserError, match="batch_size=3: cannot be divided into 2 equal parts"):
    ask(halves, X, IDS)
  with pytest.raises(UserError, match=r"batch_size=2: .* 2 parts leave it one image, .* use at least 4"):
    ask(halves, X[:2], IDS[:2])


def test_the_weighted_mean_of_logits():
  network = linear()
  weights = [network.init(jax.random.key(i)) for i in range(3)]
  source, logits = committee([network] * 3, weights), [X.reshape(3, -1) @ one.params for one in weights]
  for shares in (None, [0.5, 0.3, 0.2]):
    mean = averaged(source, shares)
    want = sum(share * one for share, one in zip(shares or [1 / 3] * 3, logits, strict=True))
    (found,) = ask(mean, X, IDS)
    np.testing.assert_allclose(found.logits, want, rtol=1e-5, atol=1e-6)
    assert mean.nbytes == source.nbytes + (12 if shares else 0)
  with pytest.raises(ValueError, match="must sum to 1"):
    averaged(source, [0.5, 0.5, 0.5])
  with pytest.raises(ValueError, match="2 weights for 3 teachers"):
    ask(averaged(source, [0.5, 0.5]), X, IDS)


def test_what_does_not_fit_is_refused_in_one_line():
  network, weights = linear(), linear().init(jax.random.key(0))
  for networks, variables in (([], []), ([network], []), ([network], [weights] * 2)):
    with pytest.raises(UserError, match=f"{len(networks)} networks and {len(variables)} sets of parameters"):
      committee(networks, variables)
  mixed = committee([network, linear(3)], [weights, linear(3).init(jax.random.key(0))])
  with pytest.raises(UserError, match=r"its networks have \[2, 3\] classes; they must have the same ones"):
    ask(mixed, X, IDS)


def test_the_hash_names_values_types_shapes_and_places():
  a = {"w": np.arange(4, dtype=np.float32), "b": np.zeros(1, np.float32)}
  others = [
    a | {"w": a["w"] + np.float32(1e-6)},
    a | {"w": a["w"].astype(np.float64)},
    a | {"w": a["w"].reshape(2, 2)},
    {"v": a["w"], "b": a["b"]},
    {"w": a["w"]},
  ]
  hashes = [variables_hash(tree) for tree in (a, *others)]
  assert len(set(hashes)) == len(hashes) and all(len(name) == 16 for name in hashes)
  assert variables_hash(jax.tree.map(jnp.asarray, dict(reversed(a.items())))) == hashes[0]  # wherever it lies
