"""Image grids: exact pixels, ranges, timelines, and PNG files that others read."""

import errno
import os

import numpy as np
import pytest
from PIL import Image

from jdistill.base import UserError
from jdistill.reporting import grids


def test_pixels_of_a_small_grid():
  images = np.array([[[0.0, 1.0]], [[0.5, 0.2]], [[1.0, 0.0]]], np.float32)[..., None]  # [3, 1, 2, 1]
  grid = grids.image_grid(images, 2, scale=1)
  expected = [
    [255] * 7,
    [255, 0, 255, 255, 128, 51, 255],
    [255] * 7,
    [255, 255, 0, 255, 255, 255, 255],
    [255] * 7,
  ]
  assert grid.dtype == np.uint8
  np.testing.assert_array_equal(grid[..., 0], expected)


def test_scaled_colour_positions():
  rng = np.random.default_rng(0)
  images = rng.random((7, 4, 5, 3), np.float32)
  grid = grids.image_grid(images, 3, scale=2, pad=3)
  assert grid.shape == (3 * (8 + 3) + 3, 3 * (10 + 3) + 3, 3)
  for index, (y, x) in ((0, (0, 0)), (4, (3, 4)), (6, (2, 1))):
    top, left = 3 + (index // 3) * 11 + 2 * y, 3 + (index % 3) * 13 + 2 * x
    value = np.round(images[index, y, x].astype(np.float64) * 255)
    np.testing.assert_array_equal(grid[top : top + 2, left : left + 2], np.broadcast_to(value, (2, 2, 3)))
  assert (grid[-11:, 16:] == 255).all()  # two places of the last row are free


@pytest.mark.parametrize(("size", "shown"), [(8, 64), (28, 56), (32, 64), (24, 72), (64, 64), (96, 96), (224, 224)])
def test_small_images_become_visible(size, shown):
  assert grids.image_grid(np.zeros((1, size, size, 1), np.float32), 1, pad=0).shape == (shown, shown, 1)


def test_ranges():
  x = np.array([[-1.0, 0.0, 1.0, 3.0], [2.0, 2.0, 2.0, 2.0]], np.float32).reshape(2, 1, 4, 1)
  np.testing.assert_array_equal(grids.to_uint8(x)[0].ravel(), [0, 0, 255, 255])
  broken = np.array([np.nan, np.inf, -np.inf, 0.5], np.float32).reshape(1, 1, 4, 1)
  np.testing.assert_array_equal(grids.to_uint8(broken).ravel(), [0, 255, 0, 128])


def test_grid_refusals():
  for shape in ((2, 4, 4), (2, 4, 4, 2), (0, 4, 4, 1)):
    with pytest.raises(UserError, match="images have shape"):
      grids.image_grid(np.zeros(shape, np.float32), 2)
  with pytest.raises(UserError, match="columns=0"):
    grids.image_grid(np.zeros((1, 2, 2, 1), np.float32), 0)


def test_timeline_shows_images_in_time():
  snapshots = [(step, (np.arange(2) + step).reshape(2, 1, 1, 1).astype(np.float32) / 255) for step in (200, 0, 100)]
  grid = grids.timeline(snapshots, scale=1, pad=0)
  np.testing.assert_array_equal(grid[..., 0], [[0, 100, 200], [1, 101, 201]])


def test_timeline_keeps_first_and_last_of_many():
  snapshots = [(step, np.full((4, 1, 1, 1), step / 255, np.float32)) for step in range(111)]
  grid = grids.timeline(snapshots, scale=1, pad=0)
  np.testing.assert_array_equal(grid[..., 0], [range(0, 111, 10)] * 4)


def test_timeline_steps_are_those_that_are_shown():
  assert grids.timeline_steps(1) == [0] and grids.timeline_steps(12) == list(range(12))
  shown = grids.timeline_steps(34)
  assert len(shown) == 12 and shown[:2] == [0, 3] and shown[-1] == 33
  snapshots = [(step, np.full((1, 1, 1, 1), step / 33)) for step in range(34)]
  row = grids.timeline(snapshots, scale=1, pad=0).reshape(-1)
  np.testing.assert_array_equal(row, np.round(np.asarray(shown) / 33 * 255))


def test_timeline_refusals():
  with pytest.raises(UserError, match="snapshots is empty"):
    grids.timeline([])


@pytest.mark.parametrize(("shape", "mode"), [((3, 5), "L"), ((3, 5, 1), "L"), ((3, 5, 3), "RGB")])
def test_png_round_trip(tmp_path, shape, mode):
  array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  grids.save_png(tmp_path / "a" / "x.png", array)
  with Image.open(tmp_path / "a" / "x.png") as image:
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(image), array.reshape(np.asarray(image).shape))


def test_png_refusals_and_a_full_disk(tmp_path, monkeypatch):
  for array in (np.zeros((2, 2)), np.zeros((2, 2, 2), np.uint8), np.zeros(2, np.uint8)):
    with pytest.raises(UserError, match="a PNG cannot hold"):
      grids.save_png(tmp_path / "x.png", array)

  def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "replace", full)
  with pytest.raises(UserError, match=r"x\.png: no space left"):
    grids.save_png(tmp_path / "x.png", np.zeros((2, 2), np.uint8))
  assert os.listdir(tmp_path) == []
