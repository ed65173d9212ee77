"""Materialised sets against a plain loop, and sets with compensators as files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdistill
from jdistill import export
from jdistill.base import UserError
from jdistill.data import preprocess
from jdistill.files import read_npz, write_npz
from jdistill.synthetic import SyntheticSet, compensated, materialise, to_arrays

RNG = np.random.default_rng(0)
BASES = RNG.uniform(-0.9, 0.9, size=(4, 3, 2, 2, 1)).astype(np.float32)  # four slices of three classes
ADDED = RNG.normal(size=(4, 2, 2, 2, 1)).astype(np.float32)
ENDS = (np.float32([-1.0]), np.float32([1.0]))
IMAGES, LABELS = BASES.swapaxes(0, 1).reshape(12, 2, 2, 1), np.repeat(np.arange(3, dtype=np.int32), 4)
PROTOCOL = {"epochs": 1, "batch_size": 4, "momentum": 0.9, "weight_decay": 0.0, "augment": "none", "model": {}}


def by_hand(ends):
  out = []
  for c in range(3):
    for k in range(4):
      out.append(BASES[k, c])
      for m in range(2):
        total = BASES[k, c] + ADDED[k, m]
        out.append(total if ends is None else np.minimum(np.maximum(total, ends[0]), ends[1]))
  return np.stack(out)


@pytest.mark.parametrize("ends", [None, ENDS])
def test_materialise(ends):
  for function in (materialise, jax.jit(materialise)):
    np.testing.assert_allclose(function(BASES, ADDED, ends), by_hand(ends), rtol=1e-6)


def test_sums_alone_are_clipped():
  found = np.asarray(materialise(2 * BASES, ADDED, ENDS)).reshape(3, 4, 3, 2, 2, 1)
  assert np.abs(found[:, :, 0]).max() > 1 and np.abs(found[:, :, 1:]).max() == 1


def test_a_set_with_compensators_and_without():
  stored = SyntheticSet(IMAGES, LABELS, np.float32(0.1), ADDED)
  made = compensated(stored, ENDS)
  np.testing.assert_allclose(made.images, by_hand(ENDS), rtol=1e-6)
  np.testing.assert_array_equal(made.labels, np.repeat(np.arange(3), 12))
  assert made.compensators == () and compensated(made).images is made.images
  assert compensated(made._replace(compensators=np.zeros(0))).compensators == ()
  assert compensated(stored._replace(labels=np.eye(3, dtype=np.float32)[LABELS])).labels.shape == (36, 3)


def test_arrays_of_a_set(tmp_path):
  for more, names in (((), {"images", "labels", "lr"}), (ADDED, {"images", "labels", "lr", "compensators"})):
    own = to_arrays(SyntheticSet(IMAGES, LABELS, np.float32(0.1), more))
    write_npz(tmp_path / "set.npz", own)
    again = SyntheticSet(**read_npz(tmp_path / "set.npz"))
    assert own.keys() == names and np.array_equal(again.compensators, more)


def test_mistakes():
  for bases, added in ((BASES[0], ADDED), (BASES, ADDED[:3]), (BASES, ADDED[:, :, :1])):
    with pytest.raises(ValueError, match=r"materialise: base images .* and compensators"):
      materialise(jnp.asarray(bases), jnp.asarray(added))
  with pytest.raises(ValueError, match="11 images are not the same number for each of 4 slices"):
    compensated(SyntheticSet(IMAGES[:11], LABELS[:11], np.float32(0.1), ADDED))


def distilled(**changes):
  pixels = preprocess.fit("channel", RNG.uniform(size=(20, 2, 2, 1)).astype(np.float32))
  one = export.DistilledSet(
    IMAGES, LABELS, 0.1, preprocess.to_arrays(pixels), ("a", "b", "c"), PROTOCOL, {}, compensators=ADDED
  )
  return one._replace(**changes)


def test_the_file_keeps_base_images_and_compensators_apart(tmp_path):
  own = distilled()
  digest = export.save(tmp_path / "set", own)
  arrays = read_npz(tmp_path / "set" / export.ARRAYS)
  assert arrays["images"].shape == (12, 2, 2, 1) and arrays["compensators"].shape == (4, 2, 2, 2, 1)
  assert digest != export.artefact_sha256(own.images, own.labels, 0.1)
  ends = preprocess.pixel_range(preprocess.from_arrays(own.preprocessing), (2, 2, 1))
  opened = jdistill.load(tmp_path / "set")
  np.testing.assert_allclose(opened.images, np.asarray(materialise(BASES, ADDED, ends)), rtol=1e-6)
  np.testing.assert_array_equal(opened.labels, np.repeat(np.arange(3), 12))
  assert opened.pixels.shape == (36, 2, 2, 1)
  text = (tmp_path / "set" / "README.md").read_text()
  assert "Networks are trained on 36 images" in text and "`images[c * 4 + k] + compensators[k, m]`" in text


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"compensators": ADDED[0]}, r"compensators are float32 \(2, 2, 2, 1\): they must be"),
    ({"compensators": ADDED.astype(np.float64)}, "compensators are float64"),
    ({"compensators": np.concatenate([ADDED, ADDED[:1]])}, "12 images do not lie in 5 slices"),
    ({"compensators": np.full_like(ADDED, np.nan)}, "compensators hold values that are not finite"),
  ],
)
def test_a_file_that_does_not_fit(tmp_path, changes, message):
  with pytest.raises(UserError, match=message):
    export.save(tmp_path / "set", distilled(**changes))


def test_whitened_pixels_have_no_range():
  fitted = preprocess.fit("zca", RNG.uniform(size=(20, 2, 2, 1)).astype(np.float32))
  with pytest.raises(UserError, match="preprocessing='zca'"):
    preprocess.pixel_range(fitted, (2, 2, 1))
