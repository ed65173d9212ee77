"""Networks trained on sets with feature targets, and what they are worth on the data sets that they are taken to."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jdistill import augment, models
from jdistill.base import Batch, Diverged, Network, UserError, Variables
from jdistill.data import preprocess
from jdistill.data.resize import resized
from jdistill.evaluation import FEATURES, Protocol, Scale, embeddings, examples_of, linear_network, train_seeds
from jdistill.evaluation.scores import classification_scores
from jdistill.jobs import networks, train
from jdistill.methods.knowledge.logits import ce
from jdistill.runs.run import Run
from jdistill.selection import k_means
from jdistill.stages import build, distill
from jdistill.tasks.task import numbered

OWN, METRIC = "distilled", "accuracy"
_RECIPE = ce()


class Target(NamedTuple):
  """A data set in the network space of the source.

  Attributes:
    name: for tables.
    train, test: its examples.
    num_classes: number of classes.
  """

  name: str
  train: Batch
  test: Batch
  num_classes: int


def stem(name: str) -> str:
  """How a data set is called in tables."""
  return Path(name).stem


def targets(run: Run) -> list[Target]:
  """The data sets of `transfer.targets`, in the size and the preprocessed space of the source.

  Raises:
    UserError: one is unknown or broken, or has channels that the source has not.
  """
  return [_target(run, name) for name in run.config["transfer"]["targets"]]


def _target(run: Run, name: str) -> Target:
  t, task = run.config["transfer"], run.task()
  sizes = {key: t[key] for key in ("train_size", "test_size")}
  try:
    found = run.load(name, data_dir=run.config["data_dir"], seed=run.config["seed"], **sizes)
    parts = [resized(x, task.input_shape) for x in (found.train_x, found.test_x)]
  except UserError as error:
    raise UserError(f"transfer.targets: {name}: {error}") from error
  train_x, test_x = (np.asarray(preprocess.transform(task.preprocessing, x), np.float32) for x in parts)
  train, test = (numbered(x, y.astype(np.int32)) for x, y in ((train_x, found.train_y), (test_x, found.test_y)))
  return Target(stem(name), train, test, found.num_classes)


def sets_of(run: Run) -> dict[str, Callable[[int], Batch]]:
  """What networks are trained on, by name and seed: images `[m, ...]` with feature targets `[m, D]`."""
  task, own, embed = run.task(), distill.load(run, OWN), build.embed(run)
  size, wanted = len(own.images), functools.cache(lambda: embed(task.teacher.x))

  def real(picked: np.ndarray) -> Batch:
    return examples_of(task.teacher.x[picked], wanted()[picked], loss=FEATURES)

  def random(seed: int) -> Batch:
    rng = np.random.default_rng((run.config["seed"], 3, seed))
    return real(rng.permutation(len(task.teacher.x))[:size])

  def kmeans(seed: int) -> Batch:
    rng = np.random.default_rng((run.config["seed"], 5, seed))
    return real(k_means(rng, wanted(), size, restarts=1))  # clusters are many here

  return {
    OWN: lambda seed: examples_of(own.images, own.labels, loss=FEATURES),
    "random": random,
    "kmeans": kmeans,
  }


def protocol(run: Run) -> Protocol:
  """How networks are trained on sets."""
  p = run.config["pretrain"]
  return Protocol(
    p["epochs"], p["batch_size"], p["momentum"], p["weight_decay"], augment.named(p["augment"]), FEATURES,
    p["optimizer"],
  )  # fmt: skip


def network_of(run: Run, model: str, name: str, seed: int, sets: Mapping[str, Callable[[int], Batch]]):
  """`(network, Variables)` of one seed after its training on one set, or without any."""
  if name == "target_model":
    found = networks.own(run)
    return found.networks[0], found.variables[0]
  width = build.teacher_width(run)
  network = run.network(model, run.task()._replace(num_classes=width))
  if name == "scratch":
    return network, network.init(jax.random.fold_in(run.key("scratch"), seed))
  options = {"key": run.key("pretrain"), "seeds": 1, "first": seed}
  trained = train_seeds(network, protocol(run), sets[name](seed), run.config["pretrain"]["lr"], **options)
  variables = jax.tree.map(lambda leaf: leaf[0], trained)
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(variables))):
    raise Diverged(f"{model}/{name}: training on the set diverges; lower pretrain.lr")
  return network, variables


def judge(run: Run, cell: str, network: Network, variables: Variables, target: Target, seed: int) -> float:
  """The test accuracy on one data set: of a linear probe on frozen features, or of the whole network, fine-tuned."""
  if run.config["transfer"]["by"] == "probe":
    data, test = _features(run, network, variables, target)
    own, start = linear_network(data.x.shape[1], target.num_classes), None
  else:
    data, test, task = target.train, target.test, run.task()
    model = cell.partition("/")[0]
    own, wider = (run.network(model, task._replace(num_classes=target.num_classes + more)) for more in (0, 1))
    fresh = own.init(jax.random.fold_in(run.key("new head"), seed))
    start = jax.tree.map(lambda leaf: leaf[None], models.with_head_of(variables, fresh, models.head_mask(own, wider)))
  section = run.config["transfer"]["by"]
  job = train.Job(
    label=f"{cell} on {target.name}",
    network=own,
    recipe=_RECIPE,
    train=run.config[section],
    data=data,
    members=np.arange(len(data.y))[None],
    seeds=[seed],
    start=start,
    section=section,
  )
  trained, _ = train.run(run, job, run.key(section), None, stage="transfer")
  return classification_scores(train.predictions(job, trained, 0), test)[METRIC]


def _features(run: Run, network: Network, variables: Variables, target: Target) -> tuple[Batch, Batch]:
  """Training and test examples with a network's features, in evaluation mode, in the place of images."""
  seen = [embeddings(network, variables, part.x) for part in (target.train, target.test)]
  if run.config["transfer"]["standardize"]:
    scale = Scale(seen[0])
    seen = [scale(part).astype(np.float32) for part in seen]
  return target.train._replace(x=seen[0]), target.test._replace(x=seen[1])
