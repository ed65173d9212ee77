"""MAE: Masked Autoencoders Are Scalable Vision Learners (arXiv 2111.06377, CVPR 2022).

python -m jdistill.run --config=experiments/mae.py                                       digits, 50 labels
python -m jdistill.run --config=experiments/mae.py:tiny

A transformer sees a part of an image's patches and gives the pixels of the others, without labels; a linear probe on
its features, fitted to the labelled few, is what counts. `untrained` is the same probe on the network at its
initialisation, `ce` trains on the labelled few alone. The same training makes networks that fill images for others, as
in `experiments/dq.py`: a network of the committee with `teacher/name=mae` and `teacher_method/name=mae`. Published
(ViT-L, ImageNet, 1,600 epochs): 75.8 % top-1 by a linear probe, 85.9 % after fine-tuning.
"""

from . import common_knowledge as common

DIGITS = {"patch": 2, "dim": 32, "depth": 2, "heads": 4, "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 4}
TINY = {"patch": 4, "dim": 8, "depth": 1, "heads": 2, "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2}


def presets() -> list[str]:
  """The names after the colon."""
  return ["digits", "tiny"]


def get_config(preset: str = "digits") -> common.ConfigDict:
  """The experiment; `preset` is `digits` or `tiny`."""
  config = common.without_labels("mae", {"name": "mae", "mask_side": 2}, preset)
  if preset == "tiny":
    config.student, config.method.mask_side = common.network("mae", **TINY), 4
    return config
  config.student = common.network("mae", **DIGITS)
  config.train = common.schedule(epochs=200, batch_size=128, optimizer="adamw", lr=0.003, weight_decay=0.01)
  return config
