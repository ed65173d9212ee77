"""What is kept of logits on a batch: all of them, the greatest, two numbers per image, or a few coordinates."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Batch, Outputs, PyTree, UserError
from jdistill.losses import dbr_record
from jdistill.ops.top_k import spread
from jdistill.teachers.labelled import mixed_taps, partner_labels

Arrays = Mapping[str, jax.Array]


class Codec(NamedTuple):
  """One kind of stored labels.

  Attributes:
    name: by which `decoder` finds it again.
    encode: `(logits [teachers, B, classes] float32, y [B], augmentation record) -> arrays of one step by name`. Pure.
  """

  name: str
  encode: Callable[[jax.Array, jax.Array, PyTree], dict[str, jax.Array]]


def full(dtype: str = "float16") -> Codec:
  """All logits, in `"float16"` (FKD, SRe2L) or `"float32"`: `2 C` or `4 C` bytes per image and teacher."""
  if dtype not in ("float16", "float32"):
    raise ValueError(f"full: dtype={dtype!r}; choose 'float16' or 'float32'")
  return Codec(dtype, lambda logits, y, record: {"logits": logits.astype(dtype)})


def top_k(k: int, *, num_classes: int, temperature: float) -> Codec:
  """The `k` greatest logits, and one number in the place of each other one: `4 k + 2` bytes for up to 65,536 classes.

  The number is `T log mean exp(z / T)` of the logits that are left out, so that at this temperature the greatest
  probabilities are exact and the others share what remains evenly. Values are kept in float16, classes in the smallest
  unsigned integers.

  Args:
    k: in `1..num_classes - 1`.
    num_classes: C.
    temperature: T, at which students learn.

  Raises:
    UserError: `k` out of range.
  """
  if not 1 <= k < num_classes:
    raise UserError(f"top_k={k}: must lie in 1..{num_classes - 1} for {num_classes} classes")
  kind = next(kind for kind in (np.uint8, np.uint16, np.uint32) if num_classes - 1 <= np.iinfo(kind).max)

  def encode(logits: jax.Array, y: jax.Array, record: PyTree) -> dict[str, jax.Array]:
    del y, record
    values, classes = jax.lax.top_k(logits, num_classes)
    rest = jax.nn.logsumexp(values[..., k:] / temperature, axis=-1) - np.log(num_classes - k).astype(np.float32)
    kept = {"values": values[..., :k], "rest": temperature * rest}
    return {name: value.astype(jnp.float16) for name, value in kept.items()} | {
      "classes": classes[..., :k].astype(kind)
    }

  return Codec("top_k", encode)


def two_scalars(*, temperature: float) -> Codec:
  """NRR-DD's distances of the teacher to the classes of an image and of what is mixed into it: 4 bytes per image.

  Without mixing both are the same. See `jdistill.losses.dbr_record` (arXiv 2503.18267).

  Args:
    temperature: of the teacher's softmax.
  """

  def encode(logits: jax.Array, y: jax.Array, record: PyTree) -> dict[str, jax.Array]:
    pasted, _ = partner_labels(y, record)
    found = jax.vmap(lambda one: dbr_record(one, y, pasted, temperature=temperature))(logits)
    return {"distances": found.astype(jnp.float16)}

  return Codec("dbr", encode)


def decoder(name: str, num_classes: int) -> Callable[[Arrays, Batch, PyTree], tuple[Outputs, ...]]:
  """What students are given of stored labels, one `Outputs` per teacher.

  Args:
    name: of a `Codec`, or `"low_rank"`.
    num_classes: C.

  Returns:
    `(arrays of one step and those shared by all, batch, augmentation record) -> Outputs` with logits `[B, C]` float32;
    of `"dbr"` with the two distances `[B, 2]` in their place, and in `taps` the `pasted` labels `[B]` and the `share`
    `[B]` that an image keeps.

  Raises:
    UserError: an unknown name.
  """
  if name in ("float16", "float32"):
    return lambda arrays, batch, record: _outputs(arrays["logits"])
  if name == "low_rank":
    matmul = lambda a, b: jnp.matmul(a.astype(jnp.float32), b, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
    return lambda arrays, batch, record: _outputs(matmul(arrays["coordinates"], arrays["basis"]))
  if name == "top_k":
    return lambda arrays, batch, record: _outputs(_spread(arrays, num_classes))
  if name == "dbr":
    return _distances
  raise UserError(f"stored soft labels: kind {name!r} is not known to this version; record them again")


def _outputs(logits: jax.Array) -> tuple[Outputs, ...]:
  nothing = jnp.zeros((logits.shape[1], 0), jnp.float32)
  return tuple(Outputs(one.astype(jnp.float32), nothing) for one in logits)


def _spread(arrays: Arrays, num_classes: int) -> jax.Array:
  values, rest = (arrays[name].astype(jnp.float32) for name in ("values", "rest"))
  return spread(values, arrays["classes"], jnp.broadcast_to(rest[..., None], (*rest.shape, num_classes)))


def _distances(arrays: Arrays, batch: Batch, record: PyTree) -> tuple[Outputs, ...]:
  taps = mixed_taps(batch, record)
  return tuple(out._replace(taps=taps) for out in _outputs(arrays["distances"]))


def low_rank_arrays(logits: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
  """The best approximation of all logits by `rank` directions: `z - mean_C z` is about `coordinates basis`.

  Softmax does not see the mean over classes, so it is taken away first and `rank = C - 1` loses nothing but digits.

  Args:
    logits: `[..., C]`.
    rank: r in `1..C - 1`.

  Returns:
    `(coordinates [..., r] float16, basis [r, C] float32)`, the basis orthonormal.

  Raises:
    UserError: a rank out of range.
  """
  num_classes = logits.shape[-1]
  if not 1 <= rank < num_classes:
    raise UserError(f"rank={rank}: must lie in 1..{num_classes - 1} for {num_classes} classes")
  centred = np.asarray(logits, np.float64)
  centred = centred - centred.mean(-1, keepdims=True)
  flat = centred.reshape(-1, num_classes)
  basis = np.linalg.eigh(flat.T @ flat)[1][:, ::-1][:, :rank].T
  return (centred @ basis.T).astype(np.float16), basis.astype(np.float32)
