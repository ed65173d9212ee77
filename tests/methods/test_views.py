"""Views of synthetic images in every method that takes them: equal ones change nothing, and what belongs to an image
stays with its views."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import augment, bilevel, models
from jdistill.augment import repeat, show
from jdistill.base import Batch, Segment, UserError, View
from jdistill.methods.dataset.datadam import datadam
from jdistill.methods.dataset.dc import dc
from jdistill.methods.dataset.dm import dm
from jdistill.methods.dataset.trajectory import trajectory_method
from jdistill.synthetic import SyntheticSet

CLASSES, IPC, SHAPE = 3, 2, (2, 2, 1)
KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(CLASSES, dtype=np.int32), IPC)
INITIAL = SyntheticSet(jnp.float32(RNG.normal(size=(CLASSES * IPC, *SHAPE))), jnp.asarray(LABELS), jnp.float32(0.1))
REAL = Batch(jnp.float32(RNG.normal(size=(CLASSES, 4, *SHAPE))), jnp.zeros((CLASSES, 4), jnp.int32), None)
TWICE = View(2, lambda x: jnp.stack([x, x], axis=1))
NETWORK = models.build("mlp", num_classes=CLASSES, image_shape=SHAPE, widths=(5,))
FLAT = models.flatten(NETWORK)
SEGMENT = Segment(*jnp.float32(RNG.normal(size=(2, FLAT.size))))
HOSTS = {
  "dm": lambda view: (dm(NETWORK, INITIAL, view=view), REAL),
  "datadam": lambda view: (datadam(NETWORK, INITIAL, attention_weight=0.0, view=view), REAL),
  "dc": lambda view: (dc(NETWORK, INITIAL, outer_loop=3, inner_epochs=2, view=view), REAL),
  "mtt": lambda view: (_trajectory(view, INITIAL, learn_labels=False, threshold=None), SEGMENT),
  "datm": lambda view: (_trajectory(view, INITIAL._replace(labels=jnp.float32(3 * np.eye(3)[LABELS]))), SEGMENT),
}


def _trajectory(view, initial, **options):
  sizes = {"inner_steps": 4, "batch_size": 2 if view is None else 4, "lr_lr": 1e-3, "image_lr": 1.0}
  return trajectory_method(FLAT.apply, initial, view=view, **({"threshold": 10.0} | sizes | options))


@pytest.mark.parametrize("name", HOSTS)
def test_equal_views_change_nothing(name):
  """But the number of images per inner step, which is of views."""
  ends = []
  for view in (None, TWICE):
    method, batch = HOSTS[name](view)
    state, step = method.init(KEY, batch), jax.jit(method.step)
    for number in range(2):
      state, metrics = step(jax.random.fold_in(KEY, number), state, batch)
    ends.append((state, metrics))
  assert np.abs(ends[0][0].roles["images"].params - INITIAL.images).max() > 1e-4
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *ends)


def test_views_lie_beside_each_other():
  view = View(3, lambda x: jnp.stack([x, 2 * x, 3 * x], axis=1))
  images = jnp.float32(RNG.normal(size=(2, 4, 3, 3, 1)))
  shown = show(view, images)
  assert shown.shape == (2, 12, 3, 3, 1) and show(None, images) is images
  np.testing.assert_allclose(shown[1, 7], 2 * images[1, 2], rtol=1e-6)
  np.testing.assert_array_equal(repeat(view, jnp.arange(2)), [0, 0, 0, 1, 1, 1])
  np.testing.assert_array_equal(repeat(view, jnp.int32([[1, 2]]), axis=1), [[1, 1, 1, 2, 2, 2]])


def test_the_views_of_an_image_stay_together_when_a_batch_is_taken_in_chunks():
  """With a draw of the augmentation for every view."""
  sizes = {"inner_steps": 2, "batch_size": 4, "threshold": None, "learn_labels": False}
  found = []
  for chunk in (None, 1):
    unroll = functools.partial(bilevel.unroll, chunk_size=chunk)
    method = trajectory_method(FLAT.apply, INITIAL, view=TWICE, augment=augment.dsa("color"), unroll=unroll, **sizes)
    _, metrics = jax.jit(method.step)(KEY, method.init(KEY, SEGMENT), SEGMENT)
    found.append(float(metrics["match/loss"]))
  assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_an_operator_can_be_taken_out_of_the_draw_of_one():
  """Always applied, with a draw of its own, where it was among them; shared by batches of any size where draws are."""
  x = jnp.broadcast_to(jnp.arange(6.0)[None, None, :, None], (64, 2, 6, 1))
  alone = augment.named("flip", always="flip")
  assert augment.named("color_crop", always="flip") is augment.named("color_crop")
  flipped = np.asarray(alone.apply(alone.sample(KEY, x.shape), x))[:, 0, 0, 0] == 5.0
  assert 16 < flipped.sum() < 48
  both, few = augment.named("flip_rotate", always="flip", siamese=True), x[:2]

  @jax.jit
  def run(key):
    return tuple(both.apply(both.sample(key, rows.shape), rows) for rows in (x[:4], few))

  orders = []
  for number in range(20):
    out, same = run(jax.random.fold_in(KEY, number))
    np.testing.assert_allclose(same, out[:2], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out[2:], same, rtol=1e-5, atol=1e-5)
    assert min(np.abs(same - few).max(), np.abs(same - few[:, :, ::-1]).max()) > 1e-3  # turned every time
    orders.append(bool(out[0, 1, 1, 0] > out[0, 1, 4, 0]))
  assert 4 < sum(orders) < 16


def test_mistakes():
  with pytest.raises(UserError, match=r"method.batch_size=5: 2 views of each image do not fill an inner step evenly"):
    trajectory_method(FLAT.apply, INITIAL, batch_size=5, learn_labels=False, view=TWICE)


@pytest.mark.parametrize("side", [2, 3])
def test_tiles_are_enlarged_as_by_a_loop_over_pixels(side):
  """Against interpolation at half-pixel places with a continued border, pixel by pixel."""
  images = RNG.normal(size=(2, 6, 12, 2))
  named = augment.view(f"mosaic{side}", image_shape=images.shape[1:])
  assert named.view.copies == side**2
  found = np.asarray(named.view.images(jnp.float32(images)))
  high, wide = 6 // side, 12 // side
  for number, (a, b) in enumerate(np.ndindex(side, side)):
    tile = images[:, a * high : (a + 1) * high, b * wide : (b + 1) * wide]
    for i, j in np.ndindex(6, 12):
      total = 0.0
      for axis_i, weight_i in _neighbours(i, side, high):
        for axis_j, weight_j in _neighbours(j, side, wide):
          total = total + weight_i * weight_j * tile[:, axis_i, axis_j]
      np.testing.assert_allclose(found[:, number, i, j], total, rtol=1e-5, atol=1e-6)


def _neighbours(place, side, size):
  place = (place + 0.5) / side - 0.5
  low = int(np.floor(place))
  return [(min(max(n, 0), size - 1), w) for n, w in ((low, 1 - (place - low)), (low + 1, place - low))]


def test_images_that_cannot_be_cut_are_refused():
  with pytest.raises(UserError, match=r"eval.view='mosaic3': images of 8 x 9 pixels cannot be cut into equal tiles"):
    augment.view("mosaic3", key="eval.view", image_shape=(8, 9, 1))
  with pytest.raises(ValueError, match="8 x 9 pixels cannot be cut into 2 x 2"):
    augment.view("mosaic2").view.images(jnp.zeros((1, 8, 9, 1)))
