"""A label projector: a public network and a few factors that turn images into labels, in the place of stored labels.

The store is what the public network does not know: low-rank factors of its kernels, and where it cannot be made of the
names of the classes, the head that they change.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Network, PyTree, TargetSource, UserError, Variables
from jdistill.files import read_npz
from jdistill.ops.lora import Factors, LowRank, kernels
from jdistill.teachers.frozen import committee
from jdistill.teachers.label_file import load_labels, save_labels
from jdistill.teachers.zero_shot import class_embeddings

HEAD = "head"
KERNEL = f"{HEAD}/kernel"
_LOW_RANK, _WORD = ("a", "b"), "projector"


class ProjectorLabels(NamedTuple):
  """A stored projector.

  Attributes:
    factors: changes of kernels by their paths.
    head: `[d, C]`, what the factors of the head change; `None` where it is made of names or replaced as a whole.
    projector: hash of all that determines it.
  """

  factors: Factors
  head: np.ndarray | None
  projector: str

  @property
  def nbytes(self) -> int:
    """Bytes of all that has to be kept beside the public network."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves((self.factors, self.head)))


def head_kernel(prototypes: jax.Array, *, scale: float = 1.0) -> jax.Array:
  """The head of a zero-shot classifier, `W = scale [w_1 ... w_C]` of prototypes of length 1.

  Args:
    prototypes: `[C, d]`, such as embeddings of the classes' names or the means of their images' embeddings.
    scale: of logits.

  Returns:
    `[d, C]`.

  Raises:
    UserError: a prototype that is zero.
  """
  return scale * class_embeddings(jnp.asarray(prototypes)[:, None]).T


def with_head(body: Variables, kernel: jax.Array) -> Variables:
  """The variables of an encoder with another head, without a bias.

  Args:
    body: with a head of any shape.
    kernel: `[d, C]`.

  Raises:
    UserError: a network without a layer `head`, or a kernel for embeddings of another width.
  """
  own = body.params.get(HEAD, {}).get("kernel") if isinstance(body.params, Mapping) else None
  if own is None:
    raise UserError("encoder: has no layer 'head', which a projector gives new classes; take a network of the zoo")
  if own.shape[0] != kernel.shape[0]:
    raise UserError(
      f"encoder: its embeddings have {own.shape[0]} numbers and the prototypes {kernel.shape[0]}; give those of this "
      "encoder"
    )
  return body._replace(params={**body.params, HEAD: {"kernel": kernel, "bias": jnp.zeros(kernel.shape[1])}})


def ranks(params: PyTree, *, encoder: int | None, head: int | None) -> dict[str, int | None]:
  """The ranks of all kernels that learn.

  Args:
    params: of the encoder with its head, or their shapes.
    encoder: of its other kernels; `None` leaves them as they are.
    head: of the head; `None` replaces it as a whole.
  """
  others = {} if encoder is None else {path: encoder for path in kernels(params) if path != KERNEL}
  return others | {KERNEL: head}


def read_prototypes(path: str | os.PathLike, num_classes: int, class_names: tuple[str, ...], key: str) -> np.ndarray:
  """Embeddings of the classes' names, from a text encoder that ran elsewhere.

  Args:
    path: an `.npz` with `names` `[C]`, and `prompts` `[C, d]` or, of several prompts each, `[C, k, d]`.
    num_classes: of the data.
    class_names: of the data, in the order of their labels; empty where they have none.
    key: of the configuration, for messages.

  Returns:
    `[C, d]` of length 1.

  Raises:
    UserError: no such file, or names of other classes than the data's.
  """
  found = read_npz(Path(path).expanduser())
  if missing := {"names", "prompts"} - found.keys():
    raise UserError(f"{key}={str(path)!r}: has no array {min(missing)!r}; give an .npz with names and prompts")
  names, prompts = [str(name) for name in found["names"]], np.asarray(found["prompts"], np.float32)
  if len(names) != num_classes or len(prompts) != num_classes:
    raise UserError(
      f"{key}={str(path)!r}: {len(names)} names and {len(prompts)} embeddings for {num_classes} classes; give one of "
      "each for every class"
    )
  for number, (own, wanted) in enumerate(zip(names, class_names, strict=False)):
    if own != wanted:
      raise UserError(
        f"{key}={str(path)!r}: class {number} is called {own!r} there and {wanted!r} in the data; give them in the "
        "order of the labels"
      )
  return np.asarray(class_embeddings(prompts if prompts.ndim == 3 else prompts[:, None]))


def projected(network: Network, base: Variables, labels: ProjectorLabels, name: str) -> TargetSource:
  """A projector as a `TargetSource`, asked for the very pixels that a student sees.

  Args:
    network: of `jdistill.ops.lora.with_lora`.
    base: the public network with the head that the factors change.
    labels: the store, whose bytes are those of the targets; those of the public network are not counted.
    name: of the public network, for reports.
  """
  factors = jax.tree.map(jnp.asarray, dict(labels.factors))
  found = committee((network,), (Variables(factors, base._asdict()),))
  return found._replace(nbytes=labels.nbytes, name=f"projector on a public {name}", same_pixels=True)


def to_arrays(labels: ProjectorLabels) -> dict[str, np.ndarray]:
  """A stored projector as plain arrays: `PATH.a` and `PATH.b` are factors, `PATH.whole` takes a kernel's place."""
  arrays = {} if labels.head is None else {HEAD: np.asarray(labels.head)}
  for path, change in labels.factors.items():
    parts = zip(_LOW_RANK, change, strict=True) if isinstance(change, LowRank) else [("whole", change)]
    arrays |= {f"{path}.{part}": np.asarray(value) for part, value in parts}
  return arrays


def from_arrays(arrays: Mapping[str, np.ndarray], projector: str) -> ProjectorLabels:
  """The inverse of `to_arrays`; `projector` is the hash."""
  factors: dict[str, LowRank | np.ndarray] = {}
  for path in dict.fromkeys(name.rpartition(".")[0] for name in arrays if name != HEAD):
    whole = arrays.get(f"{path}.whole")
    factors[path] = LowRank(*(arrays[f"{path}.{part}"] for part in _LOW_RANK)) if whole is None else whole
  return ProjectorLabels(factors, arrays.get(HEAD), projector)


def save(labels: ProjectorLabels, path: str | os.PathLike) -> None:
  """Writes a projector as one `.npz` with a checksum over all arrays."""
  save_labels(path, to_arrays(labels), {_WORD: labels.projector})


def load(path: str | os.PathLike) -> ProjectorLabels:
  """Reads a projector.

  Raises:
    UserError: the file is missing, damaged, or holds no projector.
  """
  found, words = load_labels(path, "label projector", (), (_WORD,))
  return from_arrays(found, words[_WORD])
