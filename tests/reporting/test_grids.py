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
  grid = grids.image_grid(images, 2, scale=1, background=9)
  expected = [
    [9, 9, 9, 9, 9, 9, 9],
    [9, 0, 255, 9, 128, 51, 9],
    [9, 9, 9, 9, 9, 9, 9],
    [9, 255, 0, 9, 9, 9, 9],
    [9, 9, 9, 9, 9, 9, 9],
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
  np.testing.assert_array_equal(grids.to_uint8(x, "per_image").reshape(2, 4), [[0, 64, 128, 255], [128] * 4])
  spike = np.concatenate([np.linspace(0, 1, 101), [1e6]]).astype(np.float32).reshape(1, 1, -1, 1)
  robust = grids.to_uint8(spike, "robust").ravel()
  low, high = np.percentile(spike.astype(np.float64), (2, 98))
  expected = np.round(np.clip((spike.ravel() - low) / (high - low), 0, 1) * 255)
  assert np.abs(robust - expected).max() <= 1 and robust[50] > 100
  broken = np.array([np.nan, np.inf, -np.inf, 0.5], np.float32).reshape(1, 1, 4, 1)
  np.testing.assert_array_equal(grids.to_uint8(broken).ravel(), [0, 255, 0, 128])
  with pytest.raises(UserError, match="normalise='max' is unknown: choose one of clip, per_image, robust"):
    grids.to_uint8(x, "max")


def test_grid_refusals():
  for shape in ((2, 4, 4), (2, 4, 4, 2), (0, 4, 4, 1)):
    with pytest.raises(UserError, match="images have shape"):
      grids.image_grid(np.zeros(shape, np.float32), 2)
  with pytest.raises(UserError, match="columns=0"):
    grids.image_grid(np.zeros((1, 2, 2, 1), np.float32), 0)


def test_timeline_shows_the_first_of_each_class_in_time():
  labels = np.array([2, 0, 2, 1, 0])
  snapshots = [(step, (np.arange(5) + step).reshape(5, 1, 1, 1).astype(np.float32) / 255) for step in (200, 0, 100)]
  grid = grids.timeline(snapshots, labels, scale=1, pad=0)
  # class 0 is image 1, class 1 is image 3, class 2 is image 0
  np.testing.assert_array_equal(grid[..., 0], [[1, 101, 201], [3, 103, 203], [0, 100, 200]])


def test_timeline_keeps_first_and_last_of_many():
  labels = np.arange(20)
  snapshots = [(step, np.full((20, 1, 1, 1), step / 255, np.float32)) for step in range(101)]
  grid = grids.timeline(snapshots, labels, scale=1, pad=0, max_steps=5, max_classes=4)
  np.testing.assert_array_equal(grid[..., 0], [[0, 25, 50, 75, 100]] * 4)


def test_timeline_refusals():
  with pytest.raises(UserError, match="snapshots is empty"):
    grids.timeline([], np.zeros(1, int))
  one = [(0, np.zeros((2, 1, 1, 1), np.float32))]
  for labels in (np.zeros(3, int), np.zeros(2), np.zeros((2, 4), int)):
    with pytest.raises(UserError, match="one integer class per image"):
      grids.timeline(one, labels)


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
