"""Networks of one job, trained side by side and resumable: teachers, students and trajectories alike."""

import contextlib
import itertools
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdistill.base import Diverged, UserError
from jdistill.files import Damaged, read_record, write_record
from jdistill.jobs.job import Job, Prepared, at_once, join, predictions, prepare
from jdistill.methods.knowledge import Trained
from jdistill.reporting import JsonlWriter, Progress, peak_memory_bytes, read_jsonl
from jdistill.runs import lines
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.training import (
  Checkpoints,
  Hooks,
  NotFinite,
  Outcome,
  Stream,
  distributed,
  run_loop,
  suggest_steps_per_call,
)
from jdistill.training.policy_stream import NothingSelected, policy_stream

__all__ = ["Job", "predictions", "run", "run_leaving"]


def run(
  run: Run,
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
  updates = prepared.policy.steps * job.train["epochs"]
  job.recipe.check(updates)
  if words := job.recipe.advice(updates):
    run.log(f"{stage}: {job.label}: {words}")
  if prepared.policy.looks:
    parts = [_only(job, index) for index in range(len(job.seeds))]
  found = []
  for part in parts:
    own = directory if directory is None or len(parts) == 1 else directory / f"seed{part.seeds[0]}"
    found.append(_Training(run, part, prepared, own, stage, begin, on_epoch).run(key))
  trained = [jax.device_get(outcome.result) for outcome, _ in found]
  together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *trained)
  return together, _figures(job, found, begin)


def run_leaving(
  run_: Run,
  job: Job,
  key: jax.Array,
  directory: Path,
  files: Sequence[Path],
  *,
  stage: str,
  on_epoch: Callable[[int, Trained], None],
  anew: bool = False,
) -> tuple[Trained, dict[str, Any]]:
  """`run` whose `on_epoch` leaves files: where those of earlier epochs are lost, the training begins anew.

  Args:
    run_, job, key, directory, stage, on_epoch: see `run`.
    files: what must be there at the end.
    anew: whether it begins anew in any case.
  """

  def forget() -> None:
    shutil.rmtree(directory, ignore_errors=True)

  if anew:
    on_first(forget)
  found = run(run_, job, key, directory, stage=stage, on_epoch=on_epoch)
  if on_first(lambda: all(file.exists() for file in files)):
    return found
  on_first(forget)
  return run(run_, job, key, directory, stage=stage, on_epoch=on_epoch)


def _only(job: Job, index: int) -> Job:
  start = None if job.start is None else jax.tree.map(lambda leaf: leaf[index : index + 1], job.start)
  return job._replace(members=job.members[index : index + 1], seeds=[job.seeds[index]], start=start)


def _figures(job: Job, found: list, begin: float) -> dict[str, Any]:
  outcome, notes = found[0]
  count = jax.tree.leaves(outcome.state.roles["student"])[0].shape[0]
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
  return figures | {"curve": _together([other["curve"] for _, other in found])}


def _together(curves: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
  """One curve of all seeds: the steps at which every seed was scored, at the mean of their seconds."""
  by_step = [{row["step"]: row for row in curve} for curve in curves]
  shared = sorted(set.intersection(*(set(rows) for rows in by_step)))
  return [
    {
      "step": step,
      "seconds": sum(rows[step]["seconds"] for rows in by_step) / len(by_step),
      "scores": list(itertools.chain.from_iterable(rows[step]["scores"] for rows in by_step)),
    }
    for step in shared
  ]


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
    self.remark = ""
    self.checkpoints: Checkpoints | None = None

  def run(self, key: jax.Array) -> tuple[Outcome, dict[str, Any]]:
    job, epochs = self.job, self.job.train["epochs"]
    shown = job.label if job.label.startswith(self.stage) else f"{self.stage} {job.label}"
    self.progress = Progress(shown, epochs * self.steps, stream=self.ctx.stream)
    identity = {"config": self.ctx.hash, "job": job.label, "seeds": list(job.seeds)}
    checkpoints = None if self.directory is None else Checkpoints(self.directory, identity, log=self.ctx.log)
    self.checkpoints = checkpoints
    with self._messages(), contextlib.ExitStack() as self.stack:
      self.stack.callback(self.progress.close)
      if checkpoints is not None:
        self.stack.callback(checkpoints.close)
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
      at_once=at_once(job),
      pool_mesh=self.ctx.mesh("pool", len(job.seeds)) if several else None,
    )

  def _stream(self, key: jax.Array) -> Stream:
    job, prepared = self.job, self.prepared
    return policy_stream(
      prepared.policy,
      key,
      shared=prepared.shared,
      members=job.members,
      join=join,
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
    except NotFinite as error:
      raise Diverged(f"{self.job.label}: {error.finding}; lower {self.job.section}.lr") from error
    except NothingSelected as error:
      raise UserError(f"{self.job.label}: {error}") from error
    except UserError:
      raise
    except ValueError as error:  # what losses and connectors refuse while they are traced
      raise UserError(f"{self.job.label}: {error}") from error

  def _resume(self, done: int) -> None:
    if self.metrics is None:
      return
    self.writer = lines.writer(self.metrics, self.name, done, self.checkpoints)
    self.stack.callback(self.writer.close)
    if done and self.job.score is not None and self.curve_file.exists():
      found = self._stored_curve()
      rows = [row for row in found["rows"] if row["step"] <= done]
      last = rows[-1]["seconds"] if rows else 0.0
      # after a kill, the seconds since the last score are not known
      self.curve = {"rows": rows, "seconds": max(found["seconds"], last) if rows == found["rows"] else last}

  def _stored_curve(self) -> dict[str, Any]:
    try:
      return read_record(self.curve_file)
    except Damaged as error:
      raise UserError(
        f"{self.job.label}: {error}; put it back as it was, or delete {self.directory} to train {self.job.label} anew"
      ) from error

  def _show(self, done: int, metrics: Mapping[str, float]) -> None:
    if self.writer is not None:
      self.writer.write(done, metrics)
    data = {name.removeprefix("data/"): value for name, value in metrics.items() if name.startswith("data/")}
    if (words := self.prepared.policy.remark(data)) != self.remark:
      self.remark = words
      if words:
        self.ctx.log(f"{self.stage}: {self.job.label}: step {done}: {words}")
    terms = {name.removeprefix("loss/"): value for name, value in metrics.items() if name.startswith("loss/")}
    self.progress.update(done, terms)

  def _snapshot(self, done: int, trained: Trained) -> None:
    if self.on_epoch is not None:
      self.on_epoch(done // self.steps, jax.device_get(trained))  # the next step takes the memory of the state

  def _score(self, done: int, seconds: float, trained: Trained) -> None:
    job = self.job
    if job.score is None or any(row["step"] == done for row in self.curve["rows"]):
      return
    trained = jax.device_get(trained)
    scores = [dict(job.score(predictions(job, trained, index), seed)) for index, seed in enumerate(job.seeds)]
    self.curve["rows"].append({"step": done, "seconds": self.curve["seconds"] + seconds, "scores": scores})
    self._write_curve()

  def _write_curve(self) -> None:
    if self.curve_file is not None and self.job.score is not None and distributed.is_writer():
      write_record(self.curve_file, self.curve)

  def _last(self) -> dict[str, float]:
    """What the last step reported, means over seeds."""
    path = self.metrics
    rows = distributed.on_first(lambda: read_jsonl(path, self.name) if path is not None and path.exists() else [])
    return {key: float(value) for key, value in rows[-1].items() if "/" in key} if rows else {}
