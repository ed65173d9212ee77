"""Barlow Twins: Self-Supervised Learning via Redundancy Reduction (arXiv 2103.03230, ICML 2021).

python -m jdistill.run --config=experiments/barlow_twins.py                              digits, 50 labels; two minutes
python -m jdistill.run --config=experiments/barlow_twins.py:tiny

A network learns from two views of images without labels; a linear probe on its features, fitted to the labelled few, is
what counts. `untrained` is the same probe on the network at its initialisation, `ce` trains on the labelled few alone.
The method is also a way to make teachers for others: `--config.teacher_method.name=barlow_twins`. Published (ResNet-50,
ImageNet, 1,000 epochs): 73.2 % top-1 by a linear probe.
"""

from . import common_knowledge as common


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits` or `tiny`."""
  own = {"name": "barlow_twins", "features": 256, "crop_scale": 0.4, "flip_images": False, "operators": "rotate_scale"}
  config = common.without_labels("barlow_twins", own, preset)
  if preset == "tiny":
    config.student, config.method.features = common.network("mlp", widths=(16,)), 8
    return config
  config.student = common.network("convnet_bn", width=32, depth=2)
  config.train = common.schedule(epochs=60, batch_size=128, lr=0.003)
  return config
