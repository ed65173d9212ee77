"""Federated learning beside NumPy: averages, local SGD, pseudo-gradients, statistics, anchors, virtual images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import catalog, federated, losses, models
from jdistill.base import Batch, Network, Outputs, UserError, Variables
from jdistill.methods.federated.fedavg import fedavg
from jdistill.methods.federated.fedlgd import fedlgd
from jdistill.methods.federated.virtual import Virtual, always, distil, draw_by_class

RNG = np.random.default_rng(0)
SHAPE, CLASSES = (2, 2, 1), 3
KEY = jax.random.key(3)


def apply(params, x, *, train=False, rngs=None, stats=None, sites=None):
  """Logits that are linear in the pixels, which are the embedding."""
  flat = x.reshape(x.shape[0], -1)
  return Outputs(flat @ params["w"], flat, stats={})


LINEAR = Network(lambda key: Variables({"w": 0.1 * jax.random.normal(key, (4, CLASSES))}), apply)


def client(count, padding=0):
  x, y = RNG.normal(size=(count, *SHAPE)), np.arange(count) % CLASSES
  x, y = np.concatenate([x, np.zeros((padding, *SHAPE))]), np.concatenate([y, np.zeros(padding, int)])
  weight = np.arange(count + padding) < count
  return Batch(jnp.float32(x), jnp.int32(y), jnp.arange(len(y), dtype=jnp.int32), jnp.float32(weight))


def softmax(z):
  e = np.exp(z - z.max(1, keepdims=True))
  return e / e.sum(1, keepdims=True)


def gradient(w, x, y):
  """Of the mean cross entropy of a linear classifier."""
  flat = np.float64(x).reshape(len(x), -1)
  return flat.T @ (softmax(flat @ w) - np.eye(CLASSES)[y]) / len(x)


def parts(builder, **options):
  given = {"network": LINEAR, "num_classes": CLASSES}
  given |= {"image_shape": SHAPE} if builder is fedlgd else {}
  return builder(**given, **options)


def state_of(federation, data, key=KEY):
  return federation.join(key, data), federation.begin(key, jax.tree.map(lambda x: x[None], federation.describe(data)))


# -- averages and local steps


def test_fedavg_is_the_weighted_mean_and_absent_clients_count_for_nothing():
  x, weights = RNG.normal(size=(3, 4, 2)), np.array([2.0, 0.0, 1.0])
  x[1] = np.nan  # of a client that did not answer
  found = federated.fedavg({"w": jnp.float32(x)}, jnp.float32(weights))["w"]
  np.testing.assert_allclose(found, (2 * x[0] + x[2]) / 3, rtol=1e-6)


def test_a_local_round_is_plain_sgd_whatever_is_filled_up():
  """Batches of two of five examples, filled up to seven; the last batch of a pass has one, and one has none."""
  data = client(5, padding=2)
  index, weight = federated.epoch_batches(KEY, data.weight, 2, 3)
  assert index.shape == (12, 2)
  seen = np.asarray(index).reshape(3, 8)
  for row, own in zip(seen, np.asarray(weight).reshape(3, 8), strict=True):
    assert sorted(row[own > 0]) == [0, 1, 2, 3, 4]  # each once in a pass
  federation = parts(fedavg, lr=0.3, local_batch=2, local_epochs=3)
  own, server = state_of(federation, data)
  w = np.float64(server.variables.params["w"])
  _, key_order = jax.random.split(KEY)
  index, weight = (np.asarray(x) for x in federated.epoch_batches(key_order, data.weight, 2, 3))
  for rows, kept in zip(index, weight, strict=True):
    rows = rows[kept > 0]
    if len(rows):
      w = w - 0.3 * gradient(w, data.x[rows], data.y[rows])
  _, upload, metrics = federation.local(KEY, own, data, federation.message(server))
  np.testing.assert_allclose(upload["variables"].params["w"], w, rtol=1e-5, atol=1e-6)
  assert upload["examples"] == 5 and np.isfinite(metrics["loss/ce"])


def test_fedprox_pulls_towards_the_server():
  data, mu = client(4), 2.0
  federation = parts(fedavg, lr=0.1, local_batch=4, local_epochs=2, proximal=mu)
  own, server = state_of(federation, data)
  start = w = np.float64(server.variables.params["w"])
  for _ in range(2):
    w = w - 0.1 * (gradient(w, data.x, data.y) + mu * (w - start))
  _, upload, _ = federation.local(KEY, own, data, federation.message(server))
  np.testing.assert_allclose(upload["variables"].params["w"], w, rtol=1e-5, atol=1e-6)
  assert catalog.row("fedprox").fields()["proximal"].default == 0.01


def test_the_pseudo_gradient_of_one_step_on_everything_is_the_gradient():
  data = client(6)
  federation = parts(fedavg, lr=0.05, local_batch=6)
  own, server = state_of(federation, data)
  _, upload, _ = federation.local(KEY, own, data, federation.message(server))
  found = federated.pseudo_gradient(server.variables.params, upload["variables"].params, 0.05)["w"]
  want = gradient(np.float64(server.variables.params["w"]), data.x, data.y)
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)  # a difference of numbers near each other
  with pytest.raises(ValueError, match="lr=0"):
    federated.pseudo_gradient({}, {}, 0)


def test_the_server_weighs_by_examples_or_not():
  uploads = {"variables": Variables({"w": jnp.stack([jnp.zeros((4, 3)), jnp.ones((4, 3))])}, {})}
  uploads["examples"] = jnp.float32([1, 3])
  for average, want in (("examples", 0.75), ("uniform", 0.5)):
    federation = parts(fedavg, average=average)
    _, server = state_of(federation, client(4))
    server, _ = federation.merge(KEY, server, uploads, jnp.ones(2))
    np.testing.assert_allclose(server.variables.params["w"], want)
    assert server.round == 1


def test_normalisation_layers_stay_with_the_clients():
  network = models.build("convnet", num_classes=3, image_shape=(4, 4, 1), width=2, depth=1, norm="instance")
  federation = fedavg(network, 3, local_norm=True, lr=0.5)
  x, y = jnp.float32(RNG.normal(size=(6, 4, 4, 1))), jnp.arange(6, dtype=jnp.int32) % 3
  data = Batch(x, y, y, jnp.ones(6))
  own, server = state_of(federation, data)
  first = federation.model(own, federation.message(server))
  jax.tree.map(np.testing.assert_array_equal, first, server.variables)  # it has nothing of its own yet
  own, upload, _ = federation.local(KEY, own, data, federation.message(server))
  merged, _ = federation.merge(KEY, server, jax.tree.map(lambda x: 2 * x[None], upload), jnp.ones(1))
  found = jax.tree_util.tree_leaves_with_path(federation.model(own, federation.message(merged)))
  trained, before = (jax.tree.leaves(tree) for tree in (upload["variables"], server.variables))
  norms = 0
  for (path, leaf), mine, kept, old in zip(found, trained, jax.tree.leaves(merged.variables), before, strict=True):
    norms += federated.is_norm(path)
    np.testing.assert_allclose(leaf, mine if federated.is_norm(path) else 2 * mine, rtol=1e-6)
    if federated.is_norm(path):
      np.testing.assert_array_equal(kept, old)
  assert norms == 2
  with pytest.raises(ValueError, match="local_norm=True: the network has no parameters of normalisation layers"):
    parts(fedavg, local_norm=True)


# -- virtual images and anchors


def test_statistics_are_those_of_the_pixels_of_a_class():
  data = client(7, padding=3)
  mean, deviation = federated.class_statistics(data.x, data.y, data.weight, 4)
  for c in range(3):
    pixels = np.float64(data.x[:7][data.y[:7] == c])
    np.testing.assert_allclose(mean[c], pixels.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(deviation[c], pixels.std((0, 1, 2)), rtol=1e-5)
  assert not mean[3].any() and not deviation[3].any()  # no example


def test_draws_by_class_are_without_repetition():
  data = client(7, padding=3)
  positions, weight = draw_by_class(KEY, data.y, data.weight, 4, 3)
  for c in range(4):
    own = np.asarray(positions[c])[np.asarray(weight[c]) > 0]
    assert len(set(own)) == len(own) == min(3, int((data.y[:7] == c).sum())) and (own < 7).all()
    assert (np.asarray(data.y)[own] == c).all()


def test_a_step_of_local_distillation_in_the_global_network():
  """Its embedding is the pixels: every image moves by `2 lr / ipc` times the gap of the class means."""
  data = client(9)
  images = RNG.normal(size=(6, *SHAPE))
  how = Virtual(2, 0, 100, 0.1, 0.0, None)
  found = distil(how, always(LINEAR, LINEAR.init(KEY)), jnp.float32(images), data, KEY, 1, CLASSES)
  for c in range(CLASSES):
    own = images[2 * c : 2 * c + 2]
    gap = own.mean(0) - np.float64(data.x[data.y == c]).mean(0)
    np.testing.assert_allclose(found[2 * c : 2 * c + 2], own - 0.1 * gap[None], rtol=1e-5, atol=1e-6)


FEDLGD = {"virtual_ipc": 2, "warmup_steps": 0, "refresh_every": 2, "refreshes": 1, "refresh_steps": 1, "anchor_ipc": 1}


def test_the_first_images_have_the_moments_of_the_clients():
  federation = parts(fedlgd, **FEDLGD | {"virtual_ipc": 2000, "anchor_ipc": 2000})
  reports = {"mean": jnp.float32([[[1.0], [2], [3]], [[3.0], [4], [5]]]), "examples": jnp.ones(2)}
  reports["deviation"] = jnp.float32([[[0.1], [0.2], [0.3]], [[0.3], [0.4], [0.5]]])
  anchors = federation.begin(KEY, reports).anchors.reshape(3, -1)
  np.testing.assert_allclose(anchors.mean(1), [2, 3, 4], atol=0.02)
  np.testing.assert_allclose(anchors.std(1), [0.2, 0.3, 0.4], atol=0.01)
  data = client(9)
  own = federation.join(KEY, data).images.reshape(3, -1)
  want = [np.asarray(data.x[data.y == c]) for c in range(3)]
  np.testing.assert_allclose(own.mean(1), [one.mean() for one in want], atol=0.05)
  np.testing.assert_allclose(own.std(1), [one.std() for one in want], atol=0.05)


def distance(x, y, w, wanted):
  """`1 - cosine` of the gradients into every output, summed."""
  found = gradient(w, x, y)
  norms = np.linalg.norm(found, axis=0) * np.linalg.norm(wanted, axis=0)
  return np.sum(1 - np.sum(found * wanted, axis=0) / (norms + 1e-6))


def test_anchors_follow_the_gradient_of_the_distance_of_gradients():
  """Beside finite differences of NumPy's formula in float64."""
  federation = parts(fedlgd, lr=0.1, anchor_steps=1, anchor_lr=0.5, **FEDLGD)
  _, server = state_of(federation, client(9))
  before, after = RNG.normal(size=(2, 4, CLASSES))
  server = server._replace(variables=Variables({"w": jnp.float32(before)}))
  uploads = {"variables": Variables({"w": jnp.float32(after)[None]}, {}), "examples": jnp.ones(1)}
  moved, metrics = federation.merge(KEY, server, uploads, jnp.ones(1))
  x, y, wanted, eps = np.float64(server.anchors), np.arange(CLASSES), (before - after) / 0.1, 1e-5
  np.testing.assert_allclose(metrics["match/loss"], distance(x, y, before, wanted), rtol=1e-4)
  slope = np.zeros_like(x)
  for place in np.ndindex(x.shape):
    step = np.zeros_like(x)
    step[place] = eps
    slope[place] = (distance(x + step, y, before, wanted) - distance(x - step, y, before, wanted)) / (2 * eps)
  np.testing.assert_allclose(moved.anchors, x - 0.5 * slope, rtol=1e-3, atol=1e-4)
  merge = jax.jit(federation.merge)
  for number, due in ((1, False), (2, True), (4, False)):  # every second round, until the second
    again, _ = merge(KEY, server._replace(round=jnp.int32(number)), uploads, jnp.ones(1))
    assert (np.asarray(again.anchors) != np.asarray(server.anchors)).any() == due


