"""What recipes of diffusion models share: their networks, conditions, fresh noise and figures of samples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdistill import diffusion
from jdistill.base import Key, Network, Outputs, PyTree, UserError, Variables
from jdistill.diffusion import Denoiser, Draws, Noisy, denoise
from jdistill.ops.rows import chunk_of, for_cpu, largest_convolution

_SAMPLING = 20240514  # samplers that draw noise give the same samples of the same draws


def denoiser_of(network: Network) -> Denoiser:
  """What is known of a denoiser.

  Raises:
    UserError: the network is none.
  """
  if network.denoiser is None:
    raise UserError("network: is no denoiser; choose 'denoising_mlp', 'unet', 'dit' or 'adm'")
  return network.denoiser


def asked(network: Network, params: PyTree, x_t: jax.Array, t: jax.Array, cond: jax.Array) -> Outputs:
  """A denoiser's outputs in training mode."""
  return network.apply(params, Noisy(x_t, t, cond), train=True)


def null(known: Denoiser, cond: jax.Array, guidance: float) -> jax.Array:
  """No condition for every row.

  Raises:
    UserError: the denoiser has no conditions to leave out.
  """
  if known.conditions == 1:
    raise UserError(f"guidance={guidance:g}: the denoiser has no conditions to be guided by; set it to 1")
  return jnp.full_like(cond, known.conditions)


def teacher_at(
  teacher: tuple[Network, Variables], cond: jax.Array, guidance: float
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """A teacher as `(x_t, t) -> x_0`, with classifier-free guidance where its scale is not 1."""
  network, variables = teacher
  real_at = denoise(network, variables.params, cond)
  if guidance == 1:
    return real_at
  without = null(denoiser_of(network), cond, guidance)
  return diffusion.guided(real_at, denoise(network, variables.params, without), guidance)


def random_conditions(key: Key, known: Denoiser, size: int, owned: jax.Array | None = None) -> jax.Array:
  """`[size]` conditions, each as likely as any other; of those in `owned` `[m]` alone, where it is given."""
  if owned is None:
    return jax.random.randint(key, (size,), 0, known.conditions)
  return diffusion.sample_condition(key, owned, size)


def row_noise(draws: Draws) -> Callable[[jax.Array], jax.Array]:
  """Fresh noise of a sampler's steps, `(number) -> [n, ...]`, which depends on the names of rows alone."""

  def draw(number: jax.Array) -> jax.Array:
    key = jax.random.fold_in(jax.random.key(_SAMPLING), number)
    keys = jax.vmap(lambda one: jax.random.fold_in(key, one))(draws.ids)
    return jax.vmap(lambda one: jax.random.normal(one, draws.eps.shape[1:], draws.eps.dtype))(keys)

  return draw


def shares(where: jax.Array) -> jax.Array:
  """What every row has of a mean over those that count: `[n]`, 0 for the others and for all where none does."""
  weight = where.astype(jnp.float32)
  return weight / jnp.maximum(jnp.sum(weight), 1)


def shared_sum(values: jax.Array, share: jax.Array) -> jax.Array:
  """`sum_i share_i values_i`, the part of some rows in a mean; rows without a share may hold anything."""
  return jnp.sum(jnp.where(share > 0, share * values, 0))


def spread(x: jax.Array, where: jax.Array | None = None) -> jax.Array:
  """The mean distance between neighbours in the batch, per root of the number of elements: it falls in a collapse.

  Args:
    x: `[n, ...]`.
    where: `[n]`, the rows that count; 0 where fewer than two do.
  """
  rows = x.reshape(x.shape[0], -1)
  if where is None:
    return jnp.mean(jnp.sqrt(jnp.mean(jnp.square(rows - jnp.roll(rows, 1, axis=0)), axis=1)))
  rows = jnp.where(where[:, None], rows, 0)[jnp.argsort(~where)]  # those that count come first
  count, place = jnp.sum(where), jnp.arange(x.shape[0])
  before = rows[jnp.where(place == 0, count - 1, place - 1)]
  each = jnp.sqrt(jnp.mean(jnp.square(rows - before), axis=1))
  return jnp.sum(jnp.where(place < count, each, 0)) / jnp.maximum(count, 1).astype(x.dtype)


def check_same_schedule(student: Denoiser, teacher: Denoiser) -> None:
  """Refuses a student that knows other times, shapes or conditions than its teacher.

  Raises:
    UserError: naming what differs.
  """
  if student.schedule is not teacher.schedule:
    own, other = (f"{one.name} from {one.t_min:g} to {one.t_max:g}" for one in (student.schedule, teacher.schedule))
    raise UserError(f"student.schedule: {own}, and that of the teacher is {other}; give both the same")
  if student.shape != teacher.shape:
    raise UserError(f"student: makes samples of shape {student.shape}, and its teacher of {teacher.shape}")
  if student.conditions != teacher.conditions:
    raise UserError(
      f"student: knows {student.conditions} conditions, and its teacher {teacher.conditions}; give both the same task"
    )


def own_chunk(network: Network, rows: int) -> int | None:
  """How many rows of an update of its own a denoiser looks at together; all where nothing is gained by fewer."""
  known = network.denoiser
  if known is None or not for_cpu():
    return None
  params = jax.eval_shape(network.init, jax.random.key(0)).params
  one = Noisy(jnp.zeros((1, *known.shape)), jnp.ones(1), jnp.zeros(1, jnp.int32))
  largest = largest_convolution(lambda params: network.apply(params, one, train=True).logits, params)
  return chunk_of(rows, largest) if largest else None
