"""How data become noise: `x_t = alpha(t) x_0 + sigma(t) eps`, from data at small `t` to noise at large `t`."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Key
from jdistill.ops.precision import widen

VARIANCE_PRESERVING, VARIANCE_EXPLODING, FLOW = "variance_preserving", "variance_exploding", "flow"


class Schedule(NamedTuple):
  """A forward process as pure functions of time; all of them work elementwise on any shape.

  Attributes:
    name: as `schedule` knows it.
    kind: `"variance_preserving"` (`alpha^2 + sigma^2 = 1`), `"variance_exploding"` (`alpha = 1`) or `"flow"`
      (`alpha + sigma = 1`).
    alpha: `(t) -> factor of the data`.
    sigma: `(t) -> standard deviation of the noise`.
    t_min, t_max: the times in use; the ends of the process, where some conversions divide by zero, are outside.
    sample_t: `(key, shape) -> t`, the times at which denoisers are trained.
    grid: `(n) -> [n] times`, `t_max` first and strictly decreasing down to `t_min`, for samplers of `n` steps.
  """

  name: str
  kind: str
  alpha: Callable[[jax.Array], jax.Array]
  sigma: Callable[[jax.Array], jax.Array]
  t_min: float
  t_max: float
  sample_t: Callable[[Key, tuple[int, ...]], jax.Array]
  grid: Callable[[int], jax.Array]

  def noise_ratio(self, t: jax.Array) -> jax.Array:
    """`sigma / alpha`: the noise level once the data are scaled back."""
    return self.sigma(t) / self.alpha(t)


def edm(
  *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, mean: float = -1.2, std: float = 1.2
) -> Schedule:
  """Noise that is added to data as they are, `alpha = 1` and `sigma = t` (EDM, arXiv 2206.00364, table 1).

  Denoisers are trained at `ln t ~ N(mean, std^2)`, clipped to the range. The grid is that of eq. 5,
  `t_i = (sigma_max^(1/rho) + i / (n - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho`.

  Args:
    sigma_min, sigma_max: the range of noise levels.
    rho: how much finer the grid is near the data.
    mean, std: of the logarithm of training times.

  Raises:
    ValueError: not `0 < sigma_min < sigma_max`, or `rho` or `std` that are not positive.
  """
  if not 0 < sigma_min < sigma_max < math.inf:
    raise ValueError(f"edm: needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
  if rho <= 0 or std <= 0:
    raise ValueError(f"edm: rho and std must be positive, got {rho} and {std}")

  def sample_t(key: Key, shape: tuple[int, ...]) -> jax.Array:
    return jnp.clip(jnp.exp(mean + std * jax.random.normal(key, shape)), sigma_min, sigma_max)

  def grid(n: int) -> jax.Array:
    ends = np.array([sigma_max, sigma_min]) ** (1 / rho)
    return jnp.asarray(_exact_ends(np.linspace(*ends, _count(n)) ** rho, sigma_max, sigma_min), jnp.float32)

  return Schedule(
    "edm", VARIANCE_EXPLODING, lambda t: jnp.ones_like(widen(t)), widen, sigma_min, sigma_max, sample_t, grid
  )


def vp_cosine(*, t_min: float = 1e-3, t_max: float = 0.999) -> Schedule:
  """`alpha = cos(pi t / 2)`, `sigma = sin(pi t / 2)`, at times uniform in `[t_min, t_max]` (arXiv 2202.00512, sec. 3).

  Args:
    t_min, t_max: inside (0, 1).

  Raises:
    ValueError: not `0 < t_min < t_max < 1`.
  """
  _check_range("vp_cosine", t_min, t_max)
  half = math.pi / 2
  return Schedule(
    "vp_cosine",
    VARIANCE_PRESERVING,
    lambda t: jnp.cos(half * widen(t)),
    lambda t: jnp.sin(half * widen(t)),
    t_min,
    t_max,
    *_uniform(t_min, t_max),
  )


def vp_linear(*, steps: int = 1000, first: float = 1e-4, last: float = 0.02, t_min: float | None = None) -> Schedule:
  """The discrete process of DDPM (arXiv 2006.11239) in continuous time: `t = (i + 1) / steps` is its step `i`.

  `alpha = sqrt(prod_{j <= i} (1 - beta_j))` with `beta` from `first` to `last` in equal steps, and
  `sigma = sqrt(1 - alpha^2)`; between two steps `ln alpha` is linear in `t`.

  Args:
    steps: of the discrete process.
    first, last: its first and last `beta`.
    t_min: the smallest time in use; `1 / steps`, the first step, where open.

  Raises:
    ValueError: fewer than two steps, not `0 < first <= last < 1`, or `t_min` outside (0, 1).
  """
  if steps < 2 or not 0 < first <= last < 1:
    raise ValueError(f"vp_linear: needs two steps and 0 < first <= last < 1, got {steps}, {first} and {last}")
  t_min = 1 / steps if t_min is None else t_min
  if not 0 < t_min < 1:
    raise ValueError(f"vp_linear: t_min must be in (0, 1), got {t_min}")
  logs = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-np.linspace(first, last, steps)))])

  def log_alpha(t: jax.Array) -> jax.Array:
    place = jnp.clip(widen(t), 0, 1) * steps
    low = jnp.clip(jnp.floor(place).astype(jnp.int32), 0, steps - 1)
    table = jnp.asarray(logs, place.dtype)
    return table[low] + (place - low.astype(place.dtype)) * (table[low + 1] - table[low])

  return Schedule(
    "vp_linear",
    VARIANCE_PRESERVING,
    lambda t: jnp.exp(log_alpha(t)),
    lambda t: jnp.sqrt(-jnp.expm1(2 * log_alpha(t))),
    t_min,
    1.0,
    *_uniform(t_min, 1.0),
  )


def rectified_flow(*, t_min: float = 1e-3, t_max: float = 0.999, mean: float = 0.0, std: float = 1.0) -> Schedule:
  """`alpha = 1 - t`, `sigma = t` (arXiv 2209.03003), trained at `logit t ~ N(mean, std^2)` (arXiv 2403.03206, eq. 19).

  Args:
    t_min, t_max: inside (0, 1); training times are clipped to them.
    mean, std: of the logit of training times; `std=0` for times that are uniform instead.

  Raises:
    ValueError: not `0 < t_min < t_max < 1`, or a negative `std`.
  """
  _check_range("rectified_flow", t_min, t_max)
  if std < 0:
    raise ValueError(f"rectified_flow: std must not be negative, got {std}")
  uniform, grid = _uniform(t_min, t_max)

  def sample_t(key: Key, shape: tuple[int, ...]) -> jax.Array:
    if std == 0:
      return uniform(key, shape)
    return jnp.clip(jax.nn.sigmoid(mean + std * jax.random.normal(key, shape)), t_min, t_max)

  return Schedule("rectified_flow", FLOW, lambda t: 1 - widen(t), widen, t_min, t_max, sample_t, grid)


SCHEDULES = {"edm": edm, "vp_cosine": vp_cosine, "vp_linear": vp_linear, "rectified_flow": rectified_flow}


@functools.lru_cache(maxsize=32)
def schedule(name: str, **options: float) -> Schedule:
  """A schedule by its name; the same object for the same arguments, so that compiled functions are shared.

  Args:
    name: `"edm"`, `"vp_cosine"`, `"vp_linear"` or `"rectified_flow"`.
    **options: of the function of that name.

  Raises:
    ValueError: an unknown name, or what the function refuses.
  """
  if name not in SCHEDULES:
    raise ValueError(f"schedule={name!r}: unknown; choose one of {', '.join(SCHEDULES)}")
  return SCHEDULES[name](**options)


def per_example(values: jax.Array, like: jax.Array) -> jax.Array:
  """`[B]` as `[B, 1, ...]`, to be multiplied with `like` `[B, ...]`; scalars stay as they are."""
  values = jnp.asarray(values)
  return values.reshape(values.shape + (1,) * (jnp.ndim(like) - values.ndim)) if values.ndim else values


def add_noise(schedule: Schedule, x0: jax.Array, eps: jax.Array, t: jax.Array) -> jax.Array:
  """`x_t = alpha(t) x_0 + sigma(t) eps`.

  Args:
    schedule: the forward process.
    x0: `[B, ...]` data.
    eps: `[B, ...]` standard normal noise.
    t: `[B]` or a scalar.

  Returns:
    `[B, ...]`.

  Raises:
    ValueError: data and noise of different shapes.
  """
  if jnp.shape(x0) != jnp.shape(eps):
    raise ValueError(f"add_noise: x0 {jnp.shape(x0)} and eps {jnp.shape(eps)} must have the same shape")
  return per_example(schedule.alpha(t), x0) * x0 + per_example(schedule.sigma(t), x0) * eps


def _uniform(t_min: float, t_max: float) -> tuple[Callable, Callable]:
  def sample_t(key: Key, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, minval=t_min, maxval=t_max)

  def grid(n: int) -> jax.Array:
    return jnp.asarray(_exact_ends(np.linspace(t_max, t_min, _count(n)), t_max, t_min), jnp.float32)

  return sample_t, grid


def _exact_ends(times: np.ndarray, first: float, last: float) -> np.ndarray:
  """Rounding must not carry the ends of a grid out of the range."""
  times[0] = first
  if len(times) > 1:
    times[-1] = last
  return times


def _count(n: int) -> int:
  if n < 1:
    raise ValueError(f"grid: needs at least one step, got {n}")
  return n


def _check_range(name: str, t_min: float, t_max: float) -> None:
  if not 0 < t_min < t_max < 1:
    raise ValueError(f"{name}: needs 0 < t_min < t_max < 1, got {t_min} and {t_max}")
