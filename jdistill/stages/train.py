"""Networks of one recipe, trained side by side and resumable: teachers, students and trajectories alike."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jdistill.base import Augmentation, Batch, DataPolicy, Method, Network, PyTree, TargetSource, UserError, Variables
from jdistill.data.policies import shuffle
from jdistill.files import read_json, write_json
from jdistill.methods.knowledge import Recipe, Sharpness, StudentInput, Trained, look, predictor, student_method
from jdistill.methods.optimizers import make_optimizer, schedule
from jdistill.models import predict
from jdistill.ops.rows import suggest_chunk_size
from jdistill.reporting import JsonlWriter, Progress, peak_memory_bytes, read_jsonl
from jdistill.training import (
  Checkpoints,
  Diverged,
  Hooks,
  Outcome,
  Stream,
  distributed,
  parallel,
  run_loop,
  suggest_steps_per_call,
)
from jdistill.training.policy_stream import NothingSelected, Row, policy_stream

_default_policy = functools.lru_cache(maxsize=16)(shuffle)


class Job(NamedTuple):
  """What is trained.

  Attributes:
    label: what the user reads, and the name of the metrics.
    network, recipe: of every seed.
    train: a section `train`; `rho`, `alpha`, `adaptive` and `restart` may be there, too.
    data: examples, shared by all seeds.
    members: `[seeds, n]` positions in `data`.
    seeds: numbers of the seeds.
    policy: `(size, batch_size) -> DataPolicy`; `None` shuffles.
    targets: what the recipe's teachers say; `None` for recipes without.
    constants: what `Recipe.prepare` made.
    held_out: examples for an outer update.
    start: `Variables` of all seeds, stacked, that they start from; `None` draws new ones.
    options: numbers of the method that are searched: arguments of the compiled program.
    rebuild: `(options) -> recipe` with these numbers, which are traced.
    score: `(predict) -> figures by name` on held-out examples, for curves.
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
  score: Callable[[Callable], Mapping[str, float]] | None = None
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


def _join(shared: Shared, row: Row) -> StudentInput:
  batch = jax.tree.map(lambda leaf: leaf[row.index], shared.data)
  weight = row.weight if batch.weight is None else row.weight * batch.weight
  return StudentInput(
    batch._replace(weight=weight), row.step, row.epoch, row.index, shared.targets, shared.constants, shared.held_out,
    row.start, shared.options, shared.lr,
  )  # fmt: skip


def prepare(run, job: Job) -> Prepared:
  """Builds what a job needs; computes and compiles nothing.

  Raises:
    UserError: devices that cannot divide the batch, or values that do not go together.
  """
  size = job.members.shape[1]
  batch_size = min(job.train["batch_size"], size)
  rows = run.mesh("data") if len(job.seeds) == 1 else None
  if rows is not None and batch_size % rows.shape[parallel.DATA]:
    raise UserError(
      f"parallel.data={rows.shape[parallel.DATA]}: does not divide the {batch_size} examples of a step of {job.label}; "
      f"change it or {job.section}.batch_size"
    )
  targets, train = job.targets, job.train
  common = {"precision": train["precision"], "rebuild": job.rebuild if job.options else None}
  # the rate is an argument of the program, except where a role has an optimiser of its own
  scaled = job.recipe.outer is None or job.recipe.outer.optimizer is None
  method = student_method(
    job.network,
    job.recipe,
    optimizer=_optimizer(train, scaled),
    targets=targets.targets if targets else None,
    replay=targets.replay if targets else None,
    augment=job.record or run.augmentation(train["augment"]),
    ema_decay=train["ema_decay"],
    constrain=functools.partial(parallel.constrain_rows, rows) if rows else lambda batch: batch,
    num_examples=len(job.data.ids),
    chunk_size=None if rows else _chunk_size(job, batch_size),
    sharpness=Sharpness(train["rho"], train["alpha"], train["adaptive"]) if train.get("rho") else None,
    **common,
  )
  shared = Shared(
    job.data,
    targets.arrays if targets else (),
    job.constants,
    job.held_out,
    {name: np.float32(value) for name, value in job.options.items()},
    np.float32(train["lr"]) if scaled else None,
  )
  make = look(job.network, job.recipe, targets.targets if targets else None, **common)
  policy = (job.policy or _default_policy)(size, batch_size)
  return Prepared(method, policy, shared, functools.partial(_look, make), rows, batch_size)


def _look(make: Callable, state: PyTree, shared: Shared, members: jax.Array):
  return make(state, shared.data, members, shared.targets, shared.constants, shared.options)


def _optimizer(train: Mapping[str, Any], scaled: bool):
  rate = schedule(
    train["schedule"],
    1.0 if scaled else train["lr"],
    epochs=train["epochs"],
    warmup_epochs=train["warmup_epochs"],
    milestones=train["milestones"],
    final_lr=train["final_lr"] / (train["lr"] if scaled else 1),
  )
  names = ("momentum", "nesterov", "weight_decay", "decay_all", "clip")
  options = {name: train[name] for name in names}
  return make_optimizer(train["optimizer"], rate, **options, restart=train.get("restart", ()))


