"""EDM's networks beside the same written in PyTorch, with random weights by the names of released files.

  pip install torch
  python -m benchmarks.edm_weights          small networks
  python -m benchmarks.edm_weights --full   the published sizes; minutes, 6 GB

Every network is built in PyTorch with random parameters, saved as `.safetensors`, read back by jdistill and asked about
the same noisy images at noise levels from 0.002 to 80, with and without a condition. What is printed is the greatest
difference of the denoised images over their greatest value.
"""

import math
import os
import tempfile

import jax
import numpy as np

from benchmarks import _reports
from jdistill import models, pretrained
from jdistill.diffusion import Noisy
from jdistill.files import write_safetensors

LEVELS = (0.002, 0.5, 3.0, 80.0)
SMALL = {"width": 32, "depth": 2, "features": 64}
CASES = {
  "adm": SMALL | {"side": 16, "conditions": 10, "multiples": (1, 2, 3), "attention_sides": (8, 4), "head_width": 16},
  "ddpmpp": SMALL | {"side": 16, "conditions": 10, "multiples": (1, 2, 2), "attention_sides": (8,)},
  "ddpmpp without conditions": SMALL | {"side": 8, "conditions": 1, "multiples": (2, 2), "attention_sides": (8,)},
}
FULL = {
  "adm": {"side": 64, "conditions": 1000},
  "ddpmpp": {"side": 32, "conditions": 10},
  "ddpmpp without conditions": {"side": 64, "conditions": 1, "multiples": (1, 2, 2, 2)},
}


