"""The zoo by name: `build("convnet", num_classes=10, image_shape=(32, 32, 3)) -> Network`."""

import dataclasses
import difflib
import functools
import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError

from jdistill.base import Key, Network, Outputs, PyTree, UserError, Variables
from jdistill.diffusion import SCHEDULES, Noisy
from jdistill.diffusion.discrete import NoisyTokens
from jdistill.models.alexnet import AlexNet
from jdistill.models.convnet import EMBEDDINGS, ConvNet
from jdistill.models.decoder import DECODER_INITS, language_model
from jdistill.models.decoder_config import GPT2, DecoderConfig
from jdistill.models.decoder_layers import Rows
from jdistill.models.denoisers import PREDICTIONS, DenoisingMLP, DenoisingNetwork, DiT, UNet, build_denoiser
from jdistill.models.edm_unets import ADM, DDPMPlusPlus
from jdistill.models.efficientnet import EfficientNetLite
from jdistill.models.gru import GRU
from jdistill.models.initialise import INITS, draw_params, fresh_moments
from jdistill.models.layers import ACTIVATIONS, NORMS, POOLINGS, Recorder
from jdistill.models.lenet import LeNet
from jdistill.models.mae import MaskedAutoencoder
from jdistill.models.mixer import Mixer
from jdistill.models.mlp import MLP
from jdistill.models.mobilenetv2 import MobileNetV2
from jdistill.models.resnet import CifarResNet, ResNet
from jdistill.models.resnet_imagenet import ImageNetResNet
from jdistill.models.score_transformer import GRAPHS, NOISES, ScoreTransformer, build_score
from jdistill.models.segnet import SegNet
from jdistill.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from jdistill.models.vgg import VGG11
from jdistill.models.vgg_stages import StageVGG
from jdistill.models.vit import READOUTS, ViT
from jdistill.models.wide_resnet import WideResNet


class _Entry(NamedTuple):
  module: type  # a Linen module, or the configuration of a decoder, which checks its options itself
  preset: Mapping[str, Any] = {}
  tokens: bool = False  # takes ids `[n, tokens]` instead of images
  masked: bool = False  # takes `(images, mask)`, too


_MOST_PARAMETERS = 10**10  # 40 GB; a slip of the keyboard beyond it would be waited for until memory is full


def _resnet(module: type[ResNet], blocks: tuple[int, ...], **preset: Any) -> _Entry:
  return _Entry(module, {"blocks": blocks, "stem_multiple": 1, "stage_multiple": 1} | preset)


