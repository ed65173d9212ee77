"""The parts that federated methods share: SGD on a client, averages on the server, real or virtual data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jdistill.base import Batch, Key, Metrics, Network, Outputs, PyTree, Variables
from jdistill.federated import Federation, class_statistics, fedavg, local_round, norm_leaves, proximal, with_norms
from jdistill.losses import cross_entropy
from jdistill.methods.federated.virtual import Virtual, class_labels, distil, normal_images


class Local(NamedTuple):
  """A client's part of a round.

  Attributes:
    epochs, batch_size, lr: of SGD without momentum.
    proximal: weight of FedProx's term; 0 for none.
  """

  epochs: int
  batch_size: int
  lr: float
  proximal: float = 0.0


class ServerState(NamedTuple):
  """What the server remembers.

  Attributes:
    variables: the global network.
    round: rounds done, int32.
    anchors: images that it shares with all clients; `()` for none.
  """

  variables: Variables
  round: jax.Array
  anchors: PyTree = ()


class ClientState(NamedTuple):
  """What a client remembers.

  Attributes:
    images: its virtual ones; `()` for none.
    own: its last network, where some of it is not shared; `()` for none.
    rounds: rounds it took part in, int32.
  """

  images: PyTree
  own: PyTree
  rounds: jax.Array


class Anchors(NamedTuple):
  """A synthetic set of the server that clients train on together with their own.

  Attributes:
    begin: `(key, reports) -> images [m, ...]`.
    labels: `[m]`.
    update: `(key, images, round, before, after) -> (images, metrics)`, from the global networks around a round.
    align: `(outputs, y, where, anchor outputs, round) -> scalar` that clients add to their loss; `None` for nothing.
  """

  begin: Callable[[Key, PyTree], jax.Array]
  labels: jax.Array
  update: Callable[..., tuple[jax.Array, Metrics]]
  align: Callable[[Outputs, jax.Array, jax.Array, Outputs, jax.Array], jax.Array] | None


def federation(
  name: str,
  network: Network,
  num_classes: int,
  local: Local,
  *,
  virtual: Virtual | None,
  by_examples: bool,
  local_norm: bool,
  refresh: Callable[..., jax.Array] | None = None,
  anchors: Anchors | None = None,
) -> Federation:
  """A federated method of these parts.

  Args:
    name: of the method, for messages.
    network: the one that is learned.
    num_classes: number of classes.
    local: a client's part of a round.
    virtual: what clients train on; `None` for their real examples.
    by_examples: the mean over clients is weighted by their numbers of examples, else plain.
    local_norm: normalisation layers stay with the clients (FedBN).
    refresh: `(key, images, data, variables, round) -> images`: a client's virtual images before it trains; `None` where
      they stay.
    anchors: the server's set; `None` for none.

  Raises:
    ValueError: `local_norm` of a network without normalisation layers that have parameters.
  """
  if local_norm and not norm_leaves(jax.eval_shape(network.init, jax.random.key(0))):
    raise ValueError(f"{name}: local_norm=True: the network has no parameters of normalisation layers; set it to False")
  model = _model(local_norm)
  return Federation(
    describe=_describe(virtual is not None or anchors is not None, num_classes),
    join=_join(network, virtual, num_classes, local_norm),
    begin=_begin(network, anchors),
    message=lambda state: state._asdict(),
    local=_local(network, num_classes, local, virtual, local_norm, refresh, anchors, model),
    merge=_merge(by_examples, local_norm, anchors),
    model=model,
    virtual=lambda state: () if virtual is None else (state.images, class_labels(num_classes, virtual.ipc)),
    personal=local_norm,
    every_class=virtual is not None,
  )


def _model(local_norm: bool) -> Callable[[ClientState, dict[str, Any]], Variables]:
  def model(state: ClientState, message: dict[str, Any]) -> Variables:
    if not local_norm:
      return message["variables"]
    joined = with_norms(message["variables"], state.own)
    # a client that has not trained yet has nothing of its own
    return jax.tree.map(lambda a, b: jnp.where(state.rounds > 0, a, b), joined, message["variables"])

  return model


def _describe(statistics: bool, num_classes: int) -> Callable[[Batch], PyTree]:
  def describe(data: Batch) -> PyTree:
    report = {"examples": jnp.sum(data.weight)}
    if statistics:
      mean, deviation = class_statistics(data.x, data.y, data.weight, num_classes)
      report |= {"mean": mean, "deviation": deviation}
    return report

  return describe


def _join(network: Network, virtual: Virtual | None, num_classes: int, local_norm: bool):
  def join(key: Key, data: Batch) -> ClientState:
    key_images, key_steps, key_own = jax.random.split(key, 3)
    images: PyTree = ()
    if virtual is not None:
      mean, deviation = class_statistics(data.x, data.y, data.weight, num_classes)
      images = normal_images(key_images, mean, deviation, virtual.ipc, data.x.shape[1:])
      images = distil(virtual, network, images, data, key_steps, virtual.steps, num_classes)
    return ClientState(images, network.init(key_own) if local_norm else (), jnp.zeros((), jnp.int32))

  return join


def _begin(network: Network, anchors: Anchors | None):
  def begin(key: Key, reports: PyTree) -> ServerState:
    key_network, key_anchors = jax.random.split(key)
    images = () if anchors is None else anchors.begin(key_anchors, reports)
    return ServerState(network.init(key_network), jnp.zeros((), jnp.int32), images)

  return begin


def _local(network, num_classes, local: Local, virtual, local_norm: bool, refresh, anchors: Anchors | None, model):
  def run(key: Key, state: ClientState, data: Batch, message: dict[str, Any]):
    key_images, key_order = jax.random.split(key)
    start, images, number = model(state, message), state.images, message["round"]
    x, y, weight = data.x, data.y, data.weight
    if virtual is not None:
      if refresh is not None:
        images = refresh(key_images, images, data, start, number)
      x, y = images, jnp.asarray(class_labels(num_classes, virtual.ipc))
      weight = jnp.ones(y.shape[0], x.dtype)
    if anchors is not None:
      x, y = jnp.concatenate([x, message["anchors"]]), jnp.concatenate([y, anchors.labels])
      weight = jnp.concatenate([weight, jnp.ones(anchors.labels.shape[0], x.dtype)])
    loss = _loss(network, local, start, message, anchors)
    options = {"lr": local.lr, "batch_size": local.batch_size, "epochs": local.epochs}
    trained, metrics = local_round(loss, start, x, y, weight, key_order, **options)
    upload = {"variables": trained, "examples": jnp.sum(data.weight)}
    return ClientState(images, trained if local_norm else (), state.rounds + 1), upload, metrics

  return run


def _loss(network: Network, local: Local, start: Variables, message: dict[str, Any], anchors: Anchors | None):
  """Cross entropy, FedProx's term and the alignment with the anchors, on one batch."""

  def loss(params, stats, x, y, weight):
    out = network.apply(params, x, train=True, stats=stats)
    share = weight.astype(out.logits.dtype) / jnp.maximum(jnp.sum(weight), 1).astype(out.logits.dtype)
    value = jnp.sum(share * cross_entropy(out.logits, y))
    metrics = {"loss/ce": value}
    if local.proximal:
      value = value + local.proximal * proximal(params, start.params)
    if anchors is not None and anchors.align is not None:
      other = network.apply(params, message["anchors"], train=True, stats=stats)
      metrics["loss/align"] = anchors.align(out, y, weight > 0, other, message["round"])
      value = value + metrics["loss/align"]
    return value, (out.stats, metrics)

  return loss


def _merge(by_examples: bool, local_norm: bool, anchors: Anchors | None):
  def merge(key: Key, state: ServerState, uploads: PyTree, present: jax.Array) -> tuple[ServerState, Metrics]:
    weights = present * uploads["examples"] if by_examples else present
    variables = fedavg(uploads["variables"], weights)
    if local_norm:
      variables = with_norms(variables, state.variables)
    moved = jax.tree.map(lambda a, b: jnp.sum(jnp.square(a - b)), variables.params, state.variables.params)
    images, metrics = state.anchors, {"server/moved": jnp.sqrt(sum(jax.tree.leaves(moved)))}
    if anchors is not None:
      images, more = anchors.update(key, images, state.round, state.variables, variables)
      metrics |= more
    return ServerState(variables, state.round + 1, images), metrics

  return merge
