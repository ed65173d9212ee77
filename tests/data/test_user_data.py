"""What users bring: odd labels, odd files, folders of other programs, and archives that claim too much."""

import os
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from jdistill.base import UserError
from jdistill.data import load, masks
from jdistill.files import npz_arrays

RNG = np.random.default_rng(0)


def _arrays(labels=(0, 1, 0, 1), dtype=np.int64):
  labels = np.array(labels, dtype)
  return {
    "train_images": RNG.integers(0, 256, (len(labels), 4, 4, 1), np.uint8),
    "train_labels": labels,
    "test_images": RNG.integers(0, 256, (2, 4, 4, 1), np.uint8),
    "test_labels": np.array([0, 1]),
  }


@pytest.mark.parametrize(
  ("labels", "dtype", "message"),
  [
    ((0, 1, 2**31 - 1), np.int64, r"no image is of class 2, though labels go up to 2147483647 \(3 distinct labels\)"),
    ((0, 1, 3 * 10**8), np.int32, "no image is of class 2, though labels go up to 300000000"),
    ((0, 1, 2**63), np.uint64, "label 9223372036854775808 does not fit int32"),
    ((0, 1, 2**32 + 1), np.int64, "label 4294967297 does not fit int32"),
    ((0, 0, 0), np.int64, r"one class only \('0'\); give examples of two or more"),
  ],
)
def test_labels_that_are_no_classes(tmp_path, labels, dtype, message):
  np.savez(tmp_path / "a.npz", **_arrays(labels, dtype))
  with pytest.raises(UserError, match=message):
    load(tmp_path / "a.npz")


def _claiming(path, shape, arrays):
  """Writes an archive whose `train_images.npy` has a header with another shape."""
  np.savez(path, **arrays)
  with zipfile.ZipFile(path) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  body = members["train_images.npy"]
  header = str({"descr": "|u1", "fortran_order": False, "shape": shape}).encode()
  header = header.ljust(118 - 1 - 10 + 10) + b"\n"
  members["train_images.npy"] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body[128:]
  with zipfile.ZipFile(path, "w") as archive:
    for name, data in members.items():
      archive.writestr(name, data)


def test_a_header_that_claims_more_than_the_file_holds(tmp_path):
  _claiming(tmp_path / "a.npz", (10**12, 4, 4, 1), _arrays())
  with pytest.raises(UserError, match=r"train_images: its header claims 16\.0 TB, the file holds 64 B"):
    load(tmp_path / "a.npz")
  _claiming(tmp_path / "a.npz", (4, 4, 4, 1), _arrays())
  assert load(tmp_path / "a.npz").train_x.shape == (4, 4, 4, 1)


def test_more_than_the_memory_of_the_machine(tmp_path, monkeypatch):
  monkeypatch.setattr("jdistill.files.archives._memory", lambda: 100)
  np.savez(tmp_path / "a.npz", x=np.zeros(50))
  with (
    open(tmp_path / "a.npz", "rb") as file,
    pytest.raises(ValueError, match="its arrays take 528 B and this"),
  ):
    npz_arrays(file)


def test_paths_are_told_whole(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=rf"there is no such file; .*\(looked for {tmp_path}/none\.npz\)"):
    load("none.npz")
  (tmp_path / "dir.npz").mkdir()
  with pytest.raises(UserError, match="is not a file"):
    load("dir.npz")
  (tmp_path / "photo.png").write_bytes(b"x")
  with pytest.raises(UserError, match=r"dataset='photo\.png': a file of this kind is not read"):
    load("photo.png")


# masks ------------------------------------------------------------------------------------------------------------


def _masks(path, **changes):
  arrays = {f"{part}_images": RNG.integers(0, 256, (3, 4, 4, 1), np.uint8) for part in ("train", "test")}
  arrays |= {f"{part}_masks": RNG.integers(0, 2, (3, 4, 4)).astype(np.int64) for part in ("train", "test")}
  for name, value in changes.items():
    arrays[name][0, 0, 0] = value
  np.savez(path, **arrays)
  return str(path)


def test_masks_are_compared_before_they_are_cast(tmp_path):
  for name in ("train_masks", "test_masks"):
    with pytest.raises(UserError, match=r"4294967297"):  # int32 would make it class 1
      masks.load(_masks(tmp_path / "a.npz", **{name: 2**32 + 1}), ignore=255)
  with pytest.raises(UserError, match=r"no pixel is of class 2 \(labels are \[0, 1, 300000000\]"):
    masks.load(_masks(tmp_path / "a.npz", train_masks=3 * 10**8), ignore=255)
  found = masks.load(_masks(tmp_path / "a.npz", train_masks=2**32 + 1), ignore=2**32 + 1)
  assert found.train.masks.dtype == np.int32 and found.train.masks[0, 0, 0] == masks.IGNORE


