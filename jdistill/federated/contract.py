"""The contract of federated methods: what clients and the server do, whatever carries their messages."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdistill.base import Batch, Key, Method, Metrics, PyTree, Variables


class Federation(NamedTuple):
  """A federated method as pure functions, all of them jit-able.

  A client has a state of its own and its data, which never leave it. All clients have data of one shape, filled up with
  examples of weight 0.

  Attributes:
    describe: `(data) -> report`: what a client tells of its data once, before the first round.
    join: `(key, data) -> client state`: what a client does by itself before the first round.
    begin: `(key, reports) -> server state`; reports are stacked, `[clients, ...]`.
    message: `(server state) -> message`: what the server sends to all clients in a round.
    local: `(key, client state, data, message) -> (client state, upload, metrics)`: a client's part of a round.
    merge: `(key, server state, uploads, present) -> (server state, metrics)`: the server's part. Uploads are stacked;
      `present` `[clients]` float32 is 0 for clients that did not answer, and what stands for their upload is zeros.
    model: `(client state, message) -> Variables`: the network that a client predicts with.
    virtual: `(client state) -> (images, labels)` that the client trains on instead of its data; `()` for none.
    personal: whether clients predict with networks of their own.
    every_class: whether each client needs examples of every class.
  """

  describe: Callable[[Batch], PyTree]
  join: Callable[[Key, Batch], PyTree]
  begin: Callable[[Key, PyTree], PyTree]
  message: Callable[[PyTree], PyTree]
  local: Callable[[Key, PyTree, Batch, PyTree], tuple[PyTree, PyTree, Metrics]]
  merge: Callable[[Key, PyTree, PyTree, jax.Array], tuple[PyTree, Metrics]]
  model: Callable[[PyTree, PyTree], Variables]
  virtual: Callable[[PyTree], PyTree]
  personal: bool = False
  every_class: bool = False


def client_key(key: Key, client: int | jax.Array) -> Key:
  """The key of a client in a round, from the key of the round."""
  return jax.random.fold_in(key, client + 1)


def server_key(key: Key) -> Key:
  """The key of the server in a round, from the key of the round."""
  return jax.random.fold_in(key, 0)


class JointState(NamedTuple):
  """Server and clients together; client states are stacked."""

  server: PyTree
  clients: PyTree


def joint_method(federation: Federation, clients: int) -> Method:
  """A federation whose clients all answer, as a `Method` in one program: one step is one round.

  For simulation on one machine, where clients may be computed side by side.

  Args:
    federation: the method.
    clients: how many there are.

  Returns:
    A `Method`. Its stream gives in every step the data of all clients, stacked, `[clients, n, ...]`; its result is the
    server's network as `Variables`.
  """
  numbers = jnp.arange(clients, dtype=jnp.int32)

  def keys(key: Key) -> Key:
    return jax.vmap(client_key, (None, 0))(key, numbers)

  def init(key: Key, example: Batch) -> JointState:
    server = federation.begin(server_key(key), jax.vmap(federation.describe)(example))
    return JointState(server, jax.vmap(federation.join)(keys(key), example))

  def step(key: Key, state: JointState, batch: Batch) -> tuple[JointState, Metrics]:
    message = federation.message(state.server)
    own, uploads, metrics = jax.vmap(federation.local, (0, 0, 0, None))(keys(key), state.clients, batch, message)
    server, more = federation.merge(server_key(key), state.server, uploads, jnp.ones(clients))
    return JointState(server, own), {name: jnp.mean(value) for name, value in metrics.items()} | more

  def result(state: JointState) -> Variables:
    first = jax.tree.map(lambda leaf: leaf[0], state.clients)
    return federation.model(first, federation.message(state.server))

  return Method(init, step, result)
