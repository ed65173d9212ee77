"""Trained parameters in the names of PyTorch's libraries as parameters of the zoo.

A layout is a table from the layers of a network here to those of a library. What a network has and a file has not, what
a file has beyond it and what has another shape is told in one line, so a file cannot be taken for what it is not.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Network, PyTree, UserError, Variables

_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_LEFT_OUT = re.compile(r"(.*\.)?num_batches_tracked|.*\.attn\.relative_position_index")  # how often it was trained
_LONGEST = 100  # characters of a name in a message


class Layout(NamedTuple):
  """The names of one library.

  Attributes:
    name: for messages.
    layers: patterns of layers here and what each is called there, a function of the pattern's groups. A name that ends
      in `!` is that of an array itself; in all others parameters are called `weight`, `bias`, `running_mean` and
      `running_var`.
    fixed: patterns of arrays that a file may have beyond the parameters, and the value that all of their numbers must
      have for the network to be this one; `None` for any.
  """

  name: str
  layers: tuple[tuple[str, Callable[..., str]], ...]
  fixed: tuple[tuple[str, float | None], ...] = ()


def _plain(name: str) -> Callable[..., str]:
  return lambda *_: name


_STEM = (("stem_conv", _plain("conv1")), ("stem_norm", _plain("bn1")), ("head", _plain("fc")))
_RESNET = Layout(
  "torchvision and timm",
  (
    *_STEM,
    (r"stage(\d+)_block(\d+)_conv(\d)", lambda stage, block, i: f"layer{int(stage) + 1}.{block}.conv{int(i) + 1}"),
    (r"stage(\d+)_block(\d+)_norm(\d)", lambda stage, block, i: f"layer{int(stage) + 1}.{block}.bn{int(i) + 1}"),
    (r"stage(\d+)_block(\d+)_conv_shortcut", lambda stage, block: f"layer{int(stage) + 1}.{block}.downsample.0"),
    (r"stage(\d+)_block(\d+)_norm_shortcut", lambda stage, block: f"layer{int(stage) + 1}.{block}.downsample.1"),
  ),
)
_VIT_TIMM = Layout(
  "timm",
  (
    ("patches", _plain("patch_embed.proj")),
    ("class_token", _plain("cls_token!")),
    ("positions", _plain("pos_embed!")),
    (r"block(\d+)_norm(\d)", lambda block, i: f"blocks.{block}.norm{int(i) + 1}"),
    (r"block(\d+)_qkv", lambda block: f"blocks.{block}.attn.qkv"),
    (r"block(\d+)_out", lambda block: f"blocks.{block}.attn.proj"),
    (r"block(\d+)_dense(\d)", lambda block, i: f"blocks.{block}.mlp.fc{int(i) + 1}"),
    ("last_norm", _plain("norm")),
    ("head", _plain("head")),
  ),
)
_BLOCK = "encoder.layers.encoder_layer_{}."
_VIT_TORCHVISION = Layout(
  "torchvision",
  (
    ("patches", _plain("conv_proj")),
    ("class_token", _plain("class_token!")),
    ("positions", _plain("encoder.pos_embedding!")),
    (r"block(\d+)_norm(\d)", lambda block, i: f"{_BLOCK.format(block)}ln_{int(i) + 1}"),
    (r"block(\d+)_qkv", lambda block: f"{_BLOCK.format(block)}self_attention.in_proj"),
    (r"block(\d+)_out", lambda block: f"{_BLOCK.format(block)}self_attention.out_proj"),
    (r"block(\d+)_dense(\d)", lambda block, i: f"{_BLOCK.format(block)}mlp.{3 * int(i)}"),
    ("last_norm", _plain("encoder.ln")),
    ("head", _plain("heads.head")),
  ),
)
_FIRST_BLOCKS = (0, 1, 3, 5, 8, 11, 15)  # of the stages of EfficientNet-B0 and Lite0, counted through


def _lite(kind: str, norms: bool) -> Callable[..., str]:
  own = ("_expand_conv", "_depthwise_conv", "_project_conv")

  def name(stage: str, block: str, i: str) -> str:
    part = f"_bn{i}" if norms else own[int(i)]
    return f"{kind}.{_FIRST_BLOCKS[int(stage)] + int(block)}.{part}"

  return name


_EFFICIENTNET = Layout(
  "EfficientNet-PyTorch",
  (
    ("stem_conv", _plain("_conv_stem")),
    ("stem_norm", _plain("_bn0")),
    (r"stage(\d+)_block(\d+)_conv(\d)", _lite("_blocks", norms=False)),
    (r"stage(\d+)_block(\d+)_norm(\d)", _lite("_blocks", norms=True)),
    ("last_conv", _plain("_conv_head")),
    ("last_norm", _plain("_bn1")),
    ("head", _plain("_fc")),
  ),
)


def _edm(name: str, prefix: str) -> Layout:
  """EDM's networks; released ones lie inside their scalings, as `model`."""
  start = re.escape(prefix)
  return Layout(
    name,
    (
      (r"noise(\d)", lambda i: f"{prefix}map_layer{i}"),
      ("condition(?:_rows)?", _plain(f"{prefix}map_label")),
      (r"enc(\d+)_conv", lambda side: f"{prefix}enc.{side}x{side}_conv"),
      (
        r"(enc|dec)(\d+)_([a-z]+\d?)_(norm\d|conv\d|affine|skip|qkv|proj)(?:_zero)?",
        lambda part, side, block, layer: f"{prefix}{part}.{side}x{side}_{block}.{layer}",
      ),
      (r"dec(\d+)_aux_(norm|conv)(?:_zero)?", lambda side, layer: f"{prefix}dec.{side}x{side}_aux_{layer}"),
      (r"out_(norm|conv)(?:_zero)?", lambda layer: f"{prefix}out_{layer}"),
    ),
    # means of 2x2 places; and labels of augmentation, of which there are none after training
    ((rf"{start}.*\.resample_filter", 0.25), (rf"{start}map_augment\.weight", None)),
  )


