"""Proxy networks, which judge the examples before some are chosen: their training, and what is recorded of them."""

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Diverged, Network
from jdistill.files import read_npz, sha256_arrays, write_npz
from jdistill.jobs import networks, subset, train
from jdistill.methods.knowledge import Trained
from jdistill.models.predict import predict
from jdistill.runs import artefacts
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.selection.select import Evidence
from jdistill.tasks import Task

_RECORD, _CHECKS = "proxies.json", "checks.npz"


def identity_of(run: Run, arm: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
  """All that determines the proxies of some seeds and what is recorded of them."""
  task = run.task(arm["task"])
  return {
    "data": run.fingerprint(task.data),
    "members": sha256_arrays({"members": subset.members(run, arm, seeds)}),
    "validation": run.fingerprint(task.validation) if "validation" in subset.needs(arm) else None,
    "history": "history" in subset.needs(arm),
    "model": arm["proxy"],
    "train": arm["proxy_train"],
    "runs": arm["select"]["runs"],
    "epoch": subset.epoch_of(arm),
    "seeds": list(seeds),
    "seed": run.config["seed"],
  }


def job_of(run: Run, label: str, arm: Mapping[str, Any], seeds: Sequence[int]) -> train.Job:
  """The training of all proxies of some seeds: `select.runs` for each, on the examples of that student."""
  task, runs = run.task(arm["task"]), arm["select"]["runs"]
  return train.Job(
    label=f"proxies of {label}",
    network=run.network(arm["proxy"], task),
    recipe=networks.recipe_of({"name": "ce"}),
    train=arm["proxy_train"],
    data=task.data,
    members=np.repeat(subset.members(run, arm, seeds), runs, axis=0),
    seeds=[seed * subset.MOST_RUNS + number for seed in seeds for number in range(runs)],
    section="proxy_train",
    score=lambda predict, seed: {},  # for the seconds alone
  )


@functools.lru_cache(maxsize=8)
def _asked(network: Network):
  def ask(variables, x):
    out = network.apply(variables.params, x, stats=variables.stats)
    return out.embedding, out.logits

  return ask


class _Recorder:
  """Asks proxies after every epoch and keeps the answers in the directory of their artefact."""

  def __init__(self, path: Path, job: train.Job, task: Task, identity: Mapping[str, Any]):
    self._path, self._job, self._task, self._identity = path, job, task, identity
    self._runs = identity["runs"]
    self._warm = False

  def __call__(self, epoch: int, trained: Trained) -> None:
    on_first(lambda: self._record(epoch, trained))

  def _record(self, epoch: int, trained: Trained) -> None:
    if not self._warm:  # compiles
      self._answers(trained, 0)
      self._warm = True
    last = epoch == self._identity["epoch"]
    if not epoch or not (last or self._identity["history"]):
      return
    begin, count = time.monotonic(), len(self._job.seeds)
    found = [self._answers(trained, index) for index in range(count)]
    if self._identity["history"]:
      self._write_checks(epoch, [answers[1] for answers in found[:: self._runs]], begin)
    if last:
      self._write(found, begin)

  def _answers(self, trained: Trained, index: int) -> list[np.ndarray]:
    """Features and logits of the training examples, and of the validation examples where they are wanted."""
    variables = jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), trained.variables["student"])
    ask, x = _asked(self._job.network), self._task.data.x[self._job.members[index]]
    found = list(predict(ask, variables, x))
    if self._identity["validation"] is not None:
      found += predict(ask, variables, self._task.validation.x)
    return found

  def _write_checks(self, epoch: int, logits: list[np.ndarray], begin: float) -> None:
    """Which examples the first proxy of each seed has right."""
    y, members = np.asarray(self._task.data.y), self._job.members[:: self._runs]
    right = np.stack([own.argmax(-1) == y[row] for own, row in zip(logits, members, strict=True)])
    epochs = self._job.train["epochs"]
    checks = read_npz(self._path / _CHECKS) if epoch > 1 else {}
    if checks.get("right", np.zeros(0)).shape != (epochs, *right.shape):
      checks = {"right": np.zeros((epochs, *right.shape), bool), "seconds": np.zeros(epochs)}
    checks["right"][epoch - 1] = right
    checks["seconds"][epoch - 1] = time.monotonic() - begin
    write_npz(self._path / _CHECKS, checks)

  def _write(self, found: list[list[np.ndarray]], begin: float) -> None:
    seconds = time.monotonic() - begin
    names = ("features", "logits", "validation_features", "validation_logits")
    for place in range(0, len(found), self._runs):
      columns = zip(*found[place : place + self._runs], strict=True)
      arrays = {name: np.stack(values).astype(np.float32) for name, values in zip(names, columns, strict=False)}
      arrays = {name: value.reshape(*value.shape[:2], -1) for name, value in arrays.items()}
      if not all(np.isfinite(value).all() for value in arrays.values()):
        raise Diverged(f"{self._job.label}: their outputs are not finite; lower proxy_train.lr")
      write_npz(self._path / _answers_of(place // self._runs), arrays | {"seconds": np.float64(seconds)})


def _answers_of(place: int) -> str:
  return f"answers{place}.npz"


def ready(run: Run, label: str, arm: Mapping[str, Any], seeds: Sequence[int], stage: str) -> tuple[Path, dict]:
  """Where the answers of the proxies of some seeds lie, and their record; they are trained first where missing."""
  identity = identity_of(run, arm, seeds)
  path = run.artefact("proxies", **identity)
  make = lambda: _train(run, label, arm, seeds, stage, path, identity)  # noqa: E731
  return path, artefacts.ready(run, "select", path, _RECORD, identity, make)


def _train(run, label, arm, seeds, stage: str, path: Path, identity: Mapping[str, Any]) -> None:
  job, key = job_of(run, label, arm, seeds), run.key("proxies")
  record = _Recorder(path, job, run.task(arm["task"]), identity)
  checkpoints = run.workdir / "checkpoints" / f"proxies_{path.name}"
  files = [_answers_of(place) for place in range(len(seeds))] + ([_CHECKS] if identity["history"] else [])

  anew = on_first(lambda: (path / _RECORD).exists())  # they were whole once, and are not any more
  left = [path / name for name in files]
  _, figures = train.run_leaving(run, job, key, checkpoints, left, stage=stage, on_epoch=record, anew=anew)

  def write() -> None:
    checks = float(read_npz(path / _CHECKS)["seconds"].sum()) if identity["history"] else 0.0
    asking = 0.0 if checks else float(read_npz(path / files[0])["seconds"])
    # a run that only wants the answers of an early epoch could stop there
    epochs = job.train["epochs"] if identity["history"] else identity["epoch"]
    seconds = figures["curve"][epochs - 1]["seconds"] + checks + asking
    artefacts.write(path, _RECORD, identity, tuple(files), seconds=seconds)

  on_first(write)
  run.log(f"{stage}: {len(job.seeds)} x {arm['proxy']['name']}, {job.train['epochs']} epochs, judge the examples")


def evidence(run: Run, arm: Mapping[str, Any], seed: int, place: int, path: Path | None) -> Evidence:
  """What is known of the examples of one student."""
  task, labels = run.task(arm["task"]), subset.labels_of(run, arm, seed)
  if not subset.needs(arm):
    return Evidence(labels)
  if path is None:
    return Evidence(labels, features=task.data.x[task.members(seed)].reshape(len(labels), -1))
  found = read_npz(path / _answers_of(place))
  history = read_npz(path / _CHECKS)["right"][:, place] if "history" in subset.needs(arm) else None
  others = None
  if "validation" in subset.needs(arm):
    others = Evidence(np.asarray(task.validation.y), found["validation_features"], found["validation_logits"])
  return Evidence(labels, found["features"], found["logits"], history, others)