def torch_unet(torch, name: str, sizes: dict):
  """The network in PyTorch's own layers, as `(module, F(x, noise, labels))` with channels first."""
  nn, functional = torch.nn, torch.nn.functional
  scaled, width, multiples, depth = name == "adm", sizes["width"], sizes["multiples"], sizes["depth"]
  sides = [sizes["side"] >> level for level in range(len(multiples))]
  epsilon, gain = (1e-5, 1.0) if scaled else (1e-6, math.sqrt(0.5))
  model = nn.Module()

  def norm(channels):
    return nn.GroupNorm(min(32, channels // 4), channels, eps=epsilon)

  def block(inputs, outputs, resample="", attends=False):
    one = nn.Module()
    one.resample, one.heads = resample, 0
    one.norm0, one.norm1 = norm(inputs), norm(outputs)
    one.conv0, one.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
    one.affine = nn.Linear(sizes["features"], outputs * (1 + scaled))
    if inputs != outputs or (resample and not scaled):
      one.skip = nn.Conv2d(inputs, outputs, 1)
    if attends:
      one.heads = outputs // sizes["head_width"] if scaled else 1
      one.norm2, one.qkv, one.proj = norm(outputs), nn.Conv2d(outputs, 3 * outputs, 1), nn.Conv2d(outputs, outputs, 1)
    return one

  def resampled(x, how):
    if how == "up":
      return functional.interpolate(x, scale_factor=2, mode="nearest")
    return functional.avg_pool2d(x, 2) if how == "down" else x

  def run(one, x, features):
    hidden = one.conv0(resampled(functional.silu(one.norm0(x)), one.resample))
    own = one.affine(features)[:, :, None, None]
    if scaled:
      scale, shift = own.chunk(2, dim=1)
      hidden = one.norm1(hidden) * (scale + 1) + shift
    else:
      hidden = one.norm1(hidden + own)
    skip = resampled(x, one.resample)
    x = ((one.skip(skip) if hasattr(one, "skip") else skip) + one.conv1(functional.silu(hidden))) * gain
    if one.heads:
      n, channels, height, side = x.shape
      qkv = one.qkv(one.norm2(x)).reshape(n, one.heads, channels // one.heads, 3, height * side)
      queries, keys, values = (part.transpose(2, 3) for part in qkv.unbind(3))
      mixed = functional.scaled_dot_product_attention(queries, keys, values)
      x = (x + one.proj(mixed.transpose(2, 3).reshape(x.shape))) * gain
    return x

  def modules():
    """The parts in their order; a skip connection enters blocks of the decoder."""
    now = width * multiples[0] if scaled else width
    yield "enc", f"{sides[0]}x{sides[0]}_conv", nn.Conv2d(sizes["channels"], now, 3, padding=1)
    skips = [now]
    for side, multiple in zip(sides, multiples, strict=True):
      if side != sides[0]:
        yield "enc", f"{side}x{side}_down", block(now, now, "down")
        skips.append(now)
      for i in range(depth):
        attends = side in sizes["attention_sides"]
        yield "enc", f"{side}x{side}_block{i}", block(now, width * multiple, attends=attends)
        now = width * multiple
        skips.append(now)
    for side, multiple in reversed(list(zip(sides, multiples, strict=True))):
      if side == sides[-1]:
        yield "dec", f"{side}x{side}_in0", block(now, now, attends=True)
        yield "dec", f"{side}x{side}_in1", block(now, now)
      else:
        yield "dec", f"{side}x{side}_up", block(now, now, "up")
      for i in range(depth + 1):
        attends = side in sizes["attention_sides"] and (scaled or i == depth)
        yield "dec", f"{side}x{side}_block{i}", block(now + skips.pop(), width * multiple, attends=attends)
        now = width * multiple
    last = (
      ("out_norm", "out_conv") if scaled else (f"{sides[0]}x{sides[0]}_aux_norm", f"{sides[0]}x{sides[0]}_aux_conv")
    )
    room = "" if scaled else "dec"
    yield room, last[0], norm(now)
    yield room, last[1], nn.Conv2d(now, sizes["channels"], 3, padding=1)

  model.enc, model.dec = nn.ModuleDict(), nn.ModuleDict()
  for room, key, one in modules():
    (getattr(model, room) if room else model).add_module(key, one)
  model.map_layer0, model.map_layer1 = (nn.Linear(n, sizes["features"]) for n in (width, sizes["features"]))
  if sizes["conditions"] > 1:
    model.map_label = nn.Linear(sizes["conditions"], sizes["features"] if scaled else width, bias=not scaled)

  def features_of(noise, labels):
    exponents = torch.arange(width // 2, dtype=torch.float32) / (width // 2 - (not scaled))
    angles = torch.outer(noise, (1 / 10000) ** exponents)
    waves = [angles.cos(), angles.sin()]
    x = torch.cat(waves if scaled else waves[::-1], dim=1)
    if not scaled and hasattr(model, "map_label"):
      x = x + model.map_label(labels * math.sqrt(labels.shape[1]))
    x = model.map_layer1(functional.silu(model.map_layer0(x)))
    if scaled and hasattr(model, "map_label"):
      x = x + model.map_label(labels)
    return functional.silu(x)

  def forward(x, noise, labels):
    features, skips = features_of(noise, labels), []
    for key, one in model.enc.items():
      x = one(x) if key.endswith("conv") else run(one, x, features)
      skips.append(x)
    for key, one in model.dec.items():
      if "aux" in key:
        x = functional.silu(one(x)) if key.endswith("norm") else one(x)
        continue
      x = run(one, torch.cat([x, skips.pop()], dim=1) if "block" in key else x, features)
    return model.out_conv(functional.silu(model.out_norm(x))) if scaled else x

  return model, forward


def randomised(torch, model, seed: int) -> None:
  """Random parameters of every kind; norms around 1."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for value in model.parameters():
      drawn = torch.randn(value.shape, generator=generator)
      value.copy_(drawn * value[0].numel() ** -0.5 if value.ndim > 1 else 1 + 0.1 * drawn)


def theirs(torch, forward, x: np.ndarray, cond: np.ndarray, conditions: int, sigma_data: float = 0.5) -> np.ndarray:
  """EDM's denoiser around a network, `[n, side, side, channels]`."""
  sigma = torch.tensor(LEVELS).reshape(-1, 1, 1, 1)
  labels = torch.zeros(len(cond), conditions)
  for row, label in enumerate(cond):
    if label < conditions:
      labels[row, label] = 1
  x = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
  total = sigma**2 + sigma_data**2
  with torch.no_grad():
    inner = forward(x / total.sqrt(), sigma.flatten().log() / 4, labels)
  return (sigma_data**2 / total * x + sigma * sigma_data / total.sqrt() * inner).numpy().transpose(0, 2, 3, 1)


def compared(torch, title: str, sizes: dict) -> dict:
  """Sizes and the difference of one network."""
  name = title.split()[0]
  side, conditions = sizes["side"], sizes["conditions"]
  options = {key: value for key, value in sizes.items() if key not in ("side", "conditions")}
  network = models.build(name, num_classes=conditions, image_shape=(side, side, 3), **options)
  model, forward = torch_unet(torch, name, models.options(name) | sizes | {"channels": 3})
  randomised(torch, model, 0)
  state = {f"model.{key}": value for key, value in model.state_dict().items()}
  for key, one in [*model.enc.items(), *model.dec.items()]:  # buffers of released files
    if getattr(one, "resample", ""):
      for part in ("conv0", "skip"):
        state[f"model.{'enc' if key in model.enc else 'dec'}.{key}.{part}.resample_filter"] = torch.full(
          (1, 1, 2, 2), 0.25
        )
  with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, "weights.safetensors")
    write_safetensors(path, {key: value.numpy() for key, value in state.items()})
    found = models.from_torch(network, pretrained.read_weights(path), source=path)
  rng, levels = np.random.default_rng(0), np.float32(LEVELS)
  x = rng.normal(size=(len(LEVELS), side, side, 3)).astype(np.float32) * (0.5 + levels)[:, None, None, None]
  cond = np.array([0, conditions - 1, conditions, 0], np.int32) if conditions > 1 else np.zeros(4, np.int32)
  ours = np.asarray(jax.jit(network.apply)(found.params, Noisy(x, levels, cond)).logits)
  other = theirs(torch, forward, x, cond, conditions)
  count = sum(value.numel() for value in model.parameters())
  assert count == sum(leaf.size for leaf in jax.tree.leaves(found.params))
  return {
    "network": title, "parameters": count, "arrays": len(state),
    "difference": float(np.abs(ours - other).max() / np.abs(other).max()),
  }  # fmt: skip


def main() -> None:
  parser = _reports.parser(__doc__)
  parser.add_argument("--full", action="store_true", help="the published sizes")
  wanted = parser.parse_args()
  import torch

  torch.set_num_threads(wanted.threads)
  rows = []
  for title, sizes in (FULL if wanted.full else CASES).items():
    rows.append(compared(torch, title, sizes))
    print("{network}: {parameters:,} parameters, {arrays} arrays, difference {difference:.1e}".format(**rows[-1]))
  figures = {"torch": torch.__version__, "jax": jax.__version__, "networks": rows}
  _reports.write("edm_weights_full" if wanted.full else "edm_weights", figures, wanted.out)


if __name__ == "__main__":
  main()