def _chunk_size(job: Job, rows: int) -> int | None:
  """How many rows plain training on images looks at together; `None` for recipes that may need whole batches."""
  recipe, data = job.recipe, job.data
  more = (job.targets, recipe.connectors, recipe.outer, recipe.memory, recipe.metrics, recipe.passes > 1)
  if any(more) or np.ndim(data.x) != 4 or np.ndim(data.y) > 2:
    return None
  variables = jax.eval_shape(job.network.init, jax.random.key(0))
  return suggest_chunk_size(job.network.apply, variables.params, data.x.shape[1:], rows, stats=variables.stats)


def run(
  run,
  job: Job,
  key: jax.Array,
  directory: Path | None,
  *,
  stage: str,
  on_epoch: Callable[[int, Trained], None] | None = None,
) -> tuple[Trained, dict[str, Any]]:
  """Trains all seeds of a job; a call that was interrupted goes on.

  Seeds train side by side, or one after the other where the data policy looks at them.

  Args:
    run: the run.
    job: what is trained.
    key: the root of all its random numbers.
    directory: for checkpoints; its name must belong to this job alone. `None` keeps none, and no metrics.
    stage: for messages and metrics.
    on_epoch: `(epochs done, Trained of all seeds)` after every epoch and, before the first, with 0; for policies whose
      epochs all have the same number of steps.

  Returns:
    `(Trained with a leading axis of seeds, figures)`.

  Raises:
    UserError: what the losses refuse, a loss that is not finite, or a policy that left nothing to train on.
  """
  begin, parts = time.monotonic(), [job]
  prepared = prepare(run, job)
  if prepared.policy.looks:
    parts = [_only(job, index) for index in range(len(job.seeds))]
  found = []
  for part in parts:
    own = directory if directory is None or len(parts) == 1 else directory / f"seed{part.seeds[0]}"
    found.append(_Training(run, part, prepared, own, stage, begin, on_epoch).run(key))
  trained = [jax.device_get(outcome.result) for outcome, _ in found]
  together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *trained)
  return together, _figures(job, found, begin)


def _only(job: Job, index: int) -> Job:
  start = None if job.start is None else jax.tree.map(lambda leaf: leaf[index : index + 1], job.start)
  return job._replace(members=job.members[index : index + 1], seeds=[job.seeds[index]], start=start)


def _figures(job: Job, found: list, begin: float) -> dict[str, Any]:
  outcome, notes = found[0]
  count = jax.tree.leaves(outcome.state.roles["student"])[0].shape[0]  # with what fills a pool of devices up
  sizes = {
    name: sum(leaf.size for leaf in jax.tree.leaves(role.params)) // count for name, role in outcome.state.roles.items()
  }
  seconds = outcome.step_seconds
  figures = {
    "seconds": time.monotonic() - begin,
    "seconds_per_step": None if seconds is None else seconds * len(found) / len(job.seeds),
    "steps": outcome.steps,
    "parameters": sizes.pop("student"),
    "extra_parameters": sum(sizes.values()),
    "step_bytes": outcome.step_bytes,
    "peak_memory_bytes": peak_memory_bytes(),
    "last": notes["last"],
  }
  if job.score is None:
    return figures
  curves = [other["curve"] for _, other in found]
  return figures | {"curve": curves[0] if len(curves) == 1 else sum(curves, [])}


