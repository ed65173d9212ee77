"""Networks with trained weights from files of PyTorch's libraries, ready for use."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from jdistill import models
from jdistill.base import UserError
from jdistill.data import checks
from jdistill.data.resize import resized
from jdistill.evaluation import Pretrained
from jdistill.files import read_npz, read_safetensors, read_torch, user_path
from jdistill.schema import near_matches

# what pixels in [0, 1] become: mean and deviation of each channel
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PREPROCESSING = {"imagenet": _IMAGENET, "half": ((0.5,) * 3, (0.5,) * 3), "none": ((0.0,) * 3, (1.0,) * 3)}
_READERS = {
  ".safetensors": read_safetensors,
  ".npz": read_npz,
  ".pth": read_torch,
  ".pt": read_torch,
  ".bin": read_torch,
}


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Arrays by name of a `.safetensors`, `.npz`, `.pth`, `.pt` or `.bin` file; nothing in it is run.

  Raises:
    UserError: another ending, or a file that is missing, damaged, or holds anything but tensors.
  """
  path = user_path(path, "weights")
  reader = _READERS.get(path.suffix.lower())
  if reader is None:
    raise UserError(f"{path}: its ending {path.suffix!r} is unknown; give one of {', '.join(_READERS)}")
  return reader(path)


def load(
  path: str | os.PathLike,
  name: str,
  *,
  image_shape: tuple[int, int, int] = (224, 224, 3),
  num_classes: int = 1000,
  head: bool = True,
  preprocess: str = "imagenet",
  **options: Any,
) -> Pretrained:
  """A network of the zoo with the weights of a file.

  Args:
    path: `.safetensors`, or a file of `torch.save`, in the names of torchvision or timm (EfficientNet-PyTorch for
      `efficientnet_lite0`).
    name: `"resnet18_imagenet"`, `"resnet50_imagenet"`, `"vit_s16"`, `"vit_b16"` or `"efficientnet_lite0"`.
    image_shape: `(height, width, channels)` of the images that it sees. A transformer's must be those of its training,
      as its positions are.
    num_classes: of its head.
    head: whether the file's head is read; that of the result is zero otherwise, for features alone.
    preprocess: what it was trained with: `"imagenet"` (torchvision, timm's ResNets), `"half"` (pixels from -1 to 1:
      timm's transformers, EfficientNet-Lite) or `"none"` (from 0 to 1).
    **options: of the network.

  Returns:
    `Pretrained`, whose `preprocess` takes pixels of any size to the network's input space.

  Raises:
    UserError: an unknown name or preprocessing, or a file that is damaged or does not fit the network.
  """
  if preprocess not in PREPROCESSING:
    raise UserError(f"preprocess={preprocess!r}: unknown{near_matches(preprocess, PREPROCESSING)}")
  network = models.build(name, num_classes=num_classes, image_shape=image_shape, **options)
  variables = models.from_torch(network, read_weights(path), source=str(path), head=head)
  return Pretrained(network, variables, _preprocess(preprocess, image_shape))


def _preprocess(kind: str, shape: tuple[int, int, int]) -> Callable[[np.ndarray], np.ndarray]:
  mean, deviation = (np.float32(values) for values in PREPROCESSING[kind])

  def apply(x: np.ndarray) -> np.ndarray:
    return (resized(checks.checked_pixels(x, "images"), shape) - mean) / deviation

  return apply
