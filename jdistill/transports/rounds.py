"""The server's loop: rounds of a federation over any transport, resumable after each of them."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Diverged, Key, PyTree, UserError
from jdistill.federated import Federation, server_key
from jdistill.files import Damaged, read_npz, read_record, sha256_arrays, write_npz, write_record
from jdistill.transports.contract import Lost, Reply, Request, Transport
from jdistill.transports.participant import round_key

_ATTEMPTS = 3  # at what all clients have to answer
_RECORD = "server.json"


class Session(NamedTuple):
  """One training of a federation.

  Attributes:
    work: the variant's name at the clients.
    seed: of the training.
    rounds: how many.
    participation: the share of clients that are asked in a round, at least one; drawn anew each round.
    split: the examples on which the network is scored after every round; `""` for none.
    directory: for the server's states.
    identity: what determines the training; a directory of another one is refused.
  """

  work: str
  seed: int
  rounds: int
  participation: float
  split: str
  directory: Path
  identity: str


class Outcome(NamedTuple):
  """How a training ended.

  Attributes:
    message: what the server sends to clients at the end, the global network among it.
    versions: of each client's state.
    rows: one per round: metrics, `clients` that took part, and their `right` and `count` where they were scored.
    stopped: whether it was stopped before the last round.
  """

  message: PyTree
  versions: list[int]
  rows: list[dict[str, Any]]
  stopped: bool = False


class _Server(NamedTuple):
  """What is stored between two rounds."""

  state: PyTree
  versions: list[int]
  rows: list[dict[str, Any]]


def run_rounds(
  federation: Federation,
  transport: Transport,
  session: Session,
  key: Key,
  shapes: tuple[PyTree, PyTree],
  *,
  on_round: Callable[[int, Mapping[str, Any]], None] = lambda number, row: None,
  stop: Callable[[], bool] = lambda: False,
) -> Outcome:
  """Runs the rounds of a training, or what is left of them.

  Uploads of clients that did not answer count for nothing; their own state stays as it was, and they take part again in
  the next round.

  Args:
    federation: the method.
    transport: the clients.
    session: which training.
    key: its root key.
    shapes: of a report and of an upload of one client.
    on_round: `(rounds done, row)`.
    stop: asked after every round; true ends the loop, and the same call goes on.

  Raises:
    Lost: no client answered in a round, or one that has to did not.
    Diverged: numbers are not finite any more.
    UserError: a state that is damaged, or of another training.
  """
  programs = {name: jax.jit(getattr(federation, name)) for name in ("begin", "merge", "message")}
  now = _resume(federation, session, key, shapes) or _begin(transport, session, programs["begin"], key, shapes[0])
  for number in range(len(now.rows), session.rounds):
    now = _round(transport, session, programs, key, shapes[1], now, number)
    _save(session, now)
    on_round(number + 1, now.rows[-1])
    if number + 1 < session.rounds and stop():
      return Outcome(programs["message"](now.state), now.versions, now.rows, stopped=True)
  return Outcome(programs["message"](now.state), now.versions, now.rows)


def _begin(transport: Transport, session: Session, begin: Callable, key: Key, shape: PyTree) -> _Server:
  """What happens before the first round; clients that have joined are not asked to do it again."""
  own = dict.fromkeys(range(transport.clients), Request("describe", session.work, session.seed))
  reports = _all(transport, own)
  _all(transport, {k: request._replace(kind="join") for k, request in own.items()})
  stacked = _stacked(reports, shape, transport.clients)
  state = jax.device_get(begin(server_key(round_key(key, 0)), stacked))
  return _Server(state, [0] * transport.clients, [])


def _round(transport, session: Session, programs, key: Key, shape: PyTree, now: _Server, number: int) -> _Server:
  message = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(programs["message"](now.state)))]
  asked = _chosen(session, key, number, transport.clients)
  request = Request("local", session.work, session.seed, number, arrays=message)
  own = {k: request._replace(version=now.versions[k]) for k in asked}
  replies = next((found for _ in range(_ATTEMPTS) if (found := transport.ask(own))), None)
  if replies is None:
    raise Lost(f"round {number + 1}: none of {len(asked)} clients answered; the same command goes on from there")
  present = np.float32([k in replies for k in range(transport.clients)])
  stacked = _stacked(replies, shape, transport.clients)
  merged = server_key(round_key(key, number + 1))
  state, metrics = jax.device_get(programs["merge"](merged, now.state, stacked, present))
  names = next(iter(replies.values())).numbers
  row = {name: float(np.mean([reply.numbers[name] for reply in replies.values()])) for name in names}
  row |= {name: float(value) for name, value in metrics.items()} | {"clients": sorted(replies)}
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)):
    raise Diverged(f"round {number + 1}: the global network is not finite; lower method.lr")
  versions = [number + 1 if k in replies else version for k, version in enumerate(now.versions)]
  if session.split:
    row |= score(transport, session, programs["message"](state), versions, session.split, everyone=False)
  return _Server(state, versions, [*now.rows, row])


def score(
  transport: Transport, session: Session, message: PyTree, versions: list[int], split: str, *, everyone: bool = True
) -> dict[str, dict[int, int]]:
  """What clients make of the network: `{"right": {client: hits}, "count": {client: examples}}`.

  Args:
    transport: the clients.
    session: which training.
    message, versions: as in `Outcome`.
    split: the examples.
    everyone: whether a client that does not answer is asked again, and missed in the end.

  Raises:
    Lost: of `everyone`, one does not answer.
  """
  leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(message))]
  request = Request("score", session.work, session.seed, split=split, arrays=leaves)
  wanted = {k: request._replace(version=version) for k, version in enumerate(versions)}
  replies = _all(transport, wanted) if everyone else transport.ask(wanted)
  return {name: {k: int(replies[k].numbers[name]) for k in sorted(replies)} for name in ("right", "count")}


def _all(transport: Transport, requests: Mapping[int, Request]) -> dict[int, Reply]:
  """The replies of all clients."""
  found: dict[int, Reply] = {}
  for _ in range(_ATTEMPTS):
    found |= transport.ask({k: request for k, request in requests.items() if k not in found})
    if len(found) == len(requests):
      return found
  missing = sorted(set(requests) - set(found))
  raise Lost(f"client {missing[0]}: did not answer in {_ATTEMPTS} attempts, and all clients have to; see its log")


def _chosen(session: Session, key: Key, number: int, clients: int) -> list[int]:
  count = max(1, round(session.participation * clients))
  if count == clients:
    return list(range(clients))
  own = jax.random.fold_in(server_key(round_key(key, number + 1)), np.uint32(1))
  return sorted(int(k) for k in jax.random.permutation(own, clients)[:count])


def _stacked(replies: Mapping[int, Reply], shape: PyTree, clients: int) -> PyTree:
  """Replies of clients stacked, zeros for those that are missing."""
  leaves, structure = jax.tree.flatten(shape)
  columns = [
    np.stack([replies[k].arrays[i] if k in replies else np.zeros(leaf.shape, leaf.dtype) for k in range(clients)])
    for i, leaf in enumerate(leaves)
  ]
  return jax.tree.unflatten(structure, columns)


# -- what is stored -------------------------------------------------------------------------------------------------


def _save(session: Session, now: _Server) -> None:
  """The arrays first; the record makes them valid."""
  session.directory.mkdir(parents=True, exist_ok=True)
  arrays = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(now.state))}
  path = session.directory / f"server{len(now.rows):05d}.npz"
  write_npz(path, arrays)
  record = {"rounds": len(now.rows), "digest": sha256_arrays(arrays), "versions": now.versions, "rows": now.rows}
  write_record(session.directory / _RECORD, record | {"identity": session.identity})
  for old in session.directory.glob("server*.npz"):
    if old != path:
      old.unlink(missing_ok=True)


def _resume(federation: Federation, session: Session, key: Key, shapes: tuple[PyTree, PyTree]) -> _Server | None:
  path = session.directory / _RECORD
  if not path.exists():
    return None
  cure = f"delete {session.directory} to train it again"
  try:
    record = read_record(path)
  except Damaged as error:
    raise UserError(f"{error}; {cure}") from error
  if record["identity"] != session.identity:
    raise UserError(f"{session.directory} belongs to another training; {cure}")
  with contextlib.suppress(UserError):
    arrays = read_npz(session.directory / f"server{record['rounds']:05d}.npz")
    if sha256_arrays(arrays) == record["digest"]:
      clients = len(record["versions"])
      reports = jax.tree.map(lambda leaf: jnp.zeros((clients, *leaf.shape), leaf.dtype), shapes[0])
      structure = jax.tree.structure(jax.eval_shape(federation.begin, key, reports))
      state = jax.tree.unflatten(structure, [arrays[name] for name in sorted(arrays)])
      rows = [_numbered(row) for row in record["rows"]]
      return _Server(state, list(record["versions"]), rows)
  raise UserError(f"{session.directory}: the server's state of round {record['rounds']} is damaged; {cure}")


def _numbered(row: Mapping[str, Any]) -> dict[str, Any]:
  """A row as it was: JSON has texts for the clients' numbers."""
  return {
    name: {int(k): v for k, v in value.items()} if isinstance(value, Mapping) else value for name, value in row.items()
  }