class _Training:
  """One loop: seeds that train side by side, with their metrics, curve and checkpoints."""

  def __init__(self, run, job: Job, prepared: Prepared, directory: Path | None, stage: str, begin: float, on_epoch):
    self.ctx, self.job, self.prepared, self.directory = run, job, prepared, directory
    self.stage, self.begin, self.on_epoch = stage, begin, on_epoch
    self.metrics = self.curve_file = None
    if directory is not None:
      name = directory.name if directory.parent.name == "checkpoints" else f"{directory.parent.name}_{directory.name}"
      self.metrics = run.workdir / "metrics" / f"{name}.jsonl"
      self.curve_file = self.metrics.with_suffix(".curve.json")
    self.name = f"{stage}/{job.label}"
    self.steps = prepared.policy.steps  # of an epoch, at most
    self.curve: dict[str, Any] = {"rows": [], "seconds": 0.0}
    self.writer: JsonlWriter | None = None

  def run(self, key: jax.Array) -> tuple[Outcome, dict[str, Any]]:
    job, epochs = self.job, self.job.train["epochs"]
    shown = job.label if job.label.startswith(self.stage) else f"{self.stage} {job.label}"
    self.progress = Progress(shown, epochs * self.steps, stream=self.ctx.stream)
    identity = {"config": self.ctx.hash, "job": job.label, "seeds": list(job.seeds)}
    checkpoints = None if self.directory is None else Checkpoints(self.directory, identity)
    with self._messages(), contextlib.ExitStack() as stack:
      stack.callback(self._close)
      if checkpoints is not None:
        stack.callback(checkpoints.close)
      outcome = self._loop(key, checkpoints)
    if outcome.stopped:
      self.curve["seconds"] += outcome.seconds
      self._write_curve()
      done = f"step {outcome.steps} of about {epochs * self.steps}"
      self.ctx.interrupt(self.stage, self.begin, f"{job.label}: {done} is saved")
    return outcome, {"last": self._last(), "curve": self.curve["rows"]}

  def _loop(self, key: jax.Array, checkpoints: Checkpoints | None) -> Outcome:
    job, prepared, several = self.job, self.prepared, len(self.job.seeds) > 1
    key_order, key = jax.random.split(key)
    score = (job.score_every or self.steps) if job.score is not None else None
    return run_loop(
      prepared.method,
      self._stream(key_order),
      key=key,
      steps=None,
      steps_per_call=suggest_steps_per_call(self.steps, job.train["epochs"]),
      checkpoints=checkpoints,
      checkpoint_seconds=self.ctx.config["checkpoint_seconds"],
      log_every=self.ctx.config["log_every"],
      snapshot_every=self.steps if self.on_epoch is not None else None,
      score_every=score,
      hooks=Hooks(self._resume, self._show, self._snapshot, self._score, stop=lambda: self.ctx.stop_requested),
      mesh=prepared.rows,
      route="jit",
      seeds=job.seeds,
      at_once=_at_once(job),
      pool_mesh=self.ctx.mesh("pool", len(job.seeds)) if several else None,
    )

  def _stream(self, key: jax.Array) -> Stream:
    job, prepared = self.job, self.prepared
    return policy_stream(
      prepared.policy,
      key,
      shared=prepared.shared,
      members=job.members,
      join=_join,
      epochs=job.train["epochs"],
      seeds=job.seeds,
      batch_size=prepared.batch_size,
      look=prepared.look,
      start=job.start,
    )

  @contextlib.contextmanager
  def _messages(self) -> Iterator[None]:
    """Errors as the user should read them."""
    try:
      yield
    except Diverged as error:
      raise UserError(f"{self.job.label}: {error.finding}; lower {self.job.section}.lr") from error
    except NothingSelected as error:
      raise UserError(f"{self.job.label}: {error}") from error
    except UserError:
      raise
    except ValueError as error:  # what losses and connectors refuse while they are traced
      raise UserError(f"{self.job.label}: {error}") from error

  def _close(self) -> None:
    self.progress.close()
    if self.writer is not None:
      self.writer.close()

  def _resume(self, done: int) -> None:
    if self.metrics is None:
      return
    self.writer = JsonlWriter(self.metrics, self.name, resume_step=done or -1)
    if done and self.job.score is not None and self.curve_file.exists():
      found = read_json(self.curve_file)
      rows = [row for row in found["rows"] if row["step"] <= done]
      last = rows[-1]["seconds"] if rows else 0.0
      # after a kill, the seconds since the last score are not known
      self.curve = {"rows": rows, "seconds": max(found["seconds"], last) if rows == found["rows"] else last}

  def _show(self, done: int, metrics: Mapping[str, float]) -> None:
    if self.writer is not None:
      self.writer.write(done, metrics)
    terms = {name.removeprefix("loss/"): value for name, value in metrics.items() if name.startswith("loss/")}
    self.progress.update(done, terms)

  def _snapshot(self, done: int, trained: Trained) -> None:
    if self.on_epoch is not None:
      self.on_epoch(done // self.steps, trained)

  def _score(self, done: int, seconds: float, trained: Trained) -> None:
    job = self.job
    if job.score is None or any(row["step"] == done for row in self.curve["rows"]):
      return
    trained = jax.device_get(trained)
    scores = [dict(job.score(predictions(job, trained, index))) for index in range(len(job.seeds))]
    self.curve["rows"].append({"step": done, "seconds": self.curve["seconds"] + seconds, "scores": scores})
    self._write_curve()

  def _write_curve(self) -> None:
    if self.curve_file is not None and self.job.score is not None and distributed.is_writer():
      write_json(self.curve_file, self.curve)

  def _last(self) -> dict[str, float]:
    """What the last step reported, means over seeds."""
    path = self.metrics
    rows = distributed.lead(lambda: read_jsonl(path, self.name) if path is not None and path.exists() else [])
    return {key: float(value) for key, value in rows[-1].items() if "/" in key} if rows else {}


def _at_once(job: Job) -> bool:
  """Whether seeds train stacked: not where that makes grouped convolutions on a CPU."""
  if jax.default_backend() != "cpu":
    return True
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
  """One finished network as `(x) -> logits` on the host, batch by batch."""
  function = _predictor(job.network, _Same(job.recipe))
  own = jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), trained)
  return lambda x: predict(function, (own, job.constants), x)