@pytest.mark.parametrize("alignment", ["contrastive", "mmd", "l2"])
def test_clients_are_aligned_and_refreshed_in_their_rounds(alignment):
  data = client(9)
  federation = parts(fedlgd, alignment=alignment, align_weight=2.0, lr=1e-8, local_batch=9, **FEDLGD)
  own, server = state_of(federation, data)
  local = jax.jit(federation.local)
  for number, refreshed, aligned in ((0, False, False), (1, False, True), (2, True, False), (3, False, True)):
    message = federation.message(server._replace(round=jnp.int32(number)))
    new, _, metrics = local(KEY, own, data, message)
    assert (np.asarray(new.images) != np.asarray(own.images)).any() == refreshed, number
    assert (metrics["loss/align"] > 0) == aligned, number
  if alignment == "l2":  # the batch has the anchors, too
    anchors = np.float64(server.anchors).reshape(3, -1)
    both = np.concatenate([np.float64(own.images).reshape(6, -1), anchors]).mean(0)
    np.testing.assert_allclose(metrics["loss/align"], 2 * np.linalg.norm(both - anchors.mean(0)), rtol=1e-4)


def test_without_anchors_clients_train_on_virtual_images_alone():
  data = client(9)
  federation = parts(fedlgd, lr=0.1, local_batch=6, **FEDLGD | {"anchor_ipc": 0})
  own, server = state_of(federation, data)
  assert server.anchors == ()
  _, upload, metrics = federation.local(KEY, own, data, federation.message(server))
  w, y = np.float64(server.variables.params["w"]), np.repeat(np.arange(3), 2)
  np.testing.assert_allclose(upload["variables"].params["w"], w - 0.1 * gradient(w, own.images, y), atol=1e-5)
  assert "loss/align" not in metrics


