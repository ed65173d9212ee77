"""The distilled set on disk: round trips, the same bytes, damage and foreign files."""

import errno
import hashlib
import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
from distilled_sets import small_set
from PIL import Image

from jdistill import export, files
from jdistill.base import UserError
from jdistill.export import artefact


def _same(a, b):
  assert a.images.dtype == b.images.dtype and a.labels.dtype == b.labels.dtype
  np.testing.assert_array_equal(a.images, b.images)
  np.testing.assert_array_equal(a.labels, b.labels)
  assert a.learned_lr == b.learned_lr and a.class_names == b.class_names
  assert set(a.preprocessing) == set(b.preprocessing)
  for name, array in a.preprocessing.items():
    np.testing.assert_array_equal(array, b.preprocessing[name])


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("kind", ["none", "standardize", "channel", "zca"])
def test_round_trip(tmp_path, soft, kind):
  original = small_set(soft, kind, (2, 3, 3))
  digest = export.save(tmp_path / "set", original)
  for path in (tmp_path / "set", tmp_path / "set" / "distilled.npz", str(tmp_path / "set")):
    loaded = export.load(path)
    _same(loaded, original)
    assert loaded.protocol == {"epochs": 300, "augment": None}
    assert loaded.provenance["config"] == {"ipc": 2, "stages": ["experts", "distill"], "note": "a | b"}
    assert loaded.provenance["accuracy"] == "nan"
  assert digest == export.artefact_sha256(loaded.images, loaded.labels, loaded.learned_lr)
  assert sorted(os.listdir(tmp_path / "set")) == ["README.md", "checksums.json", "distilled.npz"]


def test_takes_jax_arrays_and_gives_numpy(tmp_path):
  original = small_set()
  moved = original._replace(
    images=jnp.asarray(original.images), labels=jnp.asarray(original.labels), learned_lr=jnp.float32(0.1)
  )
  assert export.save(tmp_path, moved) == export.artefact_sha256(original.images, original.labels, 0.1)
  assert type(export.load(tmp_path).images) is np.ndarray


def test_the_same_set_gives_the_same_bytes(tmp_path):
  for name in ("a", "b"):
    export.save(tmp_path / name, small_set(), pixels=np.full((6, 4, 4, 1), 0.5, np.float32))
  for name in os.listdir(tmp_path / "a"):
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_sha256_by_hand():
  images, labels = np.zeros((1, 1, 1, 1), np.float32), np.array([3], np.int32)
  digest = hashlib.sha256()
  for header, data in (
    (b'["images", "float32", [1, 1, 1, 1]]', images.tobytes()),
    (b'["labels", "int32", [1]]', labels.tobytes()),
    (b'["learned_lr", "float32", []]', np.float32(0.1).tobytes()),
  ):
    digest.update(len(header).to_bytes(8, "little") + header + data)
  assert export.artefact_sha256(images, labels, 0.1) == digest.hexdigest()
  assert export.artefact_sha256(images, labels, float(np.float32(0.1))) == digest.hexdigest()
  assert export.artefact_sha256(images, labels, 0.2) != digest.hexdigest()


def test_nothing_is_pickled(tmp_path):
  export.save(tmp_path, small_set())
  with np.load(tmp_path / "distilled.npz", allow_pickle=False) as archive:
    assert {archive[name].dtype.kind for name in archive.files} <= set("fiU")
    assert json.loads(str(archive["provenance"]))["method"] == "datm"
    assert sorted(archive.files) == sorted(
      ["class_names", "format_version", "images", "labels", "learned_lr", "protocol", "provenance"]
      + [f"preprocessing/{name}" for name in ("inverse", "kind", "mean", "scale", "vectors")]
    )


