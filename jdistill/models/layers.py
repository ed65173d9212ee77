"""The layers of the zoo: convolution, dense, normalisation, pooling, and the recorder that names what passes by.

Layers only say the shapes of their parameters; `initialise.draw_params` makes the values for the whole network. Those
from Linen's own `init` are NaN, so that a forgotten draw cannot pass unseen.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.base import POOLED, Outputs, PyTree, Sites, UserError
from jdistill.ops import avg_pool2, batch_norm, conv2d, instance_norm, max_pool2, relu, standardize
from jdistill.ops.precision import widen
from jdistill.ops.spatial import along_channels

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "relu": relu,
  "sigmoid": jax.nn.sigmoid,
  "leaky_relu": lambda x: jax.nn.leaky_relu(x, 0.01),
  "softplus": lambda x: jax.nn.softplus(60 * x) / 60,  # a ReLU with second derivatives, as in RCIG (arXiv 2302.06755)
}
POOLINGS: dict[str, Callable[[jax.Array], jax.Array]] = {"avg": avg_pool2, "max": max_pool2, "none": lambda x: x}
NORMS = ("instance", "batch", "group", "layer", "none")

EPSILON = 1e-5
MOMENTUM = 0.9  # of the running value, so PyTorch's momentum of 0.1


class Recorder:
  """Collects what one forward pass shows of itself, and replaces values at named sites; made anew for every call.

  Args:
    sites: functions by site name; each gets the value at that place, and its result flows on instead.
  """

  def __init__(self, sites: Sites | None = None):
    self._sites = dict(sites or {})
    self._seen: list[str] = []
    self._taps: dict[str, jax.Array] = {}
    self._norm_inputs: dict[str, tuple[jax.Array, jax.Array]] = {}

  def site(self, name: str, x: jax.Array) -> jax.Array:
    """Gives `sites[name](x)`, or `x` where nothing is to be replaced."""
    self._seen.append(name)
    return self._sites[name](x) if name in self._sites else x

  def tap(self, name: str, x: jax.Array) -> jax.Array:
    """Like `site`, and keeps the value that flows on (the replaced one) under `name` in the taps."""
    self._taps[name] = self.site(name, x)
    return self._taps[name]

  def global_mean(self, x: jax.Array) -> jax.Array:
    """The embedding `[n, c]` of networks that average their last map `[n, h, w, c]`, which is a site of its own."""
    return self.site("embedding", jnp.mean(self.site(POOLED, x), (1, 2)))

  def norm_input(self, name: str, mean: jax.Array, variance: jax.Array) -> None:
    """Keeps the mean and the biased variance, `[channels]` each, of what enters a batch norm."""
    self._norm_inputs[name] = (mean, variance)

  def outputs(self, logits: jax.Array, embedding: jax.Array, stats: PyTree) -> Outputs:
    """Gathers the pass into `Outputs`.

    Raises:
      UserError: a replacement was given for a site that the network does not have.
    """
    check_sites(self._sites, self._seen)
    return Outputs(logits, embedding, self._taps, self._norm_inputs, stats)


def check_sites(sites: Sites | None, available: list[str]) -> None:
  """Refuses replacements for sites that do not exist.

  Raises:
    UserError: naming the unknown sites and listing the available ones.
  """
  unknown = sorted(set(sites or {}) - set(available))
  if unknown:
    known = ", ".join(available) if available else "none: it names no sites"
    raise UserError(f"sites: {', '.join(unknown)} not in this network; available are {known}")


def drawn_later(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """The initialiser of all parameters: NaN until `initialise.draw_params` makes the values."""
  return jnp.full(shape, jnp.nan, jnp.float32)


class Conv(nn.Module):
  """A convolution `[n, h, w, i] -> [n, h', w', features]` with a kernel `[kh, kw, i / groups, features]` and a bias.

  Attributes:
    features: output channels.
    size: side of the square kernel.
    padding: zeros on each of the four sides, or `"SAME"`: as many as make `ceil(side / stride)` outputs, of which the
      odd one is at the bottom and on the right.
    stride: step in both directions.
    use_bias: whether there is a bias.
    bias_cancels: what follows subtracts each channel's mean, so the bias stays a parameter (published networks have
      it) but not added. Its gradient is exactly zero, where adding it would leave rounding errors.
    groups: independent blocks of channels; as many as there are input channels make it depthwise.
  """

  features: int
  size: int = 3
  padding: int | str = 1
  stride: int = 1
  use_bias: bool = True
  bias_cancels: bool = False
  groups: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1] // self.groups
    kernel = self.param("kernel", drawn_later, (self.size, self.size, channels, self.features))
    padding = self.padding if isinstance(self.padding, str) else ((self.padding, self.padding),) * 2
    x = conv2d(x, kernel, strides=self.stride, padding=padding, groups=self.groups)  # [n, h', w', features]
    if not self.use_bias:
      return x
    bias = self.param("bias", drawn_later, (self.features,))
    if self.bias_cancels and x.shape[1:-1] != (1, 1):
      return x
    return x + along_channels(bias, x.ndim)


class Dense(nn.Module):
  """An affine map `[n, i] -> [n, features]` with a kernel `[i, features]` and a bias `[features]`, or without one."""

  features: int
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param("kernel", drawn_later, (x.shape[-1], self.features))
    if not self.use_bias:
      return x @ kernel
    bias = self.param("bias", drawn_later, (self.features,))
    return x @ kernel + bias.reshape(1, -1)


class Norm(nn.Module):
  """Normalisation `(x - mean) / sqrt(variance + epsilon) * scale + bias` of maps `[n, h, w, c]`, `epsilon` 1e-5.

  `kind` says over what: `"instance"` per image and channel, `"group"` per image and group of neighbouring channels,
  `"layer"` per image (its scale and bias are `[h, w, c]`, all others `[c]`), `"batch"` per channel over the batch,
  `"none"` nothing, with no parameters. Variances are biased.

  `"batch"` normalises with the batch's own moments when `train`, else with the running ones of the collection
  `batch_stats`. Running values move by `0.9 * old + 0.1 * new`; like PyTorch's, the running variance takes the
  *unbiased* batch variance (Flax's own takes the biased one). They carry no gradient. The moments recorded as
  `norm_inputs` do, in both modes.

  Instance norm of a 1x1 map would turn every image into the same zero, so there only scale and bias are applied.
  """

  kind: str = "instance"
  groups: int = 4
  epsilon: float = EPSILON

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> jax.Array:
    if self.kind == "none":
      return x
    shape = x.shape[1:] if self.kind == "layer" else x.shape[-1:]
    scale = self.param("scale", drawn_later, shape)
    bias = self.param("bias", drawn_later, shape)
    if self.kind == "instance" and x.shape[1:-1] != (1, 1):
      return instance_norm(x, scale, bias, eps=self.epsilon)
    if self.kind == "batch":
      return self._batch(x, scale, bias, train, record)
    if self.kind != "instance":
      x = _grouped(x, 1 if self.kind == "layer" else self.groups, self.epsilon)
    if self.kind == "layer":
      return x * scale[None] + bias[None]
    return x * along_channels(scale, x.ndim) + along_channels(bias, x.ndim)

  @nn.nowrap
  def _batch(self, x: jax.Array, scale: jax.Array, bias: jax.Array, train: bool, record: Recorder) -> jax.Array:
    given = x.dtype
    x = widen(x)  # moments of many numbers, and running ones that move by little, want more digits than bfloat16 has
    y, mean, variance = batch_norm(x, widen(scale), widen(bias), self.epsilon)
    record.norm_input(str(self.name), mean, variance)
    running = None
    if self.is_initializing() or self.has_variable("batch_stats", "mean"):
      running = (
        self.variable("batch_stats", "mean", jnp.zeros_like, mean),
        self.variable("batch_stats", "var", jnp.ones_like, variance),
      )
    if running and train and not self.is_initializing():
      count = x.size // x.shape[-1]
      unbiased = variance * (count / max(count - 1, 1))
      for variable, new in zip(running, (mean, unbiased), strict=True):
        variable.value = MOMENTUM * variable.value + (1 - MOMENTUM) * jax.lax.stop_gradient(new)
    if train:
      return y.astype(given)
    if running is None:
      raise UserError("stats: none given to a network with batch norm in eval mode; pass the `stats` of its Variables")
    mean, variance = (along_channels(moment.value, x.ndim) for moment in running)
    x = ((x - mean) * jax.lax.rsqrt(variance + self.epsilon)).astype(given)
    return x * along_channels(scale, x.ndim) + along_channels(bias, x.ndim)


def _grouped(x: jax.Array, groups: int, epsilon: float) -> jax.Array:
  if x.shape[-1] % groups:
    raise UserError(f"groups: {groups} does not divide {x.shape[-1]} channels; choose a divisor")
  split = x.reshape(*x.shape[:-1], groups, -1)  # [n, h, w, groups, c / groups]
  return standardize(split, (*range(1, x.ndim - 1), x.ndim), epsilon).reshape(x.shape)


def conv_norm(
  x: jax.Array,
  prefix: str,
  index: int | str,
  features: int,
  size: int = 3,
  *,
  stride: int = 1,
  groups: int = 1,
  train: bool,
  record: Recorder,
) -> jax.Array:
  """A convolution without bias that keeps the map's size (but for the stride), then batch norm.

  Args:
    x: `[n, h, w, i]`.
    prefix: of both names; the layers are `{prefix}conv{index}` and `{prefix}norm{index}` of the calling module.
    index: tells the layers of one prefix apart.
    features: output channels.
    size: odd side of the square kernel.
    stride: step in both directions.
    groups: independent blocks of channels.
    train: batch norm uses the batch's own moments.
    record: notes the moments of what enters the norm.

  Returns:
    `[n, ceil(h / stride), ceil(w / stride), features]`, before any activation.
  """
  conv = Conv(features, size, size // 2, stride, use_bias=False, groups=groups, name=f"{prefix}conv{index}")
  return Norm("batch", name=f"{prefix}norm{index}")(conv(x), train=train, record=record)


def pool(x: jax.Array, pooling: str) -> jax.Array:
  """Pools 2x2 with stride 2, dropping an odd last row or column; a map with a side below 2 passes unchanged."""
  return x if min(x.shape[1:3]) < 2 else POOLINGS[pooling](x)


def flatten_maps(x: jax.Array) -> jax.Array:
  """`[n, h, w, c] -> [n, h * w * c]` in that order, channels fastest (PyTorch's `[n, c, h, w]` flattens rows last)."""
  return x.reshape(x.shape[0], -1)


def stem_padding(x: jax.Array, usual: int, wide: int) -> int:
  """`wide` for 28x28x1 images, whose maps the field pads to 32x32 (or keeps at 28x28 in LeNet), else `usual`."""
  return wide if x.shape[1:] == (28, 28, 1) else usual
