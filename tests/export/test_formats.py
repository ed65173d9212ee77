"""Formats of others: PNG folders and PyTorch files."""

import os
import sys
import types

import numpy as np
import pytest
from PIL import Image

from jdistill.base import UserError
from jdistill.export import DistilledSet, to_mtt, to_png_folder, to_torch


def _pixels(channels=3, count=12):
  return np.random.default_rng(0).integers(0, 256, (count, 4, 5, channels)).astype(np.float32) / 255


@pytest.mark.parametrize("channels", [1, 3])
def test_png_folder_layout_and_pixels(tmp_path, channels):
  pixels = _pixels(channels)
  labels = np.array([1, 0, 1, 2, 0, 1, 2, 2, 0, 0, 1, 10])
  written = to_png_folder(tmp_path / "set", pixels, labels)
  assert written[0] == tmp_path / "set" / "01" / "00.png" and written[11] == tmp_path / "set" / "10" / "11.png"
  assert sorted(os.listdir(tmp_path / "set")) == ["00", "01", "02", "10"]
  for index, path in enumerate(written):
    with Image.open(path) as image:
      assert image.mode == {1: "L", 3: "RGB"}[channels]
      np.testing.assert_array_equal(np.asarray(image).reshape(4, 5, channels), np.round(pixels[index] * 255))


def test_folders_sort_like_classes(tmp_path):
  names = [f"{chr(ord('z') - index)} name/with: odd" for index in range(11)] + ["ü", "!"]
  labels = np.arange(12) % 12
  written = to_png_folder(tmp_path, _pixels(), labels, names)
  assert [path.parent.name for path in written] == sorted(path.parent.name for path in written)
  assert written[0].parent.name == "00_z-name-with-odd" and written[11].parent.name == "11_ü"


def test_soft_labels_take_the_largest(tmp_path):
  logits = np.zeros((12, 3), np.float32)
  logits[np.arange(12), [2, 1, 0] * 4] = 1
  written = to_png_folder(tmp_path, _pixels(), logits)
  assert [path.parent.name for path in written[:3]] == ["2", "1", "0"]


def test_twice_is_safe_and_other_files_are_not_mixed_in(tmp_path):
  labels = np.arange(12) % 3
  first = to_png_folder(tmp_path, _pixels(), labels)
  assert to_png_folder(tmp_path, _pixels(), labels) == first
  with pytest.raises(UserError, match=r"holds other files \(0/00\.png\): give an empty directory"):
    to_png_folder(tmp_path, _pixels(), (labels + 1) % 3)


def test_folder_refusals(tmp_path):
  with pytest.raises(UserError, match="pixels have shape"):
    to_png_folder(tmp_path, np.zeros((2, 4, 4)), np.zeros(2, int))
  with pytest.raises(UserError, match="12 images have 3 labels"):
    to_png_folder(tmp_path, _pixels(), np.zeros(3, int))
  with pytest.raises(UserError, match="class_names has 1 entries for 3 classes"):
    to_png_folder(tmp_path, _pixels(), np.arange(12) % 3, ["a"])
  assert os.listdir(tmp_path) == []


def test_the_data_room_reads_it(tmp_path):
  folder = pytest.importorskip("jdistill.data.folder")
  labels = np.repeat(np.arange(3), 4)
  for split in ("train", "test"):
    to_png_folder(tmp_path / split, _pixels(), labels, ["c", "b", "a"])
  raw = folder.read(tmp_path)
  assert tuple(raw.class_names) == ("0_c", "1_b", "2_a")


def _set(soft):
  labels = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32) if soft else np.array([2, 0], np.int32)
  images = np.arange(2 * 4 * 5 * 3, dtype=np.float32).reshape(2, 4, 5, 3)
  one = np.ones(1, np.float32)
  preprocessing = {"kind": np.array("standardize"), "mean": one, "scale": one * 2, "inverse": one / 2}
  preprocessing["vectors"] = np.zeros((0, 0), np.float32)
  return DistilledSet(images, labels, 0.1, preprocessing, ("a", "b", "c"), {}, {})


@pytest.mark.parametrize("soft", [True, False])
def test_torch_with_a_stand_in(tmp_path, monkeypatch, soft):
  """What reaches PyTorch: writable contiguous arrays, channels first, int64 classes."""
  saved = []

  def save(value, file):
    saved.append(value)
    file.write(b"bytes of torch")

  monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(from_numpy=lambda array: array, save=save))
  distilled = _set(soft)
  to_torch(tmp_path / "set.pt", distilled)
  assert (tmp_path / "set.pt").read_bytes() == b"bytes of torch"
  (value,) = saved
  assert (
    value["images"].shape == (2, 3, 4, 5) and value["images"].flags.c_contiguous and value["images"].flags.writeable
  )
  assert value["images"][1, 2, 3, 4] == distilled.images[1, 3, 4, 2]
  assert value["labels"].dtype == (np.float32 if soft else np.int64)
  np.testing.assert_array_equal(value["labels"], distilled.labels)
  assert value["learned_lr"] == 0.1 and value["class_names"] == ["a", "b", "c"]
  assert value["preprocessing"]["kind"] == "standardize" and value["preprocessing"]["scale"] == 2


def test_files_of_the_evaluators_of_mtt_and_datm(tmp_path, monkeypatch):
  saved = []

  def save(value, file):
    saved.append(value)
    file.write(b"bytes of torch")

  monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(from_numpy=lambda array: array, save=save))
  monkeypatch.setenv("HOME", str(tmp_path))
  distilled = _set(True)
  paths = to_mtt("~/set", distilled)
  assert [path.name for path in paths] == ["images_best.pt", "labels_best.pt", "lr_best.pt"]
  assert sorted(os.listdir(tmp_path / "set")) == sorted(path.name for path in paths)
  images, labels, lr = saved
  np.testing.assert_array_equal(images, distilled.images.transpose(0, 3, 1, 2))
  np.testing.assert_array_equal(labels, distilled.labels)
  assert lr.shape == () and lr == np.float32(0.1)


@pytest.mark.parametrize("soft", [True, False])
def test_torch_itself(tmp_path, soft):
  torch = pytest.importorskip("torch", reason="PyTorch is not a dependency")
  distilled = _set(soft)
  to_torch(tmp_path / "set.pt", distilled)
  value = torch.load(tmp_path / "set.pt", weights_only=True)
  np.testing.assert_array_equal(value["images"].numpy(), distilled.images.transpose(0, 3, 1, 2))
  np.testing.assert_array_equal(value["labels"].numpy(), distilled.labels)
  assert value["preprocessing"]["kind"] == "standardize" and value["learned_lr"] == 0.1


def test_torch_missing(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(UserError, match=r"set\.pt: writing \.pt files needs PyTorch: pip install torch"):
    to_torch(tmp_path / "set.pt", _set(True))
  assert os.listdir(tmp_path) == []