def _cifar_resnet(depth: int, **multiples: int) -> _Entry:
  return _resnet(CifarResNet, ((depth - 2) // 6,) * 3, norm="batch", groups=4, **multiples)


_ZOO = {
  "convnet": _Entry(ConvNet),
  "convnet_bn": _Entry(ConvNet, {"norm": "batch"}),
  "mlp": _Entry(MLP),
  "lenet": _Entry(LeNet),
  "alexnet": _Entry(AlexNet),
  "vgg11": _Entry(VGG11),
  "vgg11_bn": _Entry(VGG11, {"norm": "batch"}),
  "resnet10": _resnet(ResNet, (1, 1, 1, 1)),
  "resnet10_bn": _resnet(ResNet, (1, 1, 1, 1), norm="batch"),
  "resnet18": _resnet(ResNet, (2, 2, 2, 2)),
  "resnet18_bn": _resnet(ResNet, (2, 2, 2, 2), norm="batch"),
  **{f"resnet{depth}": _cifar_resnet(depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
  **{f"resnet{depth}x4": _cifar_resnet(depth, stem_multiple=2, stage_multiple=4) for depth in (8, 32)},
  "vgg8_bn": _Entry(StageVGG, {"convolutions": (1, 1, 1, 1, 1), "norm": "batch"}),
  "vgg13_bn": _Entry(StageVGG, {"convolutions": (2, 2, 2, 2, 2), "norm": "batch"}),
  "wrn": _Entry(WideResNet),
  **{
    f"wrn_{depth}_{factor}": _Entry(WideResNet, {"depth": depth, "widen_factor": factor})
    for depth, factor in ((16, 1), (16, 2), (28, 10), (40, 1), (40, 2))
  },
  "mobilenetv2": _Entry(MobileNetV2),
  "shufflenetv1": _Entry(ShuffleNetV1),
  "shufflenetv2": _Entry(ShuffleNetV2),
  "vit": _Entry(ViT),
  "mixer": _Entry(Mixer),
  "resnet18_imagenet": _Entry(ImageNetResNet, {"blocks": (2, 2, 2, 2), "bottleneck": False}),
  "resnet50_imagenet": _Entry(ImageNetResNet, {"blocks": (3, 4, 6, 3), "bottleneck": True}),
  "vit_s16": _Entry(ViT, {"patch": 16, "dim": 384, "depth": 12, "heads": 6}),
  "vit_b16": _Entry(ViT, {"patch": 16, "dim": 768, "depth": 12, "heads": 12}),
  "efficientnet_lite0": _Entry(EfficientNetLite),
  "segnet": _Entry(SegNet),
  "mae": _Entry(MaskedAutoencoder, masked=True),
  "gru": _Entry(GRU, tokens=True),
  "decoder": _Entry(DecoderConfig, tokens=True),
  "gpt2": _Entry(DecoderConfig, GPT2, tokens=True),
  "denoising_mlp": _Entry(DenoisingMLP),
  "unet": _Entry(UNet),
  "dit": _Entry(DiT),
  "adm": _Entry(ADM),
  "ddpmpp": _Entry(DDPMPlusPlus),
  "score_transformer": _Entry(ScoreTransformer, tokens=True),
}
_CHOICES = {
  "norm": NORMS,
  "act": tuple(ACTIVATIONS),
  "pooling": tuple(POOLINGS),
  "readout": READOUTS,
  "embedding": EMBEDDINGS,
  "schedule": tuple(SCHEDULES),
  "prediction": PREDICTIONS,
  "graph": tuple(GRAPHS),
  "noise": tuple(NOISES),
  "remat": (False, True),
  "dtype": ("params", "bfloat16"),
}
_REAL = ("t_min", "t_max", "sigma_data")  # options that are no whole numbers; they are checked with the others
_OR_NONE = ("attention",)  # options of which 0 is none
_LISTS = ("widths", "multiples", "attention_sides")  # options that are tuples of whole numbers


def names() -> tuple[str, ...]:
  """All names that `build` knows."""
  return tuple(_ZOO)


def options(name: str) -> dict[str, Any]:
  """The options that `build(name, ...)` accepts, with their defaults.

  Args:
    name: one of `names()`.

  Returns:
    Default values by option name, such as `{"width": 128, "depth": 3, ..., "init": "torch"}`.

  Raises:
    UserError: the name is unknown.
  """
  entry = _entry(name)
  hidden = {"parent", "name", "num_classes", *entry.preset}
  fields = [field for field in dataclasses.fields(entry.module) if field.name not in hidden]
  return {field.name: field.default for field in fields} | {"init": _inits(entry)[0]}


def build(name: str, *, num_classes: int, image_shape: tuple[int, ...], **choices: Any) -> Network:
  """Builds a network of the zoo as two pure functions.

  `init(key)` gives `Variables` of plain dicts, `{"conv0": {"kernel": ..., "bias": ...}, ..., "head": ...}`; for nets
  with batch norm `stats` is `{"norm0": {"mean": ..., "var": ...}, ...}`, with the same names as `Outputs.norm_inputs`.
  `apply` accepts every tap's name and `"embedding"` as sites, and `"pooled"` for a map whose mean is the embedding. In
  train mode without `stats` batch norm still works but keeps no running values.

  Args:
    name: one of `names()`; `*_bn` are the batch-norm variants.
    num_classes: length of the logits; `"segnet"` gives that many for every pixel, language models for every token.
    image_shape: `(height, width, channels)` of the input space; `(tokens,)` for `"gru"`, `"decoder"` and `"gpt2"`,
      which take int ids.
    **choices: see `options(name)`; e.g. `width`, `depth`, `norm`, `act`, `pooling`, and `init`: `"torch"`
      (uniform by fan-in, biases too), `"flax"` (LeCun normal, zero biases) or `"he"` (convolutions normal by fan-out);
      `"decoder"` and `"gpt2"` have another default, see `language_model`.

  Returns:
    The `Network`; the same object for the same arguments, so that compiled functions are shared.

  Raises:
    UserError: an unknown name, an unknown option, or a value out of its range.
  """
  entry = _entry(name)
  defaults = options(name)
  for option, value in choices.items():
    if option not in defaults:
      raise UserError(
        f"{option}: no option of model {name!r}{_near(option, defaults)}; choose one of {', '.join(defaults)}"
      )
    if option == "init" or entry.module is not DecoderConfig:
      _check_value(option, value, _inits(entry))
  _check_positive("num_classes", num_classes)
  if len(image_shape) != (1 if entry.tokens else 3) or not all(
    isinstance(n, numbers.Integral) and n > 0 for n in image_shape
  ):
    wanted = f"(tokens,), which model {name!r} takes," if entry.tokens else "(height, width, channels)"
    raise UserError(f"image_shape: {image_shape} is not {wanted} of positive whole numbers")
  shape = tuple(int(n) for n in image_shape)
  fields = {option: tuple(value) if isinstance(value, list) else value for option, value in choices.items()}
  init = fields.pop("init", defaults["init"])
  if entry.module is DecoderConfig:
    return _decoder(DecoderConfig(num_classes=int(num_classes), **entry.preset, **fields), name, shape[0], init)
  module = entry.module(num_classes=int(num_classes), **entry.preset, **fields)
  if isinstance(module, DenoisingNetwork):
    return _denoiser(module, name, shape, init)
  if isinstance(module, ScoreTransformer):
    return _score(module, name, shape[0], init)
  return _network(module, name, shape, init)


def describe(network: Network, image_shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...], int]]:
  """Lists the parameters of a network without computing anything.

  Args:
    network: any `Network`.
    image_shape: `(height, width, channels)`, or `(tokens,)`; the forward pass is traced at this size, so a misfit
      shows here.

  Returns:
    `(path, shape, count)` per parameter array, such as `("conv0/kernel", (3, 3, 3, 128), 3456)`.

  Raises:
    UserError: the network does not take images of this shape.
  """
  variables = jax.eval_shape(network.init, jax.random.key(0))
  x = jax.ShapeDtypeStruct((1, *image_shape), _input_type(image_shape))
  if network.denoiser is not None:
    x = Noisy(x, jax.ShapeDtypeStruct((1,), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32))
  if network.token_score is not None:
    x = NoisyTokens(x, jax.ShapeDtypeStruct((1,), jnp.float32))
  jax.eval_shape(lambda v, x: network.apply(v.params, x, stats=v.stats), variables, x)
  leaves, _ = jax.tree.flatten_with_path(variables.params)
  return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape, leaf.size) for path, leaf in leaves]