def test_contrast_of_one_class_alone_and_of_single_examples():
  z = jnp.float32(RNG.normal(size=(4, 3)))
  value, slope = jax.value_and_grad(lambda z: jnp.sum(losses.supervised_contrastive(z, jnp.arange(4))))(z)
  assert value == 0 and not slope.any()  # nobody has a positive
  same = losses.supervised_contrastive(z, jnp.zeros(4, jnp.int32))
  assert np.isfinite(same).all() and (same >= np.log(3) - 1e-6).all()  # and nobody a negative


def test_the_bandwidth_is_the_mean_distance_without_a_gradient():
  x, y = RNG.normal(size=(3, 2)), RNG.normal(size=(4, 2)) + 1
  rows = np.concatenate([x, y])
  scale = ((rows[:, None] - rows[None]) ** 2).sum(-1).sum() / (7 * 6)
  a, b = jnp.float32(x), jnp.float32(y)
  open_, fixed = losses.rbf_mmd, lambda a, b: losses.rbf_mmd(a, b, scale=float(scale))
  np.testing.assert_allclose(open_(a, b), fixed(a, b), rtol=1e-5)
  np.testing.assert_allclose(jax.grad(open_)(a, b), jax.grad(fixed)(a, b), rtol=1e-4, atol=1e-6)


