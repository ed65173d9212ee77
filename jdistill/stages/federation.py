"""The arms of a run as federations: what their clients have, and the method with this run's networks."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import augment, catalog
from jdistill.base import Batch, Network, PyTree, UserError
from jdistill.config import sections
from jdistill.config.arms import Arms
from jdistill.config.common import RUN
from jdistill.federated import Federation, client_share, missing_classes, stacked_batches
from jdistill.runs.run import Run
from jdistill.tasks import Task
from jdistill.transports import Participant, Work

SECTIONS = {
  "method": sections.method(stage="federate"),
  "task": RUN.sections["task"],
  "model": sections.network(),
}
ARMS = Arms(SECTIONS, lambda prefix, arm, committee: None)
_OWNER = "client"  # among the `extra` of a task's examples
_DRAWS = 20  # of real examples, whose spread is compared with that of virtual ones


def name_of(run: Run, label: str) -> str:
  """The name of an arm among files and messages: a hash of what determines it."""
  c = run.config
  return run.key_of(arm=c["arms"][label], **{key: c[key] for key in ("rounds", "participation", "seed")})


def clients_of(task: Task) -> int:
  """How many clients a task has.

  Raises:
    UserError: none.
  """
  if _OWNER not in task.data.extra:
    raise UserError("task.name: this task's examples belong to no clients; set task.name='clients'")
  return int(np.max(task.data.extra[_OWNER])) + 1


def method_of(run: Run, label: str) -> tuple[Federation, Network]:
  """The method of an arm with its network; collaborators are handed over by the names of the builder's parameters.

  Raises:
    UserError: options that do not fit the network.
  """
  arm = run.config["arms"][label]
  task, row, options = run.task(arm["task"]), catalog.row(arm["method"]["name"]), arm["method"]
  network = run.network(arm["model"], task)
  makers = {
    "network": lambda: network,
    "num_classes": lambda: task.num_classes,
    "image_shape": lambda: task.input_shape,
    "siamese": lambda: augment.named(options["augment"], siamese=True),
  }
  wanted = [name for name in inspect.signature(row.build()).parameters if name in makers]
  try:
    return row.build()(**{name: makers[name]() for name in wanted}, **row.options_of(options)), network
  except UserError:
    raise
  except ValueError as error:
    raise UserError(f"{label}: method.{str(error).partition(': ')[2]}") from error


def check_arm(run: Run, label: str) -> None:
  """Refuses what cannot work, before any work.

  Raises:
    UserError: no clients, options that do not fit, or clients without a class that the method needs.
  """
  task = run.task(run.config["arms"][label]["task"])
  clients, (federation, _) = clients_of(task), method_of(run, label)
  if not federation.every_class:
    return
  for k in range(clients):
    if missing := missing_classes(_of(task.data, k).y, task.num_classes):
      raise UserError(
        f"{label}: client {k} has no image of class {missing[0]}, whose mean and deviation its virtual images start "
        "from; raise task.least, or train on real images"
      )


def _of(data: Batch, client: int) -> Batch:
  """One client's examples."""
  own = data.extra[_OWNER] == client
  return Batch(data.x[own], data.y[own], data.ids[own])


def work_of(run: Run, label: str, client: int) -> Work:
  """An arm as one client knows it."""
  task = run.task(run.config["arms"][label]["task"])
  federation, network = method_of(run, label)
  parts = [_of(task.data, k) for k in range(clients_of(task))]
  stacked = stacked_batches([(part.x, part.y) for part in parts])
  data = jax.tree.map(lambda leaf: jnp.asarray(leaf[client]), stacked)
  root = run.key("federate")
  splits = {"validation": task.validation, "test": task.test}
  return Work(
    federation,
    network,
    data,
    {name: _of(split, client) for name, split in splits.items() if len(split.y)},
    lambda seed: jax.random.fold_in(root, np.uint32(seed)),
    shapes(federation, data, len(parts))[2],
  )


def shapes(federation: Federation, data: Batch, clients: int) -> tuple[PyTree, PyTree, PyTree]:
  """Shapes of a report, of an upload and of a message."""
  key = jax.random.key(0)
  report = jax.eval_shape(federation.describe, data)
  reports = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((clients, *leaf.shape), leaf.dtype), report)
  message = jax.eval_shape(lambda *args: federation.message(federation.begin(*args)), key, reports)
  state = jax.eval_shape(federation.join, key, data)
  return report, jax.eval_shape(federation.local, key, state, data, message)[1], message


def participants(run: Run, clients: int) -> list[Participant]:
  """The clients of a run in this process, all arms among their work."""
  return [participant(run, k) for k in range(clients)]


def participant(run: Run, client: int) -> Participant:
  """One client."""
  labels = {name_of(run, label): label for label in run.config["order"]}
  return Participant(client, lambda name: work_of(run, labels[name], client), directory(run))


def directory(run: Run) -> Path:
  """Where server and clients keep their states."""
  return run.workdir / "federation"


def shares(run: Run, label: str, found: list[Participant], seed: int, outcome) -> Mapping[str, float]:
  """How far clients are from each other in the features of the final network: `client_share` of virtual images, and of
  as many real ones of each class; nothing for methods without virtual images, or where real ones are too few."""
  name, task = name_of(run, label), run.task(run.config["arms"][label]["task"])
  federation, network = method_of(run, label)
  states = [one.state(name, seed, version) for one, version in zip(found, outcome.versions, strict=True)]
  virtual = [federation.virtual(state) for state in states]
  if not virtual[0]:
    return {}
  variables = [federation.model(state, outcome.message) for state in states]
  embed = jax.jit(lambda v, x: network.apply(v.params, x, stats=v.stats).embedding)
  count = len(virtual[0][1]) // task.num_classes
  rng = np.random.default_rng((run.config["seed"], seed, 41))
  real = [_of(task.data, k) for k in range(len(found))]
  members = [[np.flatnonzero(one.y == c) for c in range(task.num_classes)] for one in real]
  if min(len(own) for one in members for own in one) < count:
    return {}

  def grouped(features: list[np.ndarray]) -> np.ndarray:
    """`[classes, clients, count, D]` of rows that are sorted by class."""
    rows = [np.asarray(one).reshape(task.num_classes, count, -1) for one in features]
    return np.stack(rows, axis=1)

  everything = [np.asarray(embed(v, one.x)) for v, one in zip(variables, real, strict=True)]
  draws = []
  for _ in range(_DRAWS):
    picked = [np.concatenate([rng.choice(own, count, replace=False) for own in one]) for one in members]
    draws.append(client_share(grouped([e[rows] for e, rows in zip(everything, picked, strict=True)])))
  own = [embed(v, images) for v, (images, _) in zip(variables, virtual, strict=True)]
  return {"virtual": client_share(grouped(own)), "real": float(np.mean(draws))}


def parameters(network: Network) -> int:
  """Of a network."""
  return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(network.init, jax.random.key(0)).params))


def nbytes(tree: Any) -> int:
  """Bytes of a tree of shapes."""
  return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