def test_masks_of_one_class(tmp_path):
  arrays = {f"{part}_images": np.zeros((1, 2, 2, 1), np.uint8) for part in ("train", "test")}
  np.savez(tmp_path / "a.npz", **arrays, **{f"{part}_masks": np.zeros((1, 2, 2), int) for part in ("train", "test")})
  with pytest.raises(UserError, match="one class only"):
    masks.load(str(tmp_path / "a.npz"), ignore=255)


# folders ----------------------------------------------------------------------------------------------------------


def _image(path, size=(5, 4), **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = RNG.integers(0, 256, (size[1], size[0], 3), np.uint8)
  Image.fromarray(pixels).save(path, **options)
  return pixels


def _folder(root, suffix=".png", test="test"):
  return [_image(root / split / name / f"0{suffix}") for split in ("train", test) for name in ("ant", "bee")]


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".tiff", ".tif", ".gif", ".JPEG"])
def test_other_formats(tmp_path, suffix):
  pixels = _folder(tmp_path, suffix)
  data = load(tmp_path)
  assert data.train_x.shape == (2, 4, 5, 3)
  if suffix in (".bmp", ".tiff", ".tif"):
    np.testing.assert_array_equal(np.round(data.train_x[0] * 255), pixels[0])


def test_validation_images_serve_where_there_is_no_test_folder(tmp_path):
  _folder(tmp_path, test="val")
  assert load(tmp_path).test_x.shape == (2, 4, 5, 3)


def test_exif_orientation(tmp_path):
  _folder(tmp_path)
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned by 90 degrees to the right
  stored = _image(tmp_path / "train" / "ant" / "1.png", (4, 5), exif=exif)
  data = load(tmp_path)
  np.testing.assert_array_equal(np.round(data.train_x[1] * 255), np.rot90(stored, -1))


def test_files_that_are_no_files(tmp_path):
  _folder(tmp_path)
  os.mkfifo(tmp_path / "train" / "ant" / "000.png")
  with pytest.raises(UserError, match=r"000\.png: is not a regular file"):  # reading it would wait for ever
    load(tmp_path)


def test_several_frames_and_bombs(tmp_path, monkeypatch):
  _folder(tmp_path)
  frames = [Image.new("L", (5, 4), value) for value in (0, 99)]
  frames[0].save(tmp_path / "train" / "ant" / "a.gif", save_all=True, append_images=frames[1:])
  with pytest.raises(UserError, match=r"a\.gif: has 2 frames"):
    load(tmp_path)
  (tmp_path / "train" / "ant" / "a.gif").unlink()
  for most in (3, 15):  # Pillow refuses above twice the limit and warns above it
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    with pytest.raises(UserError, match=r"0\.png: Image size \(20 pixels\) exceeds limit"):
      load(tmp_path)


def test_tiny_imagenet_as_it_is_downloaded(tmp_path):
  for name in ("n01", "n02"):
    for index in range(2):
      _image(tmp_path / "train" / name / "images" / f"{name}_{index}.JPEG", (8, 8), quality=95)
    (tmp_path / "train" / name / f"{name}_boxes.txt").write_text("0")
  shown = [_image(tmp_path / "val" / "images" / f"val_{index}.JPEG", (8, 8), quality=95) for index in range(3)]
  _image(tmp_path / "test" / "images" / "test_0.JPEG", (8, 8))  # has no label
  lines = [f"val_{index}.JPEG\t{name}\t0\t0\t7\t7" for index, name in enumerate(("n02", "n01", "n02"))]
  (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
  data = load(tmp_path)
  assert data.class_names == ("n01", "n02") and data.train_x.shape == (4, 8, 8, 3)
  assert data.train_y.tolist() == [0, 0, 1, 1] and data.test_y.tolist() == [0, 1, 1]
  near = [abs(data.test_x[0] * 255 - one).mean() for one in shown]  # JPEG loses much of noise
  assert near[1] == min(near)
  (tmp_path / "val" / "val_annotations.txt").write_text("../x.JPEG\tn01\n")
  with pytest.raises(UserError, match="names no image and class of train/"):
    load(tmp_path)