# -- data


def test_partitions_are_complete_and_skewed():
  labels = np.repeat(np.arange(4), 50)
  even = federated.dirichlet_partition(labels, 5, 4)
  skewed = federated.dirichlet_partition(labels, 5, 4, alpha=0.05, least=2, seed=1)
  for found in (even, skewed):
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(200))
  assert all((np.bincount(labels[own]) == 10).all() for own in even)
  counts = np.array([np.bincount(labels[own], minlength=4) for own in skewed])
  assert counts.min() >= 2 and counts.max() > 25
  again = federated.dirichlet_partition(labels, 5, 4, alpha=0.05, least=2, seed=1)
  assert all((a == b).all() for a, b in zip(skewed, again, strict=True))
  with pytest.raises(ValueError, match="class 3 has 1 examples, fewer than least=1 for each of 2 clients"):
    federated.dirichlet_partition(np.array([0, 0, 1, 1, 2, 2, 3]), 2, 4)
  with pytest.raises(ValueError, match="alpha=0"):
    federated.dirichlet_partition(labels, 2, 4, alpha=0.0)
  with pytest.raises(ValueError, match="has no example"):
    federated.dirichlet_partition(np.zeros(1, int), 2, 1, alpha=1.0, least=0)
  assert federated.missing_classes(np.array([0, 2]), 4) == [1, 3]


def test_the_share_of_clients_in_the_spread_of_features():
  same = np.repeat(RNG.normal(size=(2, 1, 5, 3)), 4, axis=1)
  assert federated.client_share(same) == pytest.approx(0, abs=1e-12)
  apart = np.broadcast_to(RNG.normal(size=(2, 4, 1, 3)), (2, 4, 5, 3))
  assert federated.client_share(apart) == pytest.approx(1)
  assert federated.client_share(np.zeros((2, 2, 2, 2))) == 0


def test_bad_options_are_refused_by_name():
  for options, message in (
    ({"lr": 0.0}, r"method\.lr=0\.0: must be above 0"),
    ({"alignment": "mdd"}, r"method\.alignment='mdd': unknown; did you mean 'mmd'"),
    ({"virtual_ipc": 0}, r"method\.virtual_ipc=0: must be at least 1"),
  ):
    with pytest.raises(UserError, match=message):
      parts(fedlgd, **options)
