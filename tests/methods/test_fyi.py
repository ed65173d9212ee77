"""Mirror images in every host: against the host itself on a set that holds them, and against NumPy in float64."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite_differences import numeric_gradient
from numpy_trajectory import HIDDEN, outer_loss, split

from jdistill import augment
from jdistill.augment.views import flip_pairs
from jdistill.base import Batch, Network, Outputs, Segment, UserError, Variables
from jdistill.methods.dataset.batches import inner_batches
from jdistill.methods.dataset.datadam import datadam
from jdistill.methods.dataset.dc import dc
from jdistill.methods.dataset.dm import dm
from jdistill.methods.dataset.trajectory import trajectory_method
from jdistill.run import load_experiment, run_experiment
from jdistill.synthetic import SyntheticSet

CLASSES, IPC, SHAPE = 3, 2, (2, 3, 1)
SIZE, FEATURES = CLASSES * IPC, 6
KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
IMAGES, X = RNG.normal(size=(SIZE, *SHAPE)), RNG.normal(size=(CLASSES, 4, *SHAPE))
LABELS = np.repeat(np.arange(CLASSES, dtype=np.int32), IPC)
FLIP = augment.view("flip").view
HOSTS = {
  "dm": (dm, {}),
  "datadam": (datadam, {"mean_weight": 0.5}),
  "dc": (dc, {"outer_loop": 2, "inner_epochs": 3, "net_lr": 0.5}),
}


def network():
  """Two maps of two channels each, whose places the head weighs one by one."""

  def init(key):
    shapes = {"a": (1, 2), "b": (2, 2), "c": (2 * FEATURES, CLASSES)}
    keys = jax.random.split(key, len(shapes))
    return Variables({n: jax.random.normal(k, shapes[n], jnp.float64) for n, k in zip(shapes, keys, strict=True)})

  def apply(params, x, *, train=False, stats=None, **_):
    first = jnp.tanh(x @ params["a"])
    second = jnp.tanh(first @ params["b"])
    features = second.reshape(x.shape[0], -1)
    return Outputs(features @ params["c"], features, {"block0": first, "block1": second})

  return Network(init, apply)


def mirrored(images):
  """Each image before its mirror image, by loops."""
  out = []
  for image in images:
    out += [image, np.stack([row[::-1] for row in image])]
  return np.stack(out)


def synthetic(images, labels=LABELS):
  return SyntheticSet(jnp.asarray(images), jnp.asarray(labels), jnp.asarray(0.3))


@pytest.mark.parametrize("name", HOSTS)
def test_a_host_sees_the_set_with_its_mirror_images(name, x64):
  """Loss and trained network are those of the host on the set of both; the gradient reaches an image through both."""
  build, options = HOSTS[name]
  whole = build(network(), synthetic(mirrored(IMAGES), np.repeat(LABELS, 2)), image_lr=1.0, **options)
  method = build(network(), synthetic(IMAGES), image_lr=1.0, view=FLIP, **options)
  index = jnp.zeros(X.shape[:2], jnp.int32)
  batch = Batch(jnp.asarray(X), index, index)
  (ours, told), (twice, wanted) = (jax.jit(m.step)(KEY, m.init(KEY, batch), batch) for m in (method, whole))
  np.testing.assert_allclose(told["match/loss"], wanted["match/loss"], rtol=1e-10)
  own, other = np.moveaxis((twice.roles["images"].params - mirrored(IMAGES)).reshape(SIZE, 2, *SHAPE), 1, 0)
  moved = ours.roles["images"].params - IMAGES
  np.testing.assert_allclose(moved, own + other[:, :, ::-1], rtol=1e-8, atol=1e-12)
  assert np.abs(other - own[:, :, ::-1]).max() > 1e-3  # they pull at an image from two sides
  assert method.result(ours).images.shape == IMAGES.shape  # what is stored are the images themselves
  np.testing.assert_array_equal(method.result(ours).labels, LABELS)


@pytest.mark.parametrize("soft", [False, True], ids=["mtt", "datm"])
def test_inner_steps_take_half_as_many_images_with_their_mirror_images(soft, x64):
  """The loss by loops over batches of two images and two mirror images, and its gradient by finite differences."""
  pixels = int(np.prod(SHAPE))
  start, target = RNG.normal(size=(2, pixels * HIDDEN + HIDDEN * CLASSES))
  labels = RNG.normal(size=(SIZE, CLASSES)) if soft else LABELS

  def apply(theta, x, **_):
    first, second = split(theta, pixels)
    return Outputs(jnp.tanh(x.reshape(len(x), -1) @ first) @ second, None)

  options = {"inner_steps": 4, "batch_size": 4, "threshold": None, "learn_labels": soft, "image_lr": 1.0}
  method = trajectory_method(apply, synthetic(IMAGES, labels), view=FLIP, **options)
  segment = Segment(jnp.asarray(start), jnp.asarray(target))
  state, metrics = jax.jit(method.step)(KEY, method.init(KEY, segment), segment)
  indices, mask = (np.asarray(a) for a in inner_batches(jax.random.split(KEY)[0], SIZE, 2, 4))
  both = np.concatenate([2 * indices, 2 * indices + 1], axis=1)

  def loss(images):
    doubled = np.repeat(labels, 2, axis=0)
    return outer_loss(mirrored(images), doubled, 0.3, start, target, both, np.concatenate([mask, mask], axis=1))

  np.testing.assert_allclose(metrics["match/loss"], loss(IMAGES), rtol=1e-6)  # weights are float32
  grad = numeric_gradient(loss, IMAGES)
  np.testing.assert_allclose(state.roles["images"].params, IMAGES - grad, rtol=1e-5, atol=1e-7)


def test_pairs_and_mistakes():
  images = jnp.float32(IMAGES)
  for pair in (flip_pairs, jax.jit(flip_pairs)):
    np.testing.assert_array_equal(pair(images).reshape(-1, *SHAPE), mirrored(np.float32(IMAGES)))
  with pytest.raises(UserError, match=r"method\.view='flap': unknown view; choose one of none, flip"):
    augment.view("flap", key="method.view")
  with pytest.raises(UserError, match="rank 3"):
    flip_pairs(images[0])
  assert augment.view("flip").always == "flip"
  for dataset in ("digits", "mnist5k", "svhn_cropped", "/data/mnist.npz"):
    assert "mirror image of a sign" in augment.caution("flip", dataset) and not augment.caution("none", dataset)
  assert not augment.caution("flip", "cifar10")


@pytest.mark.slow
def test_a_run_on_signs_says_so(tmp_path):
  """Any host takes the option from its configuration, and names it in its log."""
  for host in ("fyi", "dc"):
    config, log = load_experiment(f"experiments/{host}.py:tiny"), io.StringIO()
    config.method.view = "flip"
    run_experiment(config, tmp_path / host, stream=log)
    assert "method.view='flip' on dataset='digits': the mirror image of a sign" in log.getvalue()
