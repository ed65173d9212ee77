"""EDM's networks by the names of their files, in float64 NumPy: what forward passes and key maps are compared with.

Maps are `[channels, side, side]`, one example at a time, and convolutions are sums over the taps of their kernels.
"""

import math

import numpy as np


def silu(x):
  return x / (1 + np.exp(-x))


def conv(x, arrays, name):
  """Zeros around the map keep its sides."""
  kernel, bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
  size, side = kernel.shape[-1], x.shape[-1]
  edge = size // 2
  padded = np.zeros((x.shape[0], side + 2 * edge, side + 2 * edge))
  padded[:, edge : edge + side, edge : edge + side] = x
  out = np.zeros((len(kernel), side, side)) + bias[:, None, None]
  for row in range(size):
    for column in range(size):
      out += np.tensordot(kernel[:, :, row, column], padded[:, row : row + side, column : column + side], 1)
  return out


def norm(x, arrays, name, epsilon):
  groups = min(32, len(x) // 4)
  out, size = np.empty_like(x), len(x) // groups
  for start in range(0, len(x), size):
    part = x[start : start + size]
    out[start : start + size] = (part - part.mean()) / math.sqrt(part.var() + epsilon)
  return out * arrays[f"{name}.weight"][:, None, None] + arrays[f"{name}.bias"][:, None, None]


def linear(x, arrays, name):
  return arrays[f"{name}.weight"] @ x + arrays.get(f"{name}.bias", 0.0)


def resampled(x, how):
  if how == "up":
    return np.kron(x, np.ones((1, 2, 2)))
  if how == "down":
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
  return x


def attention(x, arrays, name, heads, epsilon):
  """Rows of the map that `qkv` gives: head, then channel of the head, then query, key and value in turn."""
  qkv = conv(norm(x, arrays, f"{name}.norm2", epsilon), arrays, f"{name}.qkv").reshape(3 * len(x), -1)
  size, out = len(x) // heads, np.empty((len(x), x[0].size))
  for head in range(heads):
    own = qkv[3 * size * head : 3 * size * (head + 1)]
    queries, keys, values = own[0::3], own[1::3], own[2::3]
    for place in range(x[0].size):
      scores = np.exp(keys.T @ queries[:, place] / math.sqrt(size))
      out[size * head : size * (head + 1), place] = values @ (scores / scores.sum())
  return conv(out.reshape(x.shape), arrays, f"{name}.proj")


def block(x, features, arrays, name, how, heads, *, scaled, gain, epsilon):
  hidden = conv(resampled(silu(norm(x, arrays, f"{name}.norm0", epsilon)), how), arrays, f"{name}.conv0")
  own = linear(features, arrays, f"{name}.affine")[:, None, None]
  if scaled:
    half = len(own) // 2
    hidden = norm(hidden, arrays, f"{name}.norm1", epsilon) * (own[:half] + 1) + own[half:]
  else:
    hidden = norm(hidden + own, arrays, f"{name}.norm1", epsilon)
  hidden = conv(silu(hidden), arrays, f"{name}.conv1")
  skip = resampled(x, how)
  if f"{name}.skip.weight" in arrays:
    skip = conv(skip, arrays, f"{name}.skip")
  x = gain * (skip + hidden)
  if f"{name}.qkv.weight" in arrays:
    x = gain * (x + attention(x, arrays, name, heads(len(x)), epsilon))
  return x


def unet(x, features, arrays, levels, depth, heads, **style):
  """What enters the last norm, and the map at the end of the encoder."""
  side = x.shape[-1]
  x = conv(x, arrays, f"enc.{side}x{side}_conv")
  skips = [x]
  for level in range(levels):
    prefix = f"enc.{side >> level}x{side >> level}"
    names = ([(f"{prefix}_down", "down")] if level else []) + [(f"{prefix}_block{i}", "") for i in range(depth)]
    for name, how in names:
      x = block(x, features, arrays, name, how, heads, **style)
      skips.append(x)
  lowest = x
  for level in reversed(range(levels)):
    prefix = f"dec.{side >> level}x{side >> level}"
    last = level == levels - 1
    for name, how in [(f"{prefix}_in0", ""), (f"{prefix}_in1", "")] if last else [(f"{prefix}_up", "up")]:
      x = block(x, features, arrays, name, how, heads, **style)
    for i in range(depth + 1):
      x = np.concatenate([x, skips.pop()])
      x = block(x, features, arrays, f"{prefix}_block{i}", "", heads, **style)
  return x, lowest


def adm(x, noise, label, arrays, *, width, levels, depth, head_width):
  """`F` of one example `[channels, side, side]` at the noise `ln(sigma) / 4`; `label` is `None` for none."""
  angles = [noise * 10000 ** (-i / (width // 2)) for i in range(width // 2)]
  waves = np.array([math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles])
  features = linear(silu(linear(waves, arrays, "map_layer0")), arrays, "map_layer1")
  if label is not None:
    features = features + arrays["map_label.weight"][:, label]
  style = {"scaled": True, "gain": 1.0, "epsilon": 1e-5}
  out, lowest = unet(x, silu(features), arrays, levels, depth, lambda channels: channels // head_width, **style)
  return conv(silu(norm(out, arrays, "out_norm", 1e-5)), arrays, "out_conv"), lowest


def ddpmpp(x, noise, label, arrays, *, width, levels, depth):
  """The same of DDPM++."""
  angles = [noise * 10000 ** (-i / (width // 2 - 1)) for i in range(width // 2)]
  features = np.array([math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles])
  if "map_label.weight" in arrays:
    labels = np.zeros(arrays["map_label.weight"].shape[1])
    if label is not None:
      labels[label] = math.sqrt(len(labels))
    features = features + linear(labels, arrays, "map_label")
  features = silu(linear(silu(linear(features, arrays, "map_layer0")), arrays, "map_layer1"))
  style = {"scaled": False, "gain": math.sqrt(0.5), "epsilon": 1e-6}
  out, lowest = unet(x, features, arrays, levels, depth, lambda channels: 1, **style)
  last = f"dec.{x.shape[-1]}x{x.shape[-1]}_aux"
  return conv(silu(norm(out, arrays, f"{last}_norm", 1e-6)), arrays, f"{last}_conv"), lowest


def preconditioned(network, x, sigma, label, arrays, sigma_data=0.5, **sizes):
  """EDM's denoiser of one example."""
  total = sigma**2 + sigma_data**2
  inner, lowest = network(x / math.sqrt(total), math.log(sigma) / 4, label, arrays, **sizes)
  return sigma_data**2 / total * x + sigma * sigma_data / math.sqrt(total) * inner, lowest


def shapes(network, *, side, channels, classes, width, multiples, depth, sides, features):
  """The arrays of a network's file, by name, written down a second time from its description."""
  scaled, found = network == "adm", {}

  def layer(name, outputs, inputs, size=0, bias=True):
    found[f"{name}.weight"] = (outputs, inputs) + ((size, size) if size else ())
    if bias:
      found[f"{name}.bias"] = (outputs,)

  def gain(name, size):
    found[f"{name}.weight"] = found[f"{name}.bias"] = (size,)

  def one(name, inputs, outputs, attends, resamples):
    gain(f"{name}.norm0", inputs)
    layer(f"{name}.conv0", outputs, inputs, 3)
    layer(f"{name}.affine", outputs * (1 + scaled), features)
    gain(f"{name}.norm1", outputs)
    layer(f"{name}.conv1", outputs, outputs, 3)
    if inputs != outputs or (resamples and not scaled):
      layer(f"{name}.skip", outputs, inputs, 1)
    if resamples:
      found[f"{name}.conv0.resample_filter"] = found[f"{name}.skip.resample_filter"] = (1, 1, 2, 2)
    if attends:
      gain(f"{name}.norm2", outputs)
      layer(f"{name}.qkv", 3 * outputs, outputs, 1)
      layer(f"{name}.proj", outputs, outputs, 1)

  layer("map_layer0", features, width)
  layer("map_layer1", features, features)
  if classes:
    layer("map_label", features if scaled else width, classes, bias=not scaled)
  now = width * multiples[0] if scaled else width
  layer(f"enc.{side}x{side}_conv", now, channels, 3)
  skips = [now]
  for level, multiple in enumerate(multiples):
    place, out = side >> level, width * multiple
    if level:
      one(f"enc.{place}x{place}_down", now, now, False, True)
      skips.append(now)
    for i in range(depth):
      one(f"enc.{place}x{place}_block{i}", now, out, place in sides, False)
      now = out
      skips.append(now)
  for level in reversed(range(len(multiples))):
    place, out = side >> level, width * multiples[level]
    if level == len(multiples) - 1:
      one(f"dec.{place}x{place}_in0", now, now, True, False)
      one(f"dec.{place}x{place}_in1", now, now, False, False)
    else:
      one(f"dec.{place}x{place}_up", now, now, False, True)
    for i in range(depth + 1):
      one(f"dec.{place}x{place}_block{i}", now + skips.pop(), out, place in sides and (scaled or i == depth), False)
      now = out
  last = ("out_norm", "out_conv") if scaled else (f"dec.{side}x{side}_aux_norm", f"dec.{side}x{side}_aux_conv")
  gain(last[0], now)
  layer(last[1], channels, now, 3)
  return found


def drawn(found, seed=0):
  """Random arrays of such shapes in float32: norms around 1, and means of 2x2 places as what resamples."""
  rng, out = np.random.default_rng(seed), {}
  for name, shape in found.items():
    values = rng.normal(size=shape)
    if len(shape) > 1:
      values /= math.sqrt(np.prod(shape[1:]))
    elif "norm" in name and name.endswith("weight"):
      values = 1 + 0.2 * values
    out[name] = np.full(shape, 0.25, np.float32) if name.endswith("filter") else values.astype(np.float32)
  return out