def test_pixels_become_a_grid_of_one_class_per_row(tmp_path):
  pixels = np.broadcast_to(np.linspace(0, 1, 6, dtype=np.float32).reshape(6, 1, 1, 1), (6, 4, 4, 1))
  export.save(tmp_path, small_set(), pixels=pixels)
  with Image.open(tmp_path / "images.png") as image:
    shown = np.asarray(image)
  assert shown.shape == (3 * 65 + 1, 2 * 65 + 1)
  np.testing.assert_array_equal(shown[32::65, 32::65], [[0, 51], [102, 153], [204, 255]])
  assert "images.png" in files.verify_checksums(tmp_path) and "](images.png)" in (tmp_path / "README.md").read_text()
  export.save(tmp_path, small_set())  # a picture of an earlier set must not stay
  assert not (tmp_path / "images.png").exists() and "images.png" not in (tmp_path / "README.md").read_text()
  files.verify_checksums(tmp_path)


def test_pictures_of_large_sets_show_every_class(tmp_path, monkeypatch):
  monkeypatch.setattr(artefact, "_MOST_SHOWN", 3)
  pixels = np.broadcast_to(np.linspace(0, 1, 6, dtype=np.float32).reshape(6, 1, 1, 1), (6, 4, 4, 1))
  export.save(tmp_path, small_set(), pixels=pixels)
  with Image.open(tmp_path / "images.png") as image:
    shown = np.asarray(image)[32, 32::65]
  np.testing.assert_array_equal(shown[:4], [0, 102, 204, 255])  # images 0, 2 and 4, then the background


def test_pixels_of_another_shape_write_nothing(tmp_path):
  with pytest.raises(UserError, match=r"pixels have shape \(5, 4, 4, 1\) and images \(6, 4, 4, 1\)"):
    export.save(tmp_path / "x", small_set(), pixels=np.zeros((5, 4, 4, 1), np.float32))
  assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("at", [0.1, 0.5, 0.95])
def test_flipped_bits_are_named(tmp_path, at):
  export.save(tmp_path, small_set())
  path = tmp_path / "distilled.npz"
  data = bytearray(path.read_bytes())
  data[int(at * len(data))] ^= 1
  path.write_bytes(bytes(data))
  for given in (tmp_path, path):
    with pytest.raises(UserError, match=r"distilled\.npz is damaged or was edited"):
      export.load(given)


def test_a_single_archive_travels(tmp_path):
  export.save(tmp_path / "set", small_set())
  (tmp_path / "mine.npz").write_bytes((tmp_path / "set" / "distilled.npz").read_bytes())
  _same(export.load(tmp_path / "mine.npz"), small_set())
  (tmp_path / "mine.npz").write_bytes((tmp_path / "set" / "distilled.npz").read_bytes()[:-40])
  with pytest.raises(UserError, match=r"mine\.npz is no distilled set, or is damaged"):
    export.load(tmp_path / "mine.npz")


def test_an_edited_card_does_not_matter(tmp_path):
  export.save(tmp_path, small_set())
  (tmp_path / "README.md").write_text("my notes")
  _same(export.load(tmp_path), small_set())


def test_an_interrupted_save_is_refused(tmp_path, monkeypatch):
  def full(*_):
    raise UserError("no space left")

  monkeypatch.setattr(artefact, "write_text", full)
  with pytest.raises(UserError, match="no space"):
    export.save(tmp_path, small_set())
  with pytest.raises(UserError, match=r"has no checksums\.json, so it was never finished"):
    export.load(tmp_path)
  monkeypatch.undo()
  export.save(tmp_path, small_set())
  monkeypatch.setattr(artefact, "write_text", full)
  with pytest.raises(UserError, match="no space"):
    export.save(tmp_path, small_set()._replace(learned_lr=0.2))
  with pytest.raises(UserError, match="checksum differs"):
    export.load(tmp_path)


def test_a_full_disk_keeps_the_earlier_set(tmp_path, monkeypatch):
  export.save(tmp_path, small_set())

  def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "replace", full)
  with pytest.raises(UserError, match=r"distilled\.npz: no space left: about .* needed"):
    export.save(tmp_path, small_set()._replace(learned_lr=0.2))
  _same(export.load(tmp_path), small_set())