LAYOUTS = (_RESNET, _VIT_TIMM, _VIT_TORCHVISION, _EFFICIENTNET, _edm("EDM", "model."), _edm("EDM's inner network", ""))


class _Wanted(NamedTuple):
  """One array of a network: its place (`"params"` or `"stats"`, layer, leaf), and its shape here."""

  place: tuple[str, str, str]
  shape: tuple[int, ...]


def from_torch(
  network: Network, arrays: Mapping[str, np.ndarray], *, source: str = "weights", head: bool = True
) -> Variables:
  """The parameters and running statistics of a network from arrays with the names of a PyTorch library.

  Kernels `[out, in, height, width]` become `[height, width, in, out]`, and dense ones are transposed.

  Args:
    network: of the zoo: `resnet18_imagenet`, `resnet50_imagenet`, `vit_s16`, `vit_b16`, `vit`, `efficientnet_lite0`,
      `adm`, `ddpmpp`.
    arrays: by name, as torchvision, timm, EfficientNet-PyTorch or NVlabs/edm call them.
    source: what messages call them.
    head: whether the head is read, too. Otherwise it may have any shape or be missing, and that of the result is zero.

  Returns:
    `Variables` in float32.

  Raises:
    UserError: a network whose layers no layout knows; arrays that are missing, left over, of another shape, not
      floating-point or not finite.
  """
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  layout, wanted = _choose(shapes, arrays, source)
  heads = {name for name, one in wanted.items() if one.place[1] == "head"}
  found = {name: array for name, array in arrays.items() if not _LEFT_OUT.fullmatch(name)}
  fixed = {name: value for name in found for text, value in layout.fixed if re.fullmatch(text, name)}
  needed = wanted if head else {name: one for name, one in wanted.items() if name not in heads}
  missing = [name for name in needed if name not in found]
  extra = [name for name in found if name not in wanted and name not in fixed]
  misshaped = [
    f"{name} {found[name].shape}, not {_shape_there(one)}"
    for name, one in needed.items()
    if name in found and not _fits(found[name], one)
  ]
  others = [name for name, value in fixed.items() if value is not None and not np.all(found[name] == value)]
  parts = (
    ("missing", missing),
    ("left over", extra),
    ("of another shape", misshaped),
    ("of another network", others),
  )
  told = "; ".join(f"{len(names)} {what}: {some_names(names)}" for what, names in parts if names)
  if told:
    raise UserError(f"{source}: does not fit this network in the names of {layout.name}: {told}; give its own weights")
  tree = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)._asdict()
  for name, one in needed.items():
    room, layer, leaf = one.place
    tree[room][layer][leaf] = _converted(name, found[name], one, source)
  return jax.tree.map(jnp.asarray, Variables(**tree))


def _choose(shapes: PyTree, arrays: Mapping[str, np.ndarray], source: str) -> tuple[Layout, dict[str, _Wanted]]:
  """The layout that knows all layers of a network and whose names the arrays have most of."""
  known = [(layout, wanted) for layout in LAYOUTS if (wanted := _wanted(layout, shapes)) is not None]
  if not known:
    raise UserError(f"{source}: no library's names are known for this network; give resnet18_imagenet, vit_s16 or adm")
  return max(known, key=lambda one: len(one[1].keys() & arrays.keys()))


def _wanted(layout: Layout, shapes: PyTree) -> dict[str, _Wanted] | None:
  """All arrays of a network by their names there; `None` where the layout does not know one of its layers."""
  found = {}
  for room in ("params", "stats"):
    for layer, leaves in getattr(shapes, room).items():
      matches = [(rule(*match.groups())) for text, rule in layout.layers if (match := re.fullmatch(text, layer))]
      if len(matches) != 1:
        return None
      for leaf, like in leaves.items():
        found[_named(matches[0], leaf)] = _Wanted((room, layer, leaf), like.shape)
  return found


def _named(layer: str, leaf: str) -> str:
  if layer.endswith("!"):
    return layer[:-1]
  return f"{layer}{'_' if layer.endswith('in_proj') else '.'}{_NAMES[leaf]}"


def _shape_there(one: _Wanted) -> tuple[int, ...]:
  _, layer, leaf = one.place
  if layer in ("positions", "class_token"):
    return (1,) * (3 - len(one.shape)) + one.shape
  if leaf == "kernel":
    return one.shape[::-1] if len(one.shape) == 2 else (one.shape[3], one.shape[2], *one.shape[:2])
  return one.shape


def _fits(array: np.ndarray, one: _Wanted) -> bool:
  return tuple(array.shape) == _shape_there(one)


def _converted(name: str, array: np.ndarray, one: _Wanted, source: str) -> np.ndarray:
  if array.dtype.kind != "f" or not np.isfinite(array).all():
    raise UserError(
      f"{source}: {name} of type {array.dtype} holds values that are no finite numbers; download it again"
    )
  array = array.astype(np.float32)
  if one.place[1] in ("positions", "class_token"):
    return array.reshape(one.shape)
  if one.place[2] == "kernel":
    return np.ascontiguousarray(array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0))
  return array


def some_names(names: list[str], most: int = 5) -> str:
  """The first names of a list for a message of one line, whatever characters a file has in them."""
  more = len(names) - most
  shown = [(name if name.isprintable() else repr(name)[1:-1])[:_LONGEST] for name in names[:most]]
  return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
