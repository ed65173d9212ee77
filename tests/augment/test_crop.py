"""Resized crop, mirroring and roll against loops in NumPy, and their draws against the published distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jdistill import augment, base

SHAPE = (3, 6, 5, 2)
X = np.random.default_rng(0).normal(size=SHAPE)


def resized_window(image, box):
  """Bilinear resize of the window alone, between pixel centres, by the definition; box in whole pixels."""
  top, left, height, width = box
  window, (rows, columns, _) = image[top : top + height, left : left + width], image.shape
  out = np.zeros_like(image)
  for i in range(rows):
    for j in range(columns):
      p = np.clip((i + 0.5) * height / rows - 0.5, 0, height - 1)
      q = np.clip((j + 0.5) * width / columns - 0.5, 0, width - 1)
      a, b = min(int(p), max(height - 2, 0)), min(int(q), max(width - 2, 0))
      c, d = min(a + 1, height - 1), min(b + 1, width - 1)
      u, v = p - a, q - b
      out[i, j] = (1 - u) * ((1 - v) * window[a, b] + v * window[a, d]) + u * (
        (1 - v) * window[c, b] + v * window[c, d]
      )
  return out


def test_resized_crop_equals_the_resized_window(x64):
  boxes = np.array([[1, 2, 3, 2], [0, 0, 6, 5], [5, 4, 1, 1]])
  record = augment.CropRecord(jnp.asarray(boxes / np.tile(SHAPE[1:3], 2)))
  aug = augment.resized_crop()
  found = aug.apply(record, jnp.asarray(X))
  for image, box, got in zip(X, boxes, found, strict=True):
    np.testing.assert_allclose(got, resized_window(image, box), rtol=1e-10, atol=1e-12)
  check_grads(lambda x: aug.apply(record, x), (jnp.asarray(X),), order=1, modes=["rev"])


def test_the_whole_image_stays_exactly_what_it_is():
  x = jnp.float32(X)
  record = augment.CropRecord(jnp.tile(jnp.float32([[0, 0, 1, 1]]), (3, 1)))
  np.testing.assert_array_equal(augment.resized_crop().apply(record, x), x)


def test_windows_have_the_published_areas_and_ratios():
  n, side = 4000, 100
  box = np.asarray(augment.resized_crop((0.2, 0.8)).sample(jax.random.key(0), (n, side, side, 1)).box) * side
  np.testing.assert_allclose(box, np.round(box), atol=1e-4)
  assert (box >= 0).all() and (box[:, :2] + box[:, 2:] <= side + 1e-3).all()
  area, ratio = box[:, 2] * box[:, 3] / side**2, box[:, 3] / box[:, 2]
  assert 0.19 < area.min() < 0.22 and 0.75 < area.max() < 0.82
  assert 0.73 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.37
  assert abs(np.log(ratio).mean()) < 5 * 0.166 / np.sqrt(n)  # uniform in the logarithm: symmetric about 1
  assert abs(area.mean() - 0.495) < 0.02  # close to the middle; the largest areas fit less often
  room = side - box[:, 2:]
  assert abs((box[:, :2] / np.maximum(room, 1)).mean() - 0.5) < 0.02  # corners uniform


def test_an_image_in_which_nothing_fits_gives_the_largest_central_window():
  box = augment.resized_crop((1.0, 1.0)).sample(jax.random.key(0), (2, 10, 40, 1)).box
  np.testing.assert_allclose(box, [[0, 13 / 40, 1, 13 / 40]] * 2, rtol=1e-6)  # 4/3 of ten rows, rounded


def test_siamese_draws_once_for_the_batch():
  for aug in (augment.resized_crop(siamese=True), augment.flip(siamese=True)):
    drawn = [np.asarray(jax.tree.leaves(aug.sample(jax.random.key(k), (4, 8, 8, 1)))[0]) for k in range(8)]
    assert all((one == one[:1]).all() for one in drawn)
    assert any((one[0] != drawn[0][0]).any() for one in drawn)
  many = augment.resized_crop().sample(jax.random.key(0), (4, 8, 8, 1)).box
  assert len(np.unique(many, axis=0)) > 1


def test_flip_mirrors_the_chosen_images_with_its_probability():
  record = jnp.array([True, False, True])
  y = augment.flip().apply(record, jnp.float32(X))
  np.testing.assert_array_equal(y, np.where(np.array(record)[:, None, None, None], X[:, :, ::-1], X).astype(np.float32))
  share = float(augment.flip(0.25).sample(jax.random.key(0), (4000, 1, 1, 1)).mean())
  assert abs(share - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 4000)


GRID = (4, 6, 10, 2)  # four cells of 3 x 5


def test_a_cell_crop_equals_the_resized_window_of_one_cell(x64):
  x, aug = np.random.default_rng(1).normal(size=GRID), augment.cell_crop(2)
  cells = np.int32([[0, 0], [0, 1], [1, 0], [1, 1]])
  boxes = np.array([[0, 0, 3, 5], [1, 2, 2, 3], [2, 4, 1, 1], [0, 1, 3, 2]])
  record = augment.CellRecord(jnp.asarray(cells), jnp.asarray(boxes / np.tile((3, 5), 2)))
  for found in (aug.apply(record, jnp.asarray(x)), jax.jit(aug.apply)(record, jnp.asarray(x))):
    for image, (row, column), box, got in zip(x, cells, boxes, found, strict=True):
      # resized to the size of the image, which `resized_window` takes from a canvas of that size
      canvas = np.zeros_like(image)
      canvas[:3, :5] = image[3 * row : 3 * row + 3, 5 * column : 5 * column + 5]
      np.testing.assert_allclose(got, resized_window(canvas, box), rtol=1e-10, atol=1e-12)
  check_grads(lambda x: aug.apply(record, x), (jnp.asarray(x),), order=1, modes=["rev"])


def test_a_cell_crop_reads_nothing_outside_its_cell():
  """To the bit, for sides whose shares are no binary fractions, too."""
  aug, shape = augment.cell_crop(7), (40, 14, 21, 1)
  record = aug.sample(jax.random.key(3), shape)
  x = np.full(shape, np.nan, np.float32)
  for image, (row, column) in zip(x, np.asarray(record.cell), strict=True):
    image[2 * row : 2 * row + 2, 3 * column : 3 * column + 3] = 1
  np.testing.assert_allclose(aug.apply(record, jnp.asarray(x)), 1, rtol=1e-6)


def test_cells_are_drawn_alike_and_windows_in_them_as_in_images():
  n, side = 4000, 100
  record = augment.cell_crop(3, (0.2, 0.8)).sample(jax.random.key(0), (n, 3 * side, 3 * side, 1))
  counts = np.bincount(np.asarray(record.cell) @ np.array([3, 1]), minlength=9)
  assert record.cell.shape == (n, 2) and (abs(counts - n / 9) < 5 * np.sqrt(n / 9)).all()
  box = np.asarray(record.box) * side
  np.testing.assert_allclose(box, np.round(box), atol=1e-4)
  assert (box >= 0).all() and (box[:, :2] + box[:, 2:] <= side + 1e-3).all()
  area = box[:, 2] * box[:, 3] / side**2
  assert 0.19 < area.min() < 0.22 and 0.75 < area.max() < 0.82


def test_what_a_protocol_does_to_images_is_one_object_for_equal_options():
  whole = {"cells": 2, "crop_scale": 0.5, "mirror": True}
  assert augment.of_protocol("none", **whole) is augment.of_protocol("none", **whole)
  assert augment.of_protocol("crop_flip") is augment.named("crop_flip")  # the draws of a name alone
  cell, mirror = augment.of_protocol("none", **whole).sample(jax.random.key(0), (5, 4, 4, 1))
  assert isinstance(cell, augment.CellRecord) and mirror.dtype == bool
  first, crop = augment.of_protocol("crop_flip", crop_scale=0.5).sample(jax.random.key(0), (5, 4, 4, 1))
  assert isinstance(first, augment.FlipCropRecord) and isinstance(crop, augment.CropRecord)
  x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 4, 4, 1)), jnp.float32)
  (seen,) = augment.windows(cells=2)  # without a scale a cell is seen whole
  record = seen.sample(jax.random.key(0), x.shape)
  np.testing.assert_array_equal(record.box, [[0, 0, 1, 1]] * 3)
  assert augment.windows() == ()


def test_roll_jitter_rolls_the_batch():
  aug, x = augment.roll_jitter(2), jnp.float32(X)
  seen = set()
  for number in range(40):
    record = aug.sample(jax.random.key(number), SHAPE)
    seen.add(tuple(map(int, record)))
    if number < 3:
      np.testing.assert_array_equal(aug.apply(record, x), np.roll(np.float32(X), tuple(map(int, record)), (1, 2)))
  assert seen == {(a, b) for a in range(3) for b in range(3)}


@pytest.mark.parametrize(
  "make, match",
  [
    (lambda: augment.resized_crop((0.0, 1.0)), r"scale: \(0.0, 1.0\)"),
    (lambda: augment.resized_crop((0.9, 0.2)), r"scale: \(0.9, 0.2\)"),
    (lambda: augment.resized_crop(ratio=(2.0, 1.0)), r"ratio: \(2.0, 1.0\)"),
    (lambda: augment.flip(1.5), "probability: 1.5"),
    (lambda: augment.cell_crop(0), "cells=0: give at least 1"),
    (lambda: augment.cell_crop(2, (0.5, 0.1)), r"scale: \(0.5, 0.1\)"),
    (
      lambda: augment.cell_crop(4).sample(jax.random.key(0), (1, 8, 6, 1)),
      "cells=4: images of 8 x 6 pixels cannot be cut into 4 x 4 equal cells",
    ),
    (lambda: augment.roll_jitter(-1), "max_shift: -1 is negative"),
    (lambda: augment.cutmix(0.0), "alpha: 0.0"),
    (lambda: augment.mixup(-1.0), "alpha: -1.0"),
    (lambda: augment.flip().apply(jnp.ones(2, bool), jnp.ones((3, 2, 2, 1))), "drawn for 2 images but x has 3"),
  ],
)
def test_mistakes_are_named_in_one_line(make, match):
  with pytest.raises(base.UserError, match=match):
    make()
