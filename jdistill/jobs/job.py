"""A training as a value: network, recipe, data and schedule, and the method that they make."""

import collections
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jdistill import augment
from jdistill.base import Augmentation, Batch, DataPolicy, Method, Network, PyTree, TargetSource, UserError, Variables
from jdistill.data.policies import shuffle
from jdistill.evaluation import ridge_probe
from jdistill.methods.diffusion.parts import own_chunk
from jdistill.methods.knowledge import Recipe, Sharpness, StudentInput, Trained, look, predictor, student_method
from jdistill.methods.optimizers import make_optimizer, schedule
from jdistill.models import predict
from jdistill.ops.rows import suggest_chunk_size
from jdistill.runs.run import Run
from jdistill.training import parallel
from jdistill.training.policy_stream import Row

_default_policy = functools.lru_cache(maxsize=16)(shuffle)
_built: collections.OrderedDict[tuple, tuple] = collections.OrderedDict()  # methods, and what their keys are made of
_MOST_BUILT = 24  # a sweep comes back to the programs of its series with every seed


class Job(NamedTuple):
  """What is trained.

  Attributes:
    label: what the user reads, and the name of the metrics.
    network, recipe: of every seed.
    train: a section `train`.
    data: examples, shared by all seeds.
    members: `[seeds, n]` positions in `data`.
    seeds: numbers of the seeds.
    policy: `(size, batch_size) -> DataPolicy`; `None` shuffles.
    targets: what the recipe's teachers say; `None` for recipes without.
    constants: what `Recipe.prepare` made.
    held_out: examples for an outer update, a recipe that needs them, or a data policy that looks at them.
    start: `Variables` of all seeds, stacked, that they start from; `None` draws new ones.
    options: numbers of the method that are searched: arguments of the compiled program.
    rebuild: `(options) -> recipe` with these numbers, which are traced.
    score: `(predict, seed) -> figures by name` on held-out examples, for curves.
    score_every: updates between two scores; `None` scores once per epoch.
    section: where the learning rate is configured, for messages.
    record: the augmentation whose records `targets.replay` gives; `None` for the one of `train.augment`.
  """

  label: str
  network: Network
  recipe: Recipe
  train: Mapping[str, Any]
  data: Batch
  members: np.ndarray
  seeds: list[int]
  policy: Callable[[int, int], DataPolicy] | None = None
  targets: TargetSource | None = None
  constants: PyTree = ()
  held_out: Batch | None = None
  start: Variables | None = None
  options: Mapping[str, float] = {}
  rebuild: Callable[[Mapping[str, Any]], Recipe] | None = None
  score: Callable[[Callable, int], Mapping[str, float]] | None = None
  score_every: int | None = None
  section: str = "train"
  record: Augmentation | None = None


class Shared(NamedTuple):
  """Arrays that all seeds and steps of a job see."""

  data: Batch
  targets: PyTree
  constants: PyTree
  held_out: Batch | None
  options: Mapping[str, jax.Array]
  lr: jax.Array | None


class Prepared(NamedTuple):
  """A job as the loop takes it; all seeds share it.

  Attributes:
    method: for one seed.
    policy: which examples come.
    shared: see `Shared`.
    look: what a policy that looks may look at.
    rows: devices that share the rows of a batch; `None` for one.
    batch_size: examples of a step.
  """

  method: Method
  policy: DataPolicy
  shared: Shared
  look: Callable
  rows: Mesh | None
  batch_size: int


def join(shared: Shared, row: Row) -> StudentInput:
  batch = jax.tree.map(lambda leaf: leaf[row.index], shared.data)
  weight = row.weight if batch.weight is None else row.weight * batch.weight
  return StudentInput(
    batch._replace(weight=weight), row.step, row.epoch, row.index, shared.targets, shared.constants, shared.held_out,
    row.start, shared.options, shared.lr,
  )  # fmt: skip


def prepare(run: Run, job: Job) -> Prepared:
  """Builds what a job needs; computes and compiles nothing. Equal jobs get the same method, and so its programs.

  Raises:
    UserError: devices that cannot divide the batch, or values that do not go together.
  """
  size = job.members.shape[1]
  batch_size = min(job.train["batch_size"], size)
  rows = run.mesh("data") if len(job.seeds) == 1 else None
  if rows is not None and batch_size % rows.shape[parallel.DATA]:
    raise UserError(
      f"parallel.data={rows.shape[parallel.DATA]}: does not divide the {batch_size} examples of a step of {job.label}; "
      f"use a divisor, or another {job.section}.batch_size"
    )
  # the rate is an argument of the program, except where a role has an optimiser of its own
  scaled = job.recipe.outer is None or job.recipe.outer.optimizer is None
  method, make = _method(run, job, batch_size, rows, scaled)
  shared = Shared(
    job.data,
    job.targets.arrays if job.targets else (),
    job.constants,
    job.held_out,
    {name: np.float32(value) for name, value in job.options.items()},
    np.float32(job.train["lr"]) if scaled else None,
  )
  policy = (job.policy or _default_policy)(size, batch_size)
  policy.check(job.data)
  if job.recipe.check_examples is not None:
    for own in job.members:
      job.recipe.check_examples(np.asarray(job.data.y)[own], np.asarray(job.data.ids)[own], job.network)
  return Prepared(method, policy, shared, functools.partial(_look, make), rows, batch_size)


