"""Networks that take noisy data, a noise level and a condition: an MLP, a U-Net and a transformer."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jdistill import diffusion
from jdistill.base import Key, Network, Outputs, PyTree, Sites, UserError, Variables
from jdistill.diffusion import BOTTLENECK, Denoiser, Noisy
from jdistill.models.denoiser_layers import (
  GroupNorm,
  condition_features,
  gated_block,
  modulated,
  residual_block,
  up2,
)
from jdistill.models.initialise import draw_params
from jdistill.models.layers import Conv, Dense, Recorder, flatten_maps
from jdistill.models.transformer_layers import (
  Positions,
  check_heads,
  dense,
  patches,
  plain_norm,
  self_attention,
)
from jdistill.ops import avg_pool2
from jdistill.ops.precision import widen

PREDICTIONS = ("edm", "consistency", *diffusion.PREDICTIONS)
# the ends of the names of layers that start at zero, and of those of which a condition chooses one row
ZERO, ROWS = "_zero", "_rows"


class DenoisingNetwork(nn.Module):
  """What all denoisers have in common.

  Attributes:
    num_classes: conditions; 1 for none. One more, the number itself, stands for no condition.
    schedule: `"edm"`, `"vp_cosine"`, `"vp_linear"` or `"rectified_flow"`; see `jdistill.diffusion`.
    t_min, t_max: the range of times, of `"edm"` that of noise levels; 0 for the schedule's own.
    prediction: what the network itself gives: `"x0"`, `"eps"`, `"v"`, `"flow"` or `"score"`; `"edm"`, with
      EDM's scalings around it; or `"consistency"`, with those of consistency models, which change nothing at `t_min`.
      What others see is always `x_0`.
    sigma_data: standard deviation of the data, for these scalings.
  """

  num_classes: int
  schedule: str = "edm"
  t_min: float = 0.0
  t_max: float = 0.0
  prediction: str = "edm"
  sigma_data: float = 0.5

  @property
  def computes_in(self) -> jnp.dtype | None:
    """The type in which the network computes, whatever its parameters have; `None` for theirs."""
    return None


class DenoisingMLP(DenoisingNetwork):
  """Dense layers with SiLU, each modulated by the noise level and the condition (FiLM); taps `block0`, ...

  The site `"bottleneck"` is what enters the last layer, `[n, width]`.

  Attributes:
    widths: units per hidden layer.
    features: length of the vector of noise level and condition.
  """

  widths: tuple[int, ...] = (128, 128, 128)
  features: int = 64

  @nn.compact
  def __call__(self, noisy: Noisy, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    about = condition_features(noisy.t, noisy.cond, self.num_classes, self.features)
    x = flatten_maps(noisy.x)
    for i, width in enumerate(self.widths):
      x = jax.nn.silu(modulated(Dense(width, name=f"dense{i}")(x), about, f"film{i}"))
      x = record.tap(f"block{i}", x)
    x = record.tap(BOTTLENECK, x)
    return Dense(math.prod(noisy.x.shape[1:]), name=f"head{ZERO}")(x).reshape(noisy.x.shape), x


class UNet(DenoisingNetwork):
  """Residual blocks at falling resolutions and back, with skip connections (DDPM, arXiv 2006.11239, smaller).

  A level has one block of `widths[i]` channels; between two, means of 2x2 places, and back their repetition. The lowest
  has another one with `attention`. The site `"bottleneck"` is the lowest map, `[n, h, w, widths[-1]]`, whose mean is
  the embedding.

  Attributes:
    widths: channels of each level; all but the last halve the sides.
    features: length of the vector of noise level and condition.
    attention: heads of self-attention at the lowest level; 0 for none.
  """

  widths: tuple[int, ...] = (16, 32, 32)
  features: int = 64
  attention: int = 0

  @nn.compact
  def __call__(self, noisy: Noisy, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    self._check(noisy.x.shape)
    about = condition_features(noisy.t, noisy.cond, self.num_classes, self.features)
    x, skips = Conv(self.widths[0], 3, 1, 1, name="stem")(noisy.x), []
    for i, width in enumerate(self.widths):
      x = residual_block(x, about, width, f"down{i}")
      if i + 1 < len(self.widths):
        skips.append(x)
        x = avg_pool2(x)
    if self.attention:
      n, channels = x.shape[0], x.shape[-1]
      x = x + self_attention(GroupNorm()(x).reshape(n, -1, channels), self.attention, "middle_").reshape(x.shape)
    x = lowest = record.tap(BOTTLENECK, residual_block(x, about, self.widths[-1], "middle"))
    for i, skip in reversed(list(enumerate(skips))):
      x = residual_block(jnp.concatenate([up2(x), skip], axis=-1), about, self.widths[i], f"up{i}")
    out = Conv(noisy.x.shape[-1], 3, 1, 1, name=f"head{ZERO}")(jax.nn.silu(GroupNorm()(x)))
    return out, jnp.mean(lowest, (1, 2))

  def _check(self, shape: tuple[int, ...]) -> None:
    factor = 2 ** (len(self.widths) - 1)
    if shape[1] % factor or shape[2] % factor:
      raise UserError(
        f"widths: {len(self.widths)} levels halve sides {len(self.widths) - 1} times, and {factor} does not divide "
        f"{shape[1]}x{shape[2]}; name fewer"
      )
    if self.attention:
      check_heads(self.widths[-1], self.attention, ("widths[-1]", "attention"))


class DiT(DenoisingNetwork):
  """Patches, learned positions and transformer blocks that the noise level and the condition modulate (adaLN-Zero).

  A block is `x + a attention(m(norm(x)))`, then `x + b network(m(norm(x)))` with 4 * `dim` hidden units, where the
  gates `a`, `b` and the modulations `m` are dense maps of the vector of noise level and condition that start at zero
  (arXiv 2212.09748). The site `"bottleneck"` are the tokens after the middle block, `[n, tokens, dim]`, whose mean is
  the embedding.

  Attributes:
    patch: side of a patch.
    dim: length of a token, a multiple of `heads`.
    depth: number of blocks.
    heads: attention heads.
    features: length of the vector of noise level and condition.
  """

  patch: int = 2
  dim: int = 64
  depth: int = 4
  heads: int = 4
  features: int = 64

  @nn.compact
  def __call__(self, noisy: Noisy, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    check_heads(self.dim, self.heads)
    about = condition_features(noisy.t, noisy.cond, self.num_classes, self.features)
    x = Positions(name="positions")(patches(noisy.x, self.patch, self.dim, "patches"))
    middle = x
    for i in range(self.depth):
      x = record.tap(f"block{i}", gated_block(x, about, self.heads, f"block{i}_"))
      if i == (self.depth - 1) // 2:
        middle = x = record.tap(BOTTLENECK, x)
    n, height, width, channels = noisy.x.shape
    rows, columns = height // self.patch, width // self.patch
    x = dense(modulated(plain_norm(x), about, "last_film"), self.patch**2 * channels, f"head{ZERO}")
    x = x.reshape(n, rows, columns, self.patch, self.patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(noisy.x.shape), jnp.mean(middle, 1)


def build_denoiser(module: DenoisingNetwork, shape: tuple[int, int, int], init_name: str) -> Network:
  """A module as a `Network` of `Noisy`, whose logits are predictions of `x_0`, `[n, *shape]`.

  Raises:
    UserError: a schedule, a range of times or a kind of prediction that is not there or does not fit; at trace time,
      other inputs.
  """
  schedule = _schedule(module)
  known = Denoiser(schedule, module.num_classes, shape, module.sigma_data, module.prediction)

  scalings = {
    "edm": None,
    "consistency": lambda level: diffusion.consistency_scalings(
      level, module.sigma_data, schedule.noise_ratio(schedule.t_min)
    ),
  }

  init = first_params(module, Noisy(jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1, jnp.int32)), init_name)

  def apply(
    params: PyTree, x: Noisy, *, train: bool = False, rngs=None, stats=None, sites: Sites | None = None
  ) -> Outputs:
    del rngs, stats
    _check_noisy(x, shape)
    record, seen, dtype = Recorder(sites), {}, module.computes_in or x.x.dtype
    if module.computes_in:
      params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    def network(inner: jax.Array, noise: jax.Array) -> jax.Array:
      prediction, seen["embedding"] = module.apply(
        {"params": params}, Noisy(inner.astype(dtype), noise, x.cond), train=train, record=record
      )
      return widen(prediction)

    t = widen(x.t)
    if module.prediction in scalings:
      factors = scalings[module.prediction]
      x0 = diffusion.preconditioned(network, schedule, widen(x.x), t, module.sigma_data, scalings=factors)
    else:
      given = network(x.x, jnp.log(schedule.noise_ratio(t)) / 4)
      x0 = diffusion.convert_prediction(schedule, given, x.x, t, module.prediction, "x0")
    return record.outputs(x0, seen["embedding"], {})

  return Network(init, apply, denoiser=known)


def first_params(module: nn.Module, like: PyTree, init_name: str) -> Callable[[Key], Variables]:
  """`init` of a module that takes `like`.

  Layers whose names end in `ZERO` start at zero. The rows of those that end in `ROWS` are drawn as of a layer with a
  single input, which a chosen row is.
  """

  @jax.jit
  def init(key: Key) -> Variables:
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), like, train=False, record=Recorder()))
    params = draw_params(key, shapes["params"], init_name)
    return Variables({name: _begun(name, own) for name, own in params.items()})

  return init


def _begun(name: str, layer: dict[str, jax.Array]) -> dict[str, jax.Array]:
  if name.endswith(ZERO):
    return jax.tree.map(jnp.zeros_like, layer)
  return {"kernel": layer["kernel"] * math.sqrt(len(layer["kernel"]))} if name.endswith(ROWS) else layer


def _schedule(module: DenoisingNetwork) -> diffusion.Schedule:
  """The schedule of a module, with its range of times."""
  names = ("sigma_min", "sigma_max") if module.schedule == "edm" else ("t_min", "t_max")
  if module.schedule == "vp_linear" and module.t_max:
    raise UserError("t_max: schedule 'vp_linear' ends at 1; leave it at 0")
  ends = zip(names, (module.t_min, module.t_max), strict=True)
  try:
    schedule = diffusion.schedule(module.schedule, **{name: float(value) for name, value in ends if value})
    if module.prediction in diffusion.PREDICTIONS:
      diffusion.check_prediction(schedule, module.prediction)
  except ValueError as error:
    raise UserError(str(error)) from error
  if not 0 < module.sigma_data < np.inf:
    raise UserError(f"sigma_data: {module.sigma_data} is not positive; give the data's standard deviation")
  if module.prediction == "eps" and float(schedule.alpha(schedule.t_max)) < 1e-4:
    raise UserError(
      f"prediction='eps': at the last time of schedule {module.schedule!r} nothing of the data is left to tell noise "
      "from; choose 'x0' or 'v', or lower t_max"
    )
  return schedule


def _check_noisy(x: PyTree, shape: tuple[int, ...]) -> None:
  if not isinstance(x, Noisy):
    raise UserError("x: a denoiser takes noisy data with times and conditions; use the task 'samples'")
  if x.x.shape[1:] != shape:
    raise UserError(f"x: noisy data of shape {x.x.shape[1:]} given to a denoiser that was built for {shape}")
