"""Weights in the names of PyTorch's libraries: forward passes against NumPy, and files that do not fit."""

import jax
import numpy as np
import pytest
from torch_forward import as_torchvision, efficientnet_lite, resnet, vit

from jdistill import models
from jdistill.base import UserError
from jdistill.models import weights

RNG = np.random.default_rng(0)


def torch_arrays(network):
  """Random arrays of a network under the first layout that knows it, and variances that are positive."""
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  wanted = next(found for layout in weights.LAYOUTS if (found := weights._wanted(layout, shapes)) is not None)
  out = {}
  for name, one in wanted.items():
    shape = weights._shape_there(one)
    values = RNG.normal(size=shape) / np.sqrt(max(np.prod(shape[1:]), 1)) + (len(shape) == 1)
    out[name] = (RNG.uniform(0.5, 2, shape) if name.endswith("running_var") else values).astype(np.float32)
  return out


def forward(network, arrays, x):
  variables = models.from_torch(network, arrays)
  out = jax.jit(lambda v, x: network.apply(v.params, x, stats=v.stats)[:2])(variables, np.moveaxis(x, 1, -1))
  return out[1], out[0]


def check(found, wanted, tolerance=1e-4):
  for one, other in zip(found, wanted, strict=True):
    assert np.abs(other).max() > 0.1
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * np.abs(other).max())


def test_vit_in_both_libraries():
  network = models.build("vit", num_classes=5, image_shape=(8, 12, 3), patch=4, dim=8, depth=2, heads=2)
  arrays, x = torch_arrays(network), RNG.normal(size=(3, 3, 8, 12)).astype(np.float32)
  assert "blocks.1.attn.qkv.bias" in arrays
  wanted = vit({name: array.astype(np.float64) for name, array in arrays.items()}, x.astype(np.float64), 4, 2)
  check(forward(network, arrays, x), wanted)
  other = {as_torchvision(name): array for name, array in arrays.items()}
  assert {"encoder.layers.encoder_layer_0.self_attention.in_proj_weight", "heads.head.bias"} < other.keys()
  check(forward(network, other, x), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18_imagenet", "resnet50_imagenet"])
def test_resnet(name):
  network = models.build(name, num_classes=5, image_shape=(37, 34, 3), width=4)
  arrays, x = torch_arrays(network), RNG.normal(size=(2, 3, 37, 34)).astype(np.float32)
  check(forward(network, arrays, x), resnet(arrays, x, bottleneck="50" in name), 1e-3)


@pytest.mark.slow
def test_efficientnet_lite():
  network = models.build("efficientnet_lite0", num_classes=5, image_shape=(37, 34, 3), width=8, last=16)
  arrays, x = torch_arrays(network), RNG.normal(size=(2, 3, 37, 34)).astype(np.float32)
  check(forward(network, arrays, x), efficientnet_lite(arrays, x), 1e-3)


@pytest.mark.parametrize(
  "name, count, layout, some",
  [
    ("resnet18_imagenet", 11_689_512, 0, {"layer1.0.conv1.weight": (64, 64, 3, 3), "fc.weight": (1000, 512)}),
    ("resnet50_imagenet", 25_557_032, 0, {"layer4.2.conv3.weight": (2048, 512, 1, 1), "conv1.weight": (64, 3, 7, 7)}),
    ("vit_s16", 22_050_664, 1, {"pos_embed": (1, 197, 384), "blocks.11.mlp.fc1.weight": (1536, 384)}),
    ("vit_b16", 86_567_656, 1, {"cls_token": (1, 1, 768), "patch_embed.proj.weight": (768, 3, 16, 16)}),
    ("efficientnet_lite0", 4_652_008, 3, {"_blocks.15._depthwise_conv.weight": (1152, 1, 3, 3)}),
  ],
)
def test_published_sizes_and_names(name, count, layout, some):
  """Parameters as torchvision and timm count them, and arrays as their files name them."""
  network = models.build(name, num_classes=1000, image_shape=(224, 224, 3))
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes.params)) == count
  wanted = weights._wanted(weights.LAYOUTS[layout], shapes)
  assert {key: weights._shape_there(wanted[key]) for key in some} == some
  assert len(wanted) == len(jax.tree.leaves(shapes))


def small():
  network = models.build("vit", num_classes=5, image_shape=(4, 4, 1), patch=2, dim=4, depth=1, heads=1)
  return network, torch_arrays(network)


def test_files_that_do_not_fit():
  network, arrays = small()
  lacks = {name: array for name, array in arrays.items() if "mlp" not in name}
  for changed, message in (
    (lacks, r"file.pth: does not fit this network in the names of timm: 4 missing: blocks.0.mlp.fc1"),
    (arrays | {"blocks.1.norm1.weight": np.ones(4, "f4")}, "1 left over: blocks.1.norm1.weight; give its own weights"),
    (arrays | {"pos_embed": np.ones((1, 10, 4), "f4")}, r"1 of another shape: pos_embed \(1, 10, 4\), not \(1, 5, 4\)"),
    ({}, r"20 missing: .* and 15 more"),
    (arrays | {"head.bias": np.ones(5, int)}, "head.bias of type int64 holds values that are no finite numbers"),
    (arrays | {"head.bias": np.full(5, np.nan, "f4")}, "head.bias of type float32 holds values that are no finite"),
  ):
    with pytest.raises(UserError, match=message) as caught:
      models.from_torch(network, changed, source="file.pth")
    assert "\n" not in str(caught.value)
  mlp = models.build("mlp", num_classes=5, image_shape=(4, 4, 1), widths=(3,))
  with pytest.raises(UserError, match="no library's names are known for this network"):
    models.from_torch(mlp, arrays)


def test_a_head_of_other_classes_is_left_out():
  network, arrays = small()
  whole = models.from_torch(network, arrays)
  for changed in (
    {name: array for name, array in arrays.items() if not name.startswith("head")},
    arrays
    | {"head.weight": np.ones((9, 4), "f4"), "head.bias": np.ones(9, "f4"), "bn.num_batches_tracked": np.int64(3)},
  ):
    with pytest.raises(UserError, match="head"):
      models.from_torch(network, changed)
    found = models.from_torch(network, changed, head=False)
    assert not found.params["head"]["kernel"].any()
    rest = [{k: v for k, v in one.params.items() if k != "head"} for one in (found, whole)]
    jax.tree.map(np.testing.assert_array_equal, *rest)