def _method(run: Run, job: Job, batch_size: int, rows: Mesh | None, scaled: bool) -> tuple[Method, Callable]:
  """The method of a job, and what makes a `Look` of its state; the last few are kept."""
  targets, train = job.targets, job.train
  rest = json.dumps({name: value for name, value in train.items() if not (scaled and name == "lr")}, sort_keys=True)
  objects = (job.network, job.recipe, targets and targets.targets, job.rebuild if job.options else None, job.record)
  key = (*map(id, objects), rest, batch_size, len(job.data.ids), rows, train["final_lr"] / train["lr"])
  if key in _built:
    _built.move_to_end(key)
    return _built[key][0]
  common = {"precision": train["precision"], "rebuild": job.rebuild if job.options else None}
  method = student_method(
    job.network,
    job.recipe,
    optimizer=_optimizer(train, scaled),
    targets=targets.targets if targets else None,
    replay=targets.replay if targets else None,
    same_pixels=targets.same_pixels if targets else False,
    augment=job.record or augment.named(train["augment"], key=f"{job.section}.augment"),
    ema_decay=train["ema_decay"],
    constrain=functools.partial(parallel.constrain_rows, rows) if rows else lambda batch: batch,
    num_examples=len(job.data.ids),
    chunk_size=None if rows else _chunk_size(job, batch_size),
    sharpness=Sharpness(train["rho"], train["alpha"], train["adaptive"]) if train["rho"] else None,
    epochs=float(train["epochs"]),
    teachers=targets.networks if targets else (),
    **common,
  )
  made = method, look(job.network, job.recipe, targets.targets if targets else None, **common)
  _built[key] = made, objects  # the objects, so that no other one gets their ids
  if len(_built) > _MOST_BUILT:
    _built.popitem(last=False)
  return made


def _look(make: Callable, state: PyTree, shared: Shared, members: jax.Array):
  return make(state, shared.data, members, shared.targets, shared.constants, shared.options, shared.held_out)


def _optimizer(train: Mapping[str, Any], scaled: bool):
  rate = schedule(
    train["schedule"],
    1.0 if scaled else train["lr"],
    epochs=train["epochs"],
    warmup_epochs=train["warmup_epochs"],
    milestones=train["milestones"],
    factor=train["factor"],
    final_lr=train["final_lr"] / (train["lr"] if scaled else 1),
    eta=train.get("eta", 1.0),
  )
  options = {name: train[name] for name in ("momentum", "nesterov", "weight_decay", "decay_all", "clip", "restart")}
  return make_optimizer(train["optimizer"], rate, **options)


def _chunk_size(job: Job, rows: int) -> int | None:
  """How many rows plain training on images looks at together; `None` for recipes that may need whole batches."""
  recipe, data = job.recipe, job.data
  if recipe.own is not None:
    return own_chunk(job.network, rows)
  more = (job.targets, recipe.connectors, recipe.outer, recipe.memory, recipe.metrics, recipe.passes > 1)
  if any(more) or np.ndim(data.x) != 4 or np.ndim(data.y) > 2:
    return None
  variables = jax.eval_shape(job.network.init, jax.random.key(0))
  return suggest_chunk_size(job.network.apply, variables.params, data.x.shape[1:], rows, stats=variables.stats)


def at_once(job: Job) -> bool:
  """Whether seeds train stacked: not where that makes grouped convolutions on a CPU."""
  if jax.default_backend() != "cpu":
    return True
  if job.recipe.sampled_batch is not None or job.recipe.own is not None:
    return False  # side by side, what only some updates do would be computed in all
  kernels = jax.tree.leaves(jax.eval_shape(job.network.init, jax.random.key(0)).params)
  images = np.ndim(job.data.x) == 4 and any(leaf.ndim == 1 and leaf.size > 2**12 for leaf in kernels)  # flat networks
  return not images and all(leaf.ndim < 3 for leaf in kernels)


class _Same:
  """A value that equals itself alone, whatever it is made of."""

  def __init__(self, value: Any):
    self.value = value

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Same) and self.value is other.value

  def __hash__(self) -> int:
    return id(self.value)


@functools.lru_cache(maxsize=16)
def _predictor(network: Network, recipe: _Same) -> Callable[[PyTree, PyTree], PyTree]:
  function = predictor(network, recipe.value)
  return lambda arrays, x: function(*arrays, x)


def predictions(job: Job, trained: Trained, index: int) -> Callable[[PyTree], PyTree]:
  """One finished network as `(x) -> logits` on the host, batch by batch.

  Where a recipe is `probed`, they are those of a linear probe that is fitted to the labels of its training examples.
  """
  function = _predictor(job.network, _Same(job.recipe))
  own = jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), trained)

  def asked(x: PyTree) -> PyTree:
    return predict(function, (own, job.constants), x)

  return probe(asked, job.network, job.data, job.members[index]) if job.recipe.probed else asked


def probe(
  features: Callable[[PyTree], np.ndarray], network: Network, data: Batch, members: np.ndarray
) -> Callable[[PyTree], np.ndarray]:
  """Features `(x) -> [n, D]` as `(x) -> scores`, by `ridge_probe` on labelled members of the data."""
  labels = np.asarray(data.y)[members]
  own = members[labels >= 0]
  x = jax.tree.map(lambda leaf: np.asarray(leaf)[own], data.x)
  variables = jax.eval_shape(network.init, jax.random.key(0))
  form = jax.eval_shape(lambda v, x: network.apply(v.params, x, stats=v.stats), variables, jax.tree.map(_first, x))
  found = ridge_probe(features(x), labels[labels >= 0], form.logits.shape[-1])
  return lambda x: found(features(x))


def _first(leaf: np.ndarray) -> np.ndarray:
  return leaf[:1]