def test_foreign_files(tmp_path):
  with pytest.raises(UserError, match="does not exist"):
    export.load(tmp_path / "none")
  with pytest.raises(UserError, match=r"holds no distilled\.npz"):
    export.load(tmp_path)
  np.savez(tmp_path / "other.npz", images=np.zeros(3))
  with pytest.raises(
    UserError, match=r"other\.npz is not a distilled set: it has no format_version, labels, learned_lr"
  ):
    export.load(tmp_path / "other.npz")
  (tmp_path / "text.npz").write_text("hello")
  with pytest.raises(UserError, match=r"text\.npz is no distilled set, or is damaged"):
    export.load(tmp_path / "text.npz")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"format_version": np.int32(3)}, "has format_version 3 and this jdistill reads 2: update jdistill"),
    ({"format_version": np.zeros(2, np.int32)}, "has format_version"),
    ({"learned_lr": np.zeros(2)}, "learned_lr or class_names have a wrong shape"),
    ({"learned_lr": np.array("0.1")}, "learned_lr or class_names have a wrong shape"),
    ({"protocol": np.array("{")}, "protocol is not JSON"),
    ({"provenance": np.array("[]")}, "provenance is not a mapping"),
    ({"labels": np.zeros((6, 4), np.float32)}, "labels have 4 classes and class_names 3"),
    ({"preprocessing/kind": np.array("pca")}, "preprocessing='pca': unknown"),
  ],
)
def test_archives_with_one_wrong_part(tmp_path, changes, message):
  export.save(tmp_path, small_set())
  files.write_npz(tmp_path / "x.npz", {**files.read_npz(tmp_path / "distilled.npz"), **changes})
  with pytest.raises(UserError, match=rf"x\.npz.*{message}"):
    export.load(tmp_path / "x.npz")


def _without(name):
  return {key: value for key, value in small_set().preprocessing.items() if key != name}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"images": np.zeros((6, 4, 4), np.float32)}, r"images are float32 \(6, 4, 4\)"),
    ({"images": np.zeros((6, 4, 4, 1))}, "images are float64"),
    ({"labels": np.zeros((6, 3))}, "labels are float64"),
    ({"labels": np.zeros(6, np.int64)}, "labels are int64"),
    ({"labels": np.zeros((5, 3), np.float32)}, "6 images have 5 labels"),
    ({"labels": np.full(6, 3, np.int32)}, "labels run from 3 to 3 for 3 class_names"),
    ({"labels": np.full(6, -1, np.int32), "class_names": ()}, "labels run from -1 to -1"),
    ({"labels": np.full((6, 3), np.inf, np.float32)}, "labels holds 18 values that are not finite"),
    ({"images": np.full((6, 4, 4, 1), np.nan, np.float32)}, "images holds 96 values that are not finite"),
    ({"learned_lr": float("nan")}, "learned_lr holds 1 values that are not finite"),
    ({"preprocessing": {}}, "the stored arrays miss kind, mean, scale, inverse, vectors"),
    ({"preprocessing": _without("inverse")}, "the stored arrays miss inverse"),
    (
      {"preprocessing": small_set(kind="zca", shape=(2, 2, 1)).preprocessing},
      r"images of shape \(4, 4, 1\) have 16 values, but it was fitted on 4",
    ),
    ({"protocol": {"f": object()}}, "cannot be stored as JSON"),
  ],
)
def test_sets_that_do_not_fit_together_are_not_written(tmp_path, changes, message):
  with pytest.raises(UserError, match=message):
    export.save(tmp_path / "x", small_set()._replace(**changes))
  assert not (tmp_path / "x").exists()


def test_class_names_may_be_absent(tmp_path):
  export.save(tmp_path, small_set()._replace(class_names=()))
  assert export.load(tmp_path).class_names == ()
  assert "## Classes" not in (tmp_path / "README.md").read_text()
