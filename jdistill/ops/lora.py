"""Low-rank changes of a trained network: two thin factors in the place of a changed kernel."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdistill.base import Key, Network, Outputs, PyTree, UserError, Variables


class LowRank(NamedTuple):
  """The change of a kernel that maps `i` numbers to `o`.

  Attributes:
    a: `[i, r]`.
    b: `[r, o]`.
  """

  a: jax.Array
  b: jax.Array


Factors = Mapping[str, LowRank | jax.Array]  # by the path of a kernel; an array takes the place of the whole kernel


def lora_delta(a: jax.Array, b: jax.Array, *, alpha: float = 1.0) -> jax.Array:
  """The change of a matrix by its factors, `alpha A B`.

  Args:
    a: `[i, r]`.
    b: `[r, o]`.
    alpha: factor of the change; where others write `alpha / r`, give that quotient.

  Returns:
    `[i, o]`.

  Raises:
    ValueError: factors that do not fit each other.

  References:
    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), eq. 3, transposed.
  """
  if jnp.ndim(a) != 2 or jnp.ndim(b) != 2 or a.shape[1] != b.shape[0]:
    raise ValueError(f"lora_delta: factors of shapes {jnp.shape(a)} and {jnp.shape(b)}; give [i, r] and [r, o]")
  return alpha * jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def apply_lora(base_params: PyTree, lora_params: Factors, *, alpha: float = 1.0) -> PyTree:
  """The parameters of a network after the change of some of its kernels, `W + alpha A B`.

  A convolution's kernel `[kh, kw, ci, co]` is changed as the matrix `[kh kw ci, co]`. Differentiable in both.

  Args:
    base_params: parameters of any network.
    lora_params: the change of a kernel by its path, such as `"conv0/kernel"`; an array of the kernel's own shape takes
      its place. What is not named stays as it is.
    alpha: see `lora_delta`.

  Returns:
    A tree like `base_params`.

  Raises:
    UserError: a path that the network does not have, or a change of another shape.
  """
  leaves, structure = jax.tree.flatten_with_path(base_params)
  named = [(_name(path), leaf) for path, leaf in leaves]
  if unknown := lora_params.keys() - {path for path, _ in named}:
    raise UserError(f"factors: {min(unknown)} is no parameter of this network; give those of the network they change")
  return jax.tree.unflatten(structure, [_changed(path, leaf, lora_params.get(path), alpha) for path, leaf in named])


def _changed(path: str, kernel: jax.Array, change: LowRank | jax.Array | None, alpha: float) -> jax.Array:
  if change is None:
    return kernel
  low_rank = isinstance(change, LowRank)
  shape = (change.a.shape[0], change.b.shape[1]) if low_rank else change.shape
  if shape != (_sides(kernel) if low_rank else kernel.shape):
    raise UserError(f"factors: {path} has the shape {kernel.shape} and its change {shape}; give those of this network")
  return kernel + lora_delta(*change, alpha=alpha).reshape(kernel.shape) if low_rank else change


def kernels(params: PyTree) -> dict[str, tuple[int, int]]:
  """The kernels of a network by their paths, each with the numbers `(i, o)` that it maps from and to.

  Args:
    params: parameters, or their shapes; kernels are the leaves of that name.
  """
  leaves, _ = jax.tree.flatten_with_path(params)
  named = {_name(path): leaf for path, leaf in leaves}
  return {path: _sides(leaf) for path, leaf in named.items() if path.rpartition("/")[2] == "kernel"}


def check_ranks(params: PyTree, ranks: Mapping[str, int | None], key: str = "ranks") -> None:
  """Refuses ranks that are no change of low rank.

  Args:
    params: parameters, or their shapes.
    ranks: by the path of a kernel; `None` replaces it as a whole.
    key: what the user set, for messages.

  Raises:
    UserError: a rank below 1, or above one of the two sides of its kernel; a path that is no kernel.
  """
  sides = kernels(params)
  for path, rank in ranks.items():
    if path not in sides:
      raise UserError(f"{key}: {path} is no kernel of this network; choose among {', '.join(sides)}")
    if rank is not None and not 1 <= rank <= min(sides[path]):
      i, o = sides[path]
      raise UserError(f"{key}={rank}: {path} maps {i} numbers to {o}, so a rank lies in 1..{min(i, o)}; change it")


def init_lora(key: Key, base_params: PyTree, ranks: Mapping[str, int | None]) -> dict[str, LowRank | jax.Array]:
  """Factors that change nothing yet: `A ~ U(-1, 1) / sqrt(i)` and `B = 0`.

  Args:
    key: decides `A`.
    base_params: of the network.
    ranks: by the path of a kernel; `None` takes a copy of the whole kernel to be changed freely.

  Raises:
    UserError: see `check_ranks`.
  """
  check_ranks(base_params, ranks)
  leaves, _ = jax.tree.flatten_with_path(base_params)
  found, sides = {_name(path): leaf for path, leaf in leaves}, kernels(base_params)
  factors: dict[str, LowRank | jax.Array] = {}
  for number, (path, rank) in enumerate(sorted(ranks.items())):
    (i, o), kernel = sides[path], found[path]
    if rank is None:
      factors[path] = jnp.array(kernel, copy=True)
    else:
      a = jax.random.uniform(jax.random.fold_in(key, number), (i, rank), kernel.dtype, -1, 1) / i**0.5
      factors[path] = LowRank(a, jnp.zeros((rank, o), kernel.dtype))
  return factors


def with_lora(
  network: Network,
  ranks: Callable[[PyTree], Mapping[str, int | None]],
  *,
  alpha: float = 1.0,
  inputs: Callable[[jax.Array], jax.Array] | None = None,
  embedding: Callable[[jax.Array], jax.Array] | None = None,
) -> Network:
  """A network of which only low-rank factors learn.

  Its parameters are the factors. The network that they change is part of its statistics, `{"params": ..., "stats":
  ...}`: an argument of compiled programs that no optimiser touches. It always runs in evaluation mode, so running
  statistics stay as they are.

  Args:
    network: the network that is changed.
    ranks: `(parameters or their shapes) -> rank by path`, see `init_lora`.
    alpha: see `lora_delta`.
    inputs: what images go through before the network sees them; `None` for nothing.
    embedding: what takes the place of its embedding, in front of the head; `None` for the embedding.
  """

  def init(key: Key) -> Variables:
    key_base, key_factors = jax.random.split(key)
    base = network.init(key_base)
    return Variables(init_lora(key_factors, base.params, ranks(base.params)), base._asdict())

  def apply(params: PyTree, x: jax.Array, *, train=False, rngs=None, stats=None, sites=None) -> Outputs:
    del train, rngs
    x = x if inputs is None else inputs(x)
    whole = jax.tree.map(lambda leaf: leaf.astype(x.dtype), apply_lora(stats["params"], params, alpha=alpha))
    own = dict(sites or {}) | ({} if embedding is None else {"embedding": embedding})
    return network.apply(whole, x, stats=stats["stats"], sites=own or None)._replace(stats=stats)

  return Network(init, apply)


def _name(path: tuple) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _sides(kernel: jax.Array) -> tuple[int, int]:
  """The numbers that a kernel maps from and to."""
  size = 1
  for side in kernel.shape[:-1]:
    size *= side
  return size, kernel.shape[-1]
