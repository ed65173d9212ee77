"""The card of a distilled set: what it says, and that its code runs."""

import subprocess
import sys

import numpy as np
import pytest
from distilled_sets import small_set

from jdistill import export
from jdistill.data import preprocess


def test_card_golden(tmp_path):
  digest = export.save(tmp_path, small_set())
  text = (tmp_path / "README.md").read_text()
  for line in (
    "# Distilled set: digits",
    "6 synthetic images of 4 x 4 x 1, made to train a network from scratch in place of the whole data set.",
    "- **Train with their label logits as soft targets and start from the learned rate** 0.1: images, labels and rate"
    " were learned together, and each is worth less alone.",
    'distilled = jdistill.load(".")',
    "0 zero, 1 eins ü, 2 two",
  ):
    assert line in text.splitlines()
  table = {
    row.split(" | ")[0].strip("| "): row.split(" | ", 1)[1].rstrip(" |") for row in text.splitlines() if row[:1] == "|"
  }
  assert table["sha256"] == digest and table["config.ipc"] == "2" and table["epochs"] == "300"
  assert table["config.stages"] == '["experts", "distill"]' and table["config.note"] == "a \\| b"
  assert "preprocessed space** (`standardize`)" in text
  assert str(tmp_path) not in text
  export.save(tmp_path, small_set(soft=False, kind="none"))
  text = (tmp_path / "README.md").read_text()
  assert "**The images are plain pixels**" in text and "- `labels` are integer classes." in text
  assert "preprocessed space" not in text and "logits" not in text
  export.save(tmp_path, small_set()._replace(protocol={"loss": "mse"}))
  text = (tmp_path / "README.md").read_text()
  assert "**Train with the squared error of a network's outputs to their labels and start" in text
  assert "- `labels` are regression targets, one row per image" in text and "softmax" not in text


@pytest.mark.parametrize("kind", ["none", "standardize", "channel", "zca"])
def test_the_numpy_code_of_the_card_gives_the_pixels_back(tmp_path, kind):
  rng = np.random.default_rng(1)
  pixels = rng.random((6, 2, 3, 3), np.float32)
  distilled = small_set(kind=kind, shape=(2, 3, 3))
  images = preprocess.transform(preprocess.from_arrays(distilled.preprocessing), pixels)
  export.save(tmp_path, distilled._replace(images=images))
  code = (tmp_path / "README.md").read_text().split("```python\n")[2].split("```")[0]
  (tmp_path / "show.py").write_text(
    code + 'np.save("pixels.npy", pixels)\nassert "jdistill" not in __import__("sys").modules\n'
  )
  subprocess.run([sys.executable, "show.py"], cwd=tmp_path, check=True)
  np.testing.assert_allclose(np.load(tmp_path / "pixels.npy"), pixels, atol=1e-5)


def test_every_kind_of_preprocessing_has_a_card(tmp_path):
  x = np.random.default_rng(0).random((40, 2, 2, 3), np.float32)
  for kind in preprocess.KINDS:
    fitted = preprocess.fit(kind, x)
    images = np.asarray(preprocess.transform(fitted, x))
    distilled = export.DistilledSet(images, np.zeros(40, np.int32), 0.1, preprocess.to_arrays(fitted), (), {}, {})
    export.save(tmp_path / kind, distilled)
    assert kind == "none" or f"(`{kind}`)" in (tmp_path / kind / "README.md").read_text()
