"""TFDS without TensorFlow: a tiny set written here, TFDS's own CIFAR-10 files where they lie beside the repository."""

import builtins
import io
import json
import pathlib
import socket
import sys
import types

import numpy as np
import pytest
from PIL import Image

from jdistill.base import UserError
from jdistill.data import load, sources, tfds

SHARED = pathlib.Path(__file__).resolve().parents[2].parent / "shared" / "data" / "tfds"


def _png(pixels):
  out = io.BytesIO()
  Image.fromarray(pixels).save(out, "PNG")
  out.seek(0)
  return out


def _write(name, root, images, *, test_split="test", channels=3, shape=(4, 5), names=("cat", "dog")):
  """Writes a TFDS set of PNGs with alternating labels as array_record; its code is not registered."""
  import tensorflow_datasets as lib

  class Toy(lib.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = lib.core.Version("1.0.0")

    def _info(self):
      features = {
        "image": lib.features.Image(shape=(*shape, channels)),
        "label": lib.features.ClassLabel(names=list(names)),
        "note": lib.features.Text(),
      }
      return self.dataset_info_from_configs(features=lib.features.FeaturesDict(features), disable_shuffling=True)

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples(split) for split in ("train", test_split)}

    def _generate_examples(self, split):
      for i, pixels in enumerate(images):
        yield i, {"image": _png(pixels), "label": i % len(names), "note": split}

  Toy.name = name
  Toy.pkg_dir_path = root
  Toy(data_dir=str(root), file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """A folder with a colour set (test split `validation`), a grey one, and one of images of several sizes."""
  root = tmp_path_factory.mktemp("tfds")
  rng = np.random.default_rng(0)
  colour = rng.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
  grey = rng.integers(0, 256, (4, 3, 3), dtype=np.uint8)
  _write("toy_colour", root, colour, test_split="validation")
  _write("toy_grey", root, grey, channels=1, shape=(3, 3))
  _write("toy_mixed", root, [colour[0], colour[1][:, :4]], shape=(None, None))
  _write("toy_no_test", root, colour, test_split="extra")
  return root, colour, grey


def test_pixels_labels_and_names_come_back(written):
  root, colour, _ = written
  data = load("toy_colour", data_dir=root)
  np.testing.assert_array_equal(data.train_x, colour.astype(np.float32) / np.float32(255))
  np.testing.assert_array_equal(data.train_y, [0, 1, 0, 1, 0, 1])
  np.testing.assert_array_equal(data.test_x, data.train_x)
  assert data.class_names == ("cat", "dog")
  assert "tensorflow" not in sys.modules


def test_grey_images_get_one_channel(written):
  root, _, grey = written
  data = load("toy_grey", data_dir=str(root))
  assert data.image_shape == (3, 3, 1)
  np.testing.assert_array_equal(data.train_x[..., 0], grey.astype(np.float32) / np.float32(255))


def test_a_subset_decodes_only_its_images(written, monkeypatch):
  root, colour, _ = written
  decoded = []
  real = tfds.images.decode
  monkeypatch.setattr(tfds.images, "decode", lambda *args: (decoded.append(args[2]), real(*args))[1])
  data = load("toy_colour", data_dir=root, train_size=2, test_size=2)
  assert len(decoded) == 4
  np.testing.assert_array_equal(data.train_x, colour[data.train_ids].astype(np.float32) / np.float32(255))


def test_home_is_expanded(written, monkeypatch):
  root, _, _ = written
  monkeypatch.setenv("HOME", str(root.parent))
  assert load("toy_grey", data_dir=f"~/{root.name}").train_x.shape == (4, 3, 3, 1)


def test_bad_sets_say_what_is_wrong(written):
  root = written[0]
  with pytest.raises(
    UserError, match=r"images differ in size: toy_mixed train image 0 is 5x4 but toy_mixed train image 1 is 4x4"
  ):
    load("toy_mixed", data_dir=root)
  with pytest.raises(
    UserError, match=r"'toy_no_test': has neither a 'test' nor a 'validation' split .*\['extra', 'train'\]"
  ):
    load("toy_no_test", data_dir=root)


def test_a_set_that_is_not_under_data_dir_says_how_to_get_it(tmp_path):
  with pytest.raises(UserError, match=r"'cifar10': not found under data_dir=.*choose another data_dir") as caught:
    load("cifar10", data_dir=tmp_path)
  message = str(caught.value)
  assert f"tfds.builder('cifar10', data_dir='{tmp_path}', file_format='array_record').download_and_prepare()" in message
  assert "\n" not in message
  assert list(tmp_path.iterdir()) == []  # nothing was begun
  with pytest.raises(UserError, match=r"data_dir='.*nowhere': there is no such directory"):
    load("cifar10", data_dir=tmp_path / "nowhere")


def test_a_wrong_version_or_config_is_one_line(written):
  with pytest.raises(UserError, match=r"'toy_colour:7.0.0': not found under data_dir") as caught:
    load("toy_colour:7.0.0", data_dir=written[0])
  assert "\n" not in str(caught.value)


def test_another_file_format_is_named(written, tmp_path):
  source = written[0] / "toy_grey" / "1.0.0"
  target = tmp_path / "toy_grey" / "1.0.0"
  target.mkdir(parents=True)
  for file in source.iterdir():
    (target / file.name).write_bytes(file.read_bytes())
  info = json.loads((target / "dataset_info.json").read_text())
  info["fileFormat"] = "tfrecord"
  (target / "dataset_info.json").write_text(json.dumps(info))
  with pytest.raises(
    UserError, match=r"in the format 'tfrecord', which needs TensorFlow; .*file_format='array_record'"
  ):
    load("toy_grey", data_dir=tmp_path)


def test_unknown_names_get_near_matches():
  with pytest.raises(UserError, match=r"dataset='CIFAR-10': unknown; did you mean 'cifar10'"):
    load("CIFAR-10")
  with pytest.raises(UserError, match=r"dataset='digit': unknown; did you mean 'digits'"):
    load("digit")
  with pytest.raises(UserError, match=r"dataset='qqqqqq': unknown; embedded are digits, mnist5k"):
    load("qqqqqq")
  with pytest.raises(UserError, match=r"dataset='': is no path"):
    load("")


def test_no_network_is_one_line(monkeypatch, tmp_path):
  def no_address(*args, **kwargs):
    raise socket.gaierror("Name or service not known")

  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  monkeypatch.setattr(socket, "getaddrinfo", no_address)
  monkeypatch.setattr(tfds.urllib.request, "getproxies", dict)
  with pytest.raises(
    UserError, match=r"'mnist': TFDS could not get it \(ConnectionError: no network: .*\); give data_dir"
  ) as caught:
    load("mnist")
  assert "\n" not in str(caught.value)


def test_any_download_failure_is_one_line(monkeypatch):
  import tensorflow_datasets as lib

  def fails(*args, **kwargs):
    raise RuntimeError("checksum is wrong\nand many lines follow")

  monkeypatch.setattr(lib, "builder", fails)
  with pytest.raises(UserError, match=r"RuntimeError: checksum is wrong\); give data_dir") as caught:
    load("mnist")
  assert "\n" not in str(caught.value)


def test_features_other_than_one_image_and_one_label_are_refused():
  import tensorflow_datasets as lib

  image, label = lib.features.Image(shape=(2, 2, 3)), lib.features.ClassLabel(num_classes=2)
  features = lib.features.FeaturesDict
  assert tfds._features("a", features({"picture": image, "digit": label})) == ("picture", "digit", 3)
  assert tfds._features("a", features({"image": image, "label": label, "coarse_label": label})) == ("image", "label", 3)
  with pytest.raises(UserError, match=r"'a': has 0 ClassLabel features among \['image'\]"):
    tfds._features("a", features({"image": image}))
  with pytest.raises(UserError, match=r"'a': has 2 Image features among \['label', 'left', 'right'\]"):
    tfds._features("a", features({"left": image, "right": image, "label": label}))
  with pytest.raises(UserError, match=r"'a': images are .*uint16.* of shape \(2, 2, 1\)"):
    tfds._features("a", features({"image": lib.features.Image(shape=(2, 2, 1), dtype=np.uint16), "label": label}))


def test_a_set_of_one_split_is_used_in_parts(tmp_path):
  images = np.random.default_rng(1).integers(0, 256, (10, 4, 5, 3), dtype=np.uint8)
  _write("whole", tmp_path, images, test_split="train")
  with pytest.raises(UserError, match=r"neither a 'test' nor .*dataset='whole@train\[:80%\],train\[80%:\]'"):
    load("whole", data_dir=tmp_path)
  data = load("whole@train[:60%],train[60%:]", data_dir=tmp_path)
  np.testing.assert_array_equal(np.round(data.train_x * 255), images[:6])
  np.testing.assert_array_equal(np.round(data.test_x * 255), images[6:])
  for parts, message in (
    ("train[:60%],train[50%:]", "the parts share examples of 'train'"),
    ("train", "name two parts"),
    ("train[:60%],test", r"'test' is no part of \['train'\]"),
    ("train[:60%],train[6", "is no part of"),
  ):
    with pytest.raises(UserError, match=message):
      load(f"whole@{parts}", data_dir=tmp_path)


def test_a_data_dir_of_another_level(tmp_path):
  (tmp_path / "sets").mkdir()
  _write("whole", tmp_path / "sets", np.zeros((4, 4, 5, 3), np.uint8))
  for where in ("sets/whole", "sets/whole/1.0.0"):
    with pytest.raises(UserError, match=rf"is a level too deep for dataset='whole'; give data_dir='{tmp_path}/sets'"):
      load("whole", data_dir=tmp_path / where)
  with pytest.raises(UserError, match=rf"is a level too high for dataset='whole'; give data_dir='{tmp_path}/sets'"):
    load("whole", data_dir=tmp_path)


def test_a_set_without_training_split_is_refused(monkeypatch):
  builder = types.SimpleNamespace(info=types.SimpleNamespace(splits={"test": None}))
  monkeypatch.setattr(tfds, "_prepared_builder", lambda name, data_dir: builder)
  with pytest.raises(UserError, match=r"'x': has no split 'train' \(it has \['test'\]\)"):
    tfds.read("x", "anywhere")


@pytest.mark.network
@pytest.mark.skipif(
  not (SHARED / "cifar10").is_dir(), reason="CIFAR-10 in TFDS's format does not lie beside the repository"
)
def test_cifar10_without_tensorflow(monkeypatch):
  real = builtins.__import__

  def no_tensorflow(name, *args, **kwargs):
    if name == "tensorflow" or name.startswith("tensorflow."):
      raise ImportError(f"blocked: {name}")
    return real(name, *args, **kwargs)

  monkeypatch.setattr(builtins, "__import__", no_tensorflow)
  data = load("cifar10", data_dir=SHARED, train_size=200, test_size=103, seed=3)
  assert data.train_x.shape == (200, 32, 32, 3) and data.test_x.shape == (103, 32, 32, 3)
  assert data.train_x.dtype == np.float32 and 0 <= data.train_x.min() < data.train_x.max() <= 1
  np.testing.assert_array_equal(np.bincount(data.train_y), [20] * 10)
  np.testing.assert_array_equal(np.bincount(data.test_y), [11] * 3 + [10] * 7)
  assert 0.4 < data.train_x.mean() < 0.55  # CIFAR-10's published mean is 0.473
  # the record that train_ids names, decoded here
  import tensorflow_datasets as lib

  record = lib.builder("cifar10", data_dir=str(SHARED)).as_data_source(
    "train", decoders={"image": lib.decode.SkipDecoding()}
  )
  i = int(data.train_ids[7])
  with Image.open(io.BytesIO(record[i]["image"])) as image:
    np.testing.assert_array_equal(data.train_x[7], np.asarray(image, np.float32) / np.float32(255))
  assert record[i]["label"] == data.train_y[7]
  assert sources.names() == ("digits", "mnist5k")
