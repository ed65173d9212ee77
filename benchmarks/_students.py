"""Distillation of a CIFAR ResNet-56 to a ResNet-20 written plainly in PyTorch, and what both sides start from."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

CLASSES, SIDE, CHANNELS = 100, 32, 3
BATCH, STEPS = 64, 8
TEMPERATURE, CE_WEIGHT, KD_WEIGHT = 4.0, 0.1, 0.9
LR, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4
STUDENT, TEACHER = 20, 56
CHECKS = 5


def data(examples: int = BATCH * STEPS) -> tuple[np.ndarray, np.ndarray]:
  """Random images `[n, side, side, channels]` and labels."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(examples, SIDE, SIDE, CHANNELS)).astype(np.float32)
  return x, rng.integers(0, CLASSES, examples).astype(np.int32)


def check_batches() -> list[np.ndarray]:
  """Positions of a few batches to compare both sides on: four different images, each sixteen times.

  A ReLU whose input is zero but for rounding may pass on one side alone, which changes gradients by some 1e-3. That
  is rare among so few images and does not happen in most batches.
  """
  few = BATCH // 16
  return [np.repeat(np.arange(few) + few * n, 16) for n in range(CHECKS)]


def torch_resnet(depth: int):
  """The CIFAR network as a module."""
  return torch_residual(((depth - 2) // 6,) * 3, 16, CLASSES)


def torch_residual(blocks: Sequence[int], width: int, classes: int):
  """A residual network of basic blocks as a module; its layers have the names of ours, with a dot for the slash.

  Args:
    blocks: of every stage, whose filters are `width`, `2 width`, ...
    width: filters of the stem and the first stage.
    classes: length of the logits.
  """
  import torch
  from torch import nn
  from torch.nn import functional as F

  class Residual(nn.Module):
    def __init__(self):
      super().__init__()
      self.stem_conv, self.stem_norm = nn.Conv2d(CHANNELS, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
      self.blocks, entering = [], width
      for stage, count in enumerate(blocks):
        filters = width * 2**stage
        for block in range(count):
          prefix, stride = f"stage{stage}_block{block}_", 2 if stage > 0 and block == 0 else 1
          self._add(f"{prefix}{{}}0", entering, filters, 3, stride)
          self._add(f"{prefix}{{}}1", filters, filters, 3, 1)
          if stride != 1 or entering != filters:
            self._add(f"{prefix}{{}}_shortcut", entering, filters, 1, stride)
          self.blocks.append(prefix)
          entering = filters
      self.head = nn.Linear(entering, classes)

    def _add(self, name, entering, filters, size, stride):
      conv = nn.Conv2d(entering, filters, size, stride, padding=size // 2, bias=False)
      setattr(self, name.format("conv"), conv)
      setattr(self, name.format("norm"), nn.BatchNorm2d(filters))

    def _layer(self, x, prefix, index):
      return getattr(self, f"{prefix}norm{index}")(getattr(self, f"{prefix}conv{index}")(x))

    def forward(self, x):
      x = F.relu(self.stem_norm(self.stem_conv(x)))
      for prefix in self.blocks:
        y = F.relu(self._layer(x, prefix, "0"))
        y = self._layer(y, prefix, "1")
        if hasattr(self, f"{prefix}conv_shortcut"):
          x = self._layer(x, prefix, "_shortcut")
        x = F.relu(x + y)
      return self.head(x.mean((2, 3)))

  torch.manual_seed(0)
  return Residual()


_TORCH_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def to_torch(variables) -> dict[str, np.ndarray]:
  """Our `Variables` under PyTorch's names and in its layouts."""
  out = {}
  for tree in variables:
    for layer, leaves in tree.items():
      for name, value in leaves.items():
        value = np.asarray(value)
        if name == "kernel":
          value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        out[f"{layer}.{_TORCH_NAMES[name]}"] = np.ascontiguousarray(value)
  return out


def load(path: Path, prefix: str) -> dict[str, np.ndarray]:
  """The arrays of one file whose names start with `prefix/`."""
  with np.load(path) as found:
    return {name.removeprefix(f"{prefix}/"): found[name] for name in found.files if name.startswith(f"{prefix}/")}


def disagreement(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
  """Greatest difference of two sets of arrays, each array's in units of its greatest entry."""
  if set(ours) != set(theirs):
    raise SystemExit(f"student_step: only one side has {sorted(set(ours) ^ set(theirs))}")
  return max(float(np.abs(ours[n] - theirs[n]).max() / max(np.abs(theirs[n]).max(), 1e-12)) for n in ours)
