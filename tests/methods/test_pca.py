"""PCA's combination against NumPy: smaller images, their places in a grid, crops, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import UserError
from jdistill.methods.dataset.pca import class_stream, pca, pruned_start
from jdistill.ops.affine import resize_weights
from jdistill.synthetic import Materials, SyntheticSet
from jdistill.synthetic.patches import patch_crop

CLASSES, IPC, SIDES = 2, 2, (4, 6)
Y = np.repeat(np.arange(CLASSES, dtype=np.int32), IPC * 4)
X = np.random.default_rng(0).normal(size=(len(Y), *SIDES, 2)).astype(np.float32)
KEY = jax.random.key(3)


def run(x=X, y=Y, *, steps=CLASSES, jit=True, factor=2, **options):
  """The set after some steps, and the last metrics."""
  initial = pruned_start(factor=factor, lr_init=0.1).make(x, y, ipc=IPC, num_classes=CLASSES)
  method, stream = pca(initial, factor=factor, **options), class_stream().stream(Materials(x, y, CLASSES, 0))
  assert method.steps == CLASSES
  state, step, metrics = method.init(KEY, stream(0)), jax.jit(method.step) if jit else method.step, None
  for number in range(steps):
    state, metrics = step(jax.random.fold_in(KEY, number), state, stream(number))
  return method.result(state), metrics


def halved(image):
  """Bilinear with hats of the width of a pixel of the result: `1/8, 3/8, 3/8, 1/8`, at the border `3/7, 3/7, 1/7`."""
  for axis in (0, 1):
    rows = np.moveaxis(np.float64(image), axis, 0)
    out = np.zeros((len(rows) // 2, *rows.shape[1:]))
    for i in range(len(out)):
      weights = {k: w for k, w in zip(range(2 * i - 1, 2 * i + 3), (1, 3, 3, 1), strict=True) if 0 <= k < len(rows)}
      out[i] = sum(w * rows[k] for k, w in weights.items()) / sum(weights.values())
    image = np.moveaxis(out, 0, axis)
  return image


def grids(tiles):
  """Images of four tiles; image `i` of a class has the tiles `i`, `IPC + i`, ..., row by row."""
  out = []
  for own in np.split(np.asarray(tiles), CLASSES):
    for i in range(IPC):
      a, b, c, d = own[i::IPC]
      out.append(np.concatenate([np.concatenate([a, b], 1), np.concatenate([c, d], 1)], 0))
  return np.stack(out)


@pytest.mark.parametrize("jit", [True, False])
def test_whole_images_become_tiles(jit):
  found, metrics = run(jit=jit)
  want = grids([halved(image) for image in X])
  np.testing.assert_allclose(found.images, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(found.labels, np.repeat(np.arange(CLASSES), IPC))
  assert float(found.lr) == np.float32(0.1) and metrics["pca/classes_left"] == 0
  share = np.var(want[IPC:]) / np.var(np.float64(X[Y == 1]))
  np.testing.assert_allclose(metrics["pca/kept_variance"], share, rtol=1e-4)


def test_means_over_pixels_in_the_place_of_hats():
  found, _ = run(shrink="area")
  want = grids(X.reshape(len(X), 2, 2, 3, 2, 2).mean((2, 4)))
  np.testing.assert_allclose(found.images, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(resize_weights(4, 2, "area"), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
  with pytest.raises(ValueError, match="2 pixels of 5"):
    resize_weights(5, 2, "area")


def test_one_tile_is_the_image_and_steps_beyond_the_last_class_change_nothing():
  keep = np.concatenate([np.flatnonzero(c == Y)[:IPC] for c in range(CLASSES)])
  found, metrics = run(X[keep], Y[keep], factor=1)
  np.testing.assert_array_equal(found.images, X[keep])
  np.testing.assert_allclose(metrics["pca/kept_variance"], 1)
  np.testing.assert_array_equal(run(steps=CLASSES + 2)[0].images, run()[0].images)


def test_crops_as_tiles_are_random_windows():
  square = np.random.default_rng(1).normal(size=(len(Y), 6, 6, 1)).astype(np.float32)
  found, _ = run(square, crop=0.3)
  cut, tiles = patch_crop((6, 6), 2, 0.3), []
  for c in range(CLASSES):
    record = cut.sample(jax.random.fold_in(KEY, c), (IPC * 4, 6, 6, 1))
    tiles.append(cut.apply(record, jnp.asarray(square[c == Y])))
  np.testing.assert_allclose(found.images, grids(np.concatenate(tiles)), rtol=1e-5, atol=1e-6)


def test_the_start_is_the_first_chosen_images_whole():
  start, order = pruned_start(factor=2), np.random.default_rng(2).permutation(len(Y))
  found = start.make(X[order], Y[order], ipc=IPC, num_classes=CLASSES)
  want = [X[order][Y[order] == c][:IPC] for c in range(CLASSES)]
  np.testing.assert_array_equal(found.images, np.concatenate(want))
  np.testing.assert_array_equal(found.labels, start.empty(IPC, CLASSES, X.shape[1:]).labels)
  assert start.keeps(3) == 12


def test_mistakes():
  with pytest.raises(UserError, match=r"ipc=3: images of 4 tiles are made of 12 real ones per class, and class 0 has"):
    pruned_start(factor=2).candidates(Y, 3, CLASSES)
  with pytest.raises(UserError, match=r"method\.factor=4: images of 4 x 6 pixels cannot be made of 4 x 4 equal tiles"):
    pruned_start(factor=4).empty(1, 2, (*SIDES, 1))
  with pytest.raises(UserError, match=r"method\.factor=3: images of 4 x 6 pixels"):
    pca(SyntheticSet(X[:2], np.arange(2), np.float32(0.1)), factor=3)
  with pytest.raises(ValueError, match="initial: has soft labels"):
    pca(SyntheticSet(X[:2], np.eye(2, dtype=np.float32), np.float32(0.1)))
