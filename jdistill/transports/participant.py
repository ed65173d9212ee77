"""The clients' side: one client's data and states, and its answer to every request of the server."""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Batch, Key, Network, PyTree, UserError
from jdistill.federated import Federation, client_key
from jdistill.files import read_npz, sha256_arrays, write_npz
from jdistill.models.predict import predict
from jdistill.transports.contract import Reply, Request

_DIGEST = "sha256"


class Work(NamedTuple):
  """One variant of a method as one client knows it.

  Attributes:
    federation: the method.
    network: the one that is learned.
    data: the client's training examples, arrays of the size that all clients have.
    splits: examples by name on which it scores networks.
    key: `(seed) -> key` of a training; the same at the server and at all clients.
    message: shapes of what the server sends.
  """

  federation: Federation
  network: Network
  data: Batch
  splits: dict[str, Batch]
  key: Callable[[int], Key]
  message: PyTree


def round_key(key: Key, number: int) -> Key:
  """The key of a round; 0 is what happens before the first, so that round `r` has `r + 1`."""
  return jax.random.fold_in(key, np.uint32(number))


class Participant:
  """A client that answers requests; its states are kept in a directory, so that it can be ended at any moment."""

  def __init__(self, index: int, work: Callable[[str], Work], directory: Path):
    """Args:
    index: which client it is.
    work: `(name) -> Work`; asked once for every name.
    directory: for its states.
    """
    self._index, self._make, self._directory = index, work, Path(directory)
    self._known: dict[str, tuple[Work, dict[str, Callable]]] = {}
    self._last: tuple[tuple, PyTree] = ((), None)

  def answer(self, request: Request) -> Reply:
    """Does what the server asks for.

    Raises:
      UserError: a state that is missing or damaged.
    """
    work, programs = self._of(request.work)
    if request.kind == "describe":
      report = programs["describe"](work.data)
      return Reply(arrays=_leaves(report))
    if request.kind == "join":
      return self._join(request, work, programs)
    message = jax.tree.unflatten(jax.tree.structure(work.message), [jnp.asarray(leaf) for leaf in request.arrays])
    state = self._load(request, work)
    if request.kind == "score":
      return self._score(request, work, programs, state, message)
    key = client_key(round_key(work.key(request.seed), request.round + 1), self._index)
    state, upload, metrics = programs["local"](key, state, work.data, message)
    self._save(request._replace(version=request.round + 1), request.version, state)
    return Reply({name: float(value) for name, value in metrics.items()}, _leaves(upload))

  def _of(self, name: str) -> tuple[Work, dict[str, Callable]]:
    if name not in self._known:
      work = self._make(name)
      functions = {"describe": work.federation.describe, "join": work.federation.join, "local": work.federation.local}
      programs = {kind: jax.jit(function) for kind, function in functions.items()}
      programs["model"] = jax.jit(work.federation.model)
      self._known[name] = work, programs
    return self._known[name]

  def _join(self, request: Request, work: Work, programs: dict[str, Callable]) -> Reply:
    """Makes the first state, unless it is there from an earlier attempt.

    Variants that begin alike share it: it is kept under a hash of the program and of what the program is given.
    """
    start = request._replace(version=0)
    with contextlib.suppress(UserError):
      self._load(start, work)
      return Reply()
    key = client_key(round_key(work.key(request.seed), 0), self._index)
    given = {str(i): leaf for i, leaf in enumerate(_leaves((jax.random.key_data(key), work.data)))}
    text = programs["join"].lower(key, work.data).as_text()
    name = hashlib.sha256(f"{text}{sha256_arrays(given)}".encode()).hexdigest()[:16]
    shared = self._directory / "joined" / f"{name}.npz"
    try:
      state = self._read(shared, work)
    except UserError:
      state = programs["join"](key, work.data)
      self._write(shared, state)
    self._save(start, 0, state)
    return Reply()

  def _score(self, request: Request, work: Work, programs: dict[str, Callable], state, message) -> Reply:
    data = work.splits[request.split]
    logits = predict(work.network, programs["model"](state, message), data.x)
    return Reply({"right": float(np.sum(np.argmax(logits, -1) == data.y)), "count": float(len(data.y))})

  # -- states ---------------------------------------------------------------------------------------------------------

  def path(self, work: str, seed: int, version: int) -> Path:
    """Where a version of a state lies."""
    return self._directory / work / f"seed{seed}" / f"client{self._index}" / f"{version:05d}.npz"

  def state(self, work: str, seed: int, version: int) -> Any:
    """A version of the client's state.

    Raises:
      UserError: it is missing or damaged.
    """
    return self._load(Request("score", work, seed, version=version), self._of(work)[0])

  def _save(self, request: Request, before: int, state: PyTree) -> None:
    path = self.path(request.work, request.seed, request.version)
    self._write(path, state)
    # the server may miss the answer that tells of this one, and the first one costs most
    for old in path.parent.glob("*.npz"):
      if int(old.stem) not in (0, before, request.version):
        old.unlink()
    self._last = (request.work, request.seed, request.version), state

  def _load(self, request: Request, work: Work) -> PyTree:
    name = (request.work, request.seed, request.version)
    if self._last[0] != name:
      self._last = name, self._read(self.path(*name), work)
    return self._last[1]

  def _write(self, path: Path, state: PyTree) -> None:
    arrays = {f"{i:04d}": leaf for i, leaf in enumerate(_leaves(state))}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_npz(path, arrays | {_DIGEST: np.asarray(sha256_arrays(arrays))})

  def _read(self, path: Path, work: Work) -> PyTree:
    arrays = read_npz(path)
    if str(arrays.pop(_DIGEST, "")) != sha256_arrays(arrays):
      raise UserError(f"{path} is damaged or was edited (its checksum differs): delete {path.parents[1]} and run again")
    shapes = jax.eval_shape(work.federation.join, jax.random.key(0), work.data)
    return jax.tree.unflatten(jax.tree.structure(shapes), [jnp.asarray(arrays[key]) for key in sorted(arrays)])


def _leaves(tree: PyTree) -> list[np.ndarray]:
  return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(tree))]