@functools.lru_cache(maxsize=256)
def _network(module: nn.Module, name: str, image_shape: tuple[int, ...], init_name: str) -> Network:
  @jax.jit
  def init(key: Key) -> Variables:
    shapes = jax.eval_shape(
      lambda: module.init(
        jax.random.key(0), jnp.zeros((1, *image_shape), _input_type(image_shape)), train=False, record=Recorder()
      )
    )
    return Variables(draw_params(key, shapes["params"], init_name), fresh_moments(shapes.get("batch_stats", {})))

  def apply(params: PyTree, x: jax.Array, *, train=False, rngs=None, stats=None, sites=None) -> Outputs:
    images = _without_mask(x, name)
    (_check_images if len(image_shape) == 3 else _check_tokens)(images, name, image_shape)
    record = Recorder(sites)
    variables = {"params": params, "batch_stats": stats} if stats else {"params": params}
    mutable = ["batch_stats"] if train and stats else []
    try:
      (logits, embedding), updated = module.apply(variables, x, train=train, record=record, rngs=rngs, mutable=mutable)
    except ScopeParamShapeError as error:
      raise UserError(
        f"x: images {images.shape[1:]} do not fit the parameters of model {name!r}, built for {image_shape}; resize "
        "them"
      ) from error
    return record.outputs(logits, embedding, updated.get("batch_stats", stats or {}))

  return _checked(Network(init, apply), name)


@functools.lru_cache(maxsize=64)
def _decoder(config: DecoderConfig, name: str, tokens: int, init_name: str) -> Network:
  if tokens > config.context:
    raise UserError(f"context: {config.context} of model {name!r} is less than the {tokens} tokens of a row; raise it")
  model = language_model(config, init_name)
  return _checked(Network(model.init, model.apply, model), name)


