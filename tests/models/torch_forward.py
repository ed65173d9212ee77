"""Forward passes of torchvision's, timm's and EfficientNet-PyTorch's networks in NumPy, by their own names of arrays.

Images are `[n, channels, height, width]` as there. Nothing here is taken from the package.
"""

import math

import numpy as np


def conv(x, kernel, stride=1, pads=((0, 0), (0, 0)), depthwise=False):
  x = np.pad(x, ((0, 0), (0, 0), *pads))
  size = kernel.shape[2:]
  windows = np.lib.stride_tricks.sliding_window_view(x, size, (2, 3))[:, :, ::stride, ::stride]  # [n, c, h, w, kh, kw]
  if depthwise:
    return np.einsum("nchwij,cij->nchw", windows, kernel[:, 0])
  return np.einsum("nchwij,ocij->nohw", windows, kernel, optimize=True)


def norm(x, w, name, eps):
  scale, bias, mean, var = (
    w[f"{name}.{leaf}"][:, None, None] for leaf in ("weight", "bias", "running_mean", "running_var")
  )
  return (x - mean) / np.sqrt(var + eps) * scale + bias


def resnet(w, x, bottleneck):
  """torchvision's ResNet: `(embedding, logits)`."""

  def layer(x, conv_name, norm_name, stride=1):
    kernel = w[f"{conv_name}.weight"]
    pad = (kernel.shape[2] // 2,) * 2
    return norm(conv(x, kernel, stride, (pad, pad)), w, norm_name, 1e-5)

  x = np.maximum(layer(x, "conv1", "bn1", 2), 0)
  x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
  x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2].max((4, 5))
  for stage in range(1, 5):
    block = 0
    while f"layer{stage}.{block}.conv1.weight" in w:
      name, stride, y = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1, x
      strides = (1, stride, 1) if bottleneck else (stride, 1)
      for i, step in enumerate(strides, 1):
        y = layer(y, f"{name}.conv{i}", f"{name}.bn{i}", step)
        y = np.maximum(y, 0) if i < len(strides) else y
      if f"{name}.downsample.0.weight" in w:
        x = layer(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
      x, block = np.maximum(x + y, 0), block + 1
  embedding = x.mean((2, 3))
  return embedding, embedding @ w["fc.weight"].T + w["fc.bias"]


def _layer_norm(x, w, name):
  mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  return (x - mean) / np.sqrt(var + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]


_ERF = np.vectorize(math.erf)


def vit(w, x, patch, heads):
  """timm's VisionTransformer: `(embedding, logits)`."""
  n = len(x)
  x = conv(x, w["patch_embed.proj.weight"], patch) + w["patch_embed.proj.bias"][:, None, None]
  x = x.reshape(n, x.shape[1], -1).transpose(0, 2, 1)
  x = np.concatenate([np.repeat(w["cls_token"], n, 0), x], 1) + w["pos_embed"]
  block = 0
  while f"blocks.{block}.norm1.weight" in w:
    name = f"blocks.{block}"
    y = _layer_norm(x, w, f"{name}.norm1") @ w[f"{name}.attn.qkv.weight"].T + w[f"{name}.attn.qkv.bias"]
    q, k, v = np.moveaxis(y.reshape(n, y.shape[1], 3, heads, -1), (2, 3), (0, 2))  # [n, heads, tokens, d] each
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (scores / scores.sum(-1, keepdims=True)) @ v
    mixed = mixed.transpose(0, 2, 1, 3).reshape(x.shape)
    x = x + mixed @ w[f"{name}.attn.proj.weight"].T + w[f"{name}.attn.proj.bias"]
    y = _layer_norm(x, w, f"{name}.norm2") @ w[f"{name}.mlp.fc1.weight"].T + w[f"{name}.mlp.fc1.bias"]
    y = y * (1 + _ERF(y / np.sqrt(2))) / 2
    x, block = x + y @ w[f"{name}.mlp.fc2.weight"].T + w[f"{name}.mlp.fc2.bias"], block + 1
  embedding = _layer_norm(x, w, "norm")[:, 0]
  return embedding, embedding @ w["head.weight"].T + w["head.bias"]


_TORCHVISION = {
  "patch_embed.proj": "conv_proj", "cls_token": "class_token", "pos_embed": "encoder.pos_embedding",
  "norm": "encoder.ln", "head": "heads.head", "norm1": "ln_1", "norm2": "ln_2", "attn.qkv": "self_attention.in_proj",
  "attn.proj": "self_attention.out_proj", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.3",
}  # fmt: skip


def as_torchvision(name):
  """timm's name of an array of a ViT as torchvision calls it."""
  if name in ("cls_token", "pos_embed"):
    return _TORCHVISION[name]
  layer, _, leaf = name.rpartition(".")
  front = ""
  if layer.startswith("blocks."):
    _, block, layer = layer.split(".", 2)
    front = f"encoder.layers.encoder_layer_{block}."
  joint = "_" if layer == "attn.qkv" else "."
  return f"{front}{_TORCHVISION[layer]}{joint}{leaf}"


def efficientnet_lite(w, x):
  """EfficientNet-PyTorch's Lite0, strides and sides of kernels read off the published table: `(embedding, logits)`."""
  strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]

  def layer(x, conv_name, norm_name, stride=1, depthwise=False, linear=False):
    kernel = w[f"{conv_name}.weight"]
    totals = [
      max((-(-side // stride) - 1) * stride + k - side, 0)
      for side, k in zip(x.shape[2:], kernel.shape[2:], strict=True)
    ]
    x = conv(x, kernel, stride, [(total // 2, total - total // 2) for total in totals], depthwise)
    x = norm(x, w, norm_name, 1e-3)
    return x if linear else np.clip(x, 0, 6)

  x = layer(x, "_conv_stem", "_bn0", 2)
  for i, stride in enumerate(strides):
    name, y = f"_blocks.{i}", x
    if f"{name}._expand_conv.weight" in w:
      y = layer(y, f"{name}._expand_conv", f"{name}._bn0")
    y = layer(y, f"{name}._depthwise_conv", f"{name}._bn1", stride, depthwise=True)
    y = layer(y, f"{name}._project_conv", f"{name}._bn2", linear=True)
    x = x + y if x.shape == y.shape else y
  embedding = layer(x, "_conv_head", "_bn1").mean((2, 3))
  return embedding, embedding @ w["_fc.weight"].T + w["_fc.bias"]
