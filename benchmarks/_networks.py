"""The same ConvNet and the same augmentation written plainly in PyTorch, and what both sides must agree on."""

CLASSES = 10
OPERATORS = ("color", "crop", "cutout", "flip", "scale", "rotate")


def forward_flops(side: int, channels: int, width: int, depth: int, images: int) -> float:
  """Multiplications and additions of the convolutions and the head for one forward pass."""
  total = 0.0
  for _ in range(depth):
    total += 2 * side * side * 9 * channels * width
    side, channels = side // 2, width
  return images * (total + 2 * side * side * width * CLASSES)


def torch_convnet(side: int, channels: int, width: int, depth: int):
  """`(parameters, apply)` of ConvNet with instance norm and average pooling, parameters as a list of tensors."""
  import torch
  from torch.nn import functional as F

  parameters, size, entering = [], side, channels
  for _ in range(depth):
    parameters += [0.05 * torch.randn(width, entering, 3, 3), torch.zeros(width), torch.ones(width), torch.zeros(width)]
    size, entering = size // 2, width
  parameters += [0.05 * torch.randn(CLASSES, width * size * size), torch.zeros(CLASSES)]

  def apply(params, x):
    for layer in range(depth):
      kernel, bias, scale, shift = params[4 * layer : 4 * layer + 4]
      x = F.group_norm(F.conv2d(x, kernel, bias, padding=1), width, scale, shift)
      x = F.avg_pool2d(F.relu(x), 2)
    return F.linear(x.flatten(1), params[-2], params[-1])

  return parameters, apply


def torch_dsa(x, step: int):
  """One of DSA's operators, in turn, with fresh draws per image."""
  import torch
  from torch.nn import functional as F

  n, _, h, w = x.shape
  name = OPERATORS[step % len(OPERATORS)]
  if name == "color":
    x = x + (torch.rand(n, 1, 1, 1) - 0.5)
    mean = x.mean(1, keepdim=True)
    x = (x - mean) * (2 * torch.rand(n, 1, 1, 1)) + mean
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (torch.rand(n, 1, 1, 1) + 0.5) + mean
  if name == "flip":
    return torch.where(torch.rand(n, 1, 1, 1) < 0.5, x.flip(3), x)
  if name == "crop":
    most = int(h * 0.125 + 0.5)
    rows = torch.arange(h)[None, :] + torch.randint(0, 2 * most + 1, (n, 1))
    columns = torch.arange(w)[None, :] + torch.randint(0, 2 * most + 1, (n, 1))
    padded = F.pad(x, (most,) * 4)
    return padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None]].permute(
      0, 3, 1, 2
    )
  if name == "cutout":
    half = h // 4
    row, column = torch.randint(0, h, (n, 1, 1)), torch.randint(0, w, (n, 1, 1))
    inside = ((torch.arange(h)[None, :, None] - row).abs() < half) & (
      (torch.arange(w)[None, None] - column).abs() < half
    )
    return x * (~inside)[:, None]
  theta = torch.zeros(n, 2, 3)
  if name == "scale":
    theta[:, 0, 0], theta[:, 1, 1] = (torch.rand(n) * (1.2 - 1 / 1.2) + 1 / 1.2 for _ in range(2))
  else:
    angle = (torch.rand(n) - 0.5) * 2 * 15 / 180 * torch.pi
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos()
    theta[:, 0, 1], theta[:, 1, 0] = -angle.sin(), angle.sin()
  return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


def jax_dsa():
  """The same operators, each in its turn: the augmentation, and what changes drawn records to that order."""
  import jax.numpy as jnp

  from jdistill.augment import dsa

  augment = dsa("_".join(OPERATORS))

  def in_turn(records):
    return records._replace(op=jnp.arange(records.op.shape[0], dtype=jnp.int32) % len(OPERATORS))

  return augment, in_turn