@functools.lru_cache(maxsize=64)
def _denoiser(module: DenoisingNetwork, name: str, shape: tuple[int, ...], init_name: str) -> Network:
  return _checked(build_denoiser(module, shape, init_name), name)


@functools.lru_cache(maxsize=64)
def _score(module: ScoreTransformer, name: str, length: int, init_name: str) -> Network:
  return _checked(build_score(module, length, init_name), name)


def _checked(network: Network, name: str) -> Network:
  """The network, if a machine can hold it."""
  count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0)).params))
  if count > _MOST_PARAMETERS:
    raise UserError(
      f"model {name!r}: would have {count:.3g} parameters, more than {_MOST_PARAMETERS:.0e}; lower its width or depth"
    )
  return network


def _inits(entry: _Entry) -> tuple[str, ...]:
  return DECODER_INITS if entry.module is DecoderConfig else INITS


def _without_mask(x: PyTree, name: str) -> jax.Array:
  """The images of `(images, mask)`, or `x` itself."""
  if isinstance(x, Rows):
    known = " or ".join(repr(other) for other, entry in _ZOO.items() if entry.module is DecoderConfig)
    raise UserError(f"x: rows with documents given to model {name!r}, which knows of no boundaries; choose {known}")
  if not isinstance(x, tuple):
    return x
  if not _entry(name).masked:
    known = ", ".join(repr(other) for other, entry in _ZOO.items() if entry.masked)
    raise UserError(f"x: a mask of patches given to model {name!r}, which takes none; choose {known}")
  return x[0]


def _check_images(x: jax.Array, name: str, image_shape: tuple[int, ...]) -> None:
  if x.ndim != 4:
    raise UserError(f"x: shape {x.shape} given to model {name!r}; it takes [batch, height, width, channels]")
  if x.shape[-1] != image_shape[-1]:
    raise UserError(f"x: {x.shape[-1]} channels given to model {name!r}, built for images {image_shape}")
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise UserError(f"x: {x.dtype} pixels given to model {name!r}; normalise them to floating point first")


def _check_tokens(x: jax.Array, name: str, shape: tuple[int, ...]) -> None:
  if x.ndim != 2:
    raise UserError(f"x: shape {x.shape} given to model {name!r}; it takes [batch, tokens] such as {shape}")
  if not jnp.issubdtype(x.dtype, jnp.integer):
    raise UserError(f"x: {x.dtype} values given to model {name!r}; it takes whole numbers, ids of tokens")


def _input_type(shape: tuple[int, ...]):
  return jnp.float32 if len(shape) == 3 else jnp.int32


def _entry(name: str) -> _Entry:
  if name not in _ZOO:
    raise UserError(f"model: {name!r} is unknown{_near(name, _ZOO)}; choose one of {', '.join(_ZOO)}")
  return _ZOO[name]


def _near(word: str, known: Mapping[str, Any]) -> str:
  matches = difflib.get_close_matches(str(word), list(known), n=3)
  return f" (did you mean {' or '.join(matches)}?)" if matches else ""


def _check_positive(option: str, value: Any) -> None:
  if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 1 <= value < 2**31:
    raise UserError(f"{option}: {value!r} is not a whole number: give one from 1 to {2**31 - 1}")


def _check_value(option: str, value: Any, inits: tuple[str, ...]) -> None:
  choices = inits if option == "init" else _CHOICES.get(option)
  if choices:
    if value not in choices:
      raise UserError(f"{option}: {value!r} is unknown; choose one of {', '.join(map(str, choices))}")
  elif option in _LISTS:
    if not isinstance(value, tuple | list) or (not value and option != "attention_sides"):
      raise UserError(f"{option}: {value!r} is not a tuple of sizes, such as (16, 8)")
    if len(value) > 1000:
      raise UserError(f"{option}: {len(value)} layers are more than 1000; name fewer")
    for item in value:
      _check_positive(option, item)
  elif option in _REAL:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < np.inf:
      raise UserError(f"{option}: {value!r} is not a number that is 0 or more")
  elif not (option in _OR_NONE and value == 0):
    _check_positive(option, value)
