"""Stage `evaluate`: the distilled set and its controls, trained on by fresh networks under one protocol."""

import time
from typing import NamedTuple

import jax
import numpy as np

from jdistill.base import Network, Pool
from jdistill.data.subset import balanced_indices
from jdistill.evaluation import Protocol, evaluate_seeds, examples_of
from jdistill.files import read_json, write_json
from jdistill.reporting import Progress
from jdistill.stages.context import lead
from jdistill.stages.dataset import distill, experts
from jdistill.stages.dataset.context import Context
from jdistill.stages.dataset.initial import soft_labels
from jdistill.synthetic import random_real

_PER_SEED = ("random_hard", "random_soft")  # these draw other real images for every seed
_VALIDATION = 1000  # real training images on which the controls' learning rates are chosen


class _Job(NamedTuple):
  """One set to train on; `lr=None` asks for a choice on validation images."""

  images: np.ndarray
  labels: np.ndarray
  lr: float | None
  protocol: Protocol
  used: np.ndarray  # positions of real images that validation must not contain


def _jobs(ctx: Context) -> dict:
  """Builders of the sets by name and seed; each random control draws other real images for every seed."""
  c, dataset = ctx.config, ctx.dataset
  e = c["eval"]
  protocol = Protocol(e["epochs"], e["batch_size"], e["momentum"], e["weight_decay"], ctx.augmentation(e["augment"]))
  full = protocol._replace(epochs=e["full_epochs"], batch_size=e["full_batch_size"])
  distilled, initial = distill.load(ctx, "distilled"), distill.load(ctx, "initial")
  buffer = experts.ready(ctx) if "random_soft" in e["sets"] else None
  nothing = np.zeros(0, np.int64)

  def random_control(seed: int, soft: bool) -> _Job:
    picked = random_real(np.random.default_rng((c["seed"], 3, seed)), dataset.train_y, c["ipc"], dataset.num_classes)
    images, labels = ctx.train_x[picked], dataset.train_y[picked]
    if soft:
      labels = soft_labels(ctx, buffer, images, labels)
    return _Job(images, labels, None, protocol, picked)

  builders = {
    "distilled": lambda seed: _Job(distilled.images, distilled.labels, float(distilled.lr), protocol, nothing),
    "random_hard": lambda seed: random_control(seed, soft=False),
    "random_soft": lambda seed: random_control(seed, soft=True),
    "initial": lambda seed: _Job(initial.images, initial.labels, None, protocol, nothing),
    "full_data": lambda seed: _Job(ctx.train_x, dataset.train_y, e["full_lr"], full, nothing),
  }
  return {name: builders[name] for name in e["sets"]}


def _choose_lr(ctx: Context, network: Network, job: _Job) -> float:
  """The control's learning rate: the best of a few on real training images outside the set, never on test images."""
  dataset = ctx.dataset
  free = np.setdiff1d(np.arange(len(dataset.train_y)), job.used)
  labels = dataset.train_y[free]
  least = int(np.bincount(labels, minlength=dataset.num_classes).min())
  count = min(_VALIDATION, least * dataset.num_classes)
  if count >= dataset.num_classes:
    picked = balanced_indices(labels, count, dataset.num_classes, seed=ctx.config["seed"], key="validation")
    free, labels = free[picked], labels[picked]
  if not len(free):
    return float(ctx.config["method"]["lr_init"])
  examples = examples_of(job.images, job.labels, dataset.num_classes)
  scores = []
  for lr in ctx.config["eval"]["control_lrs"]:
    found = evaluate_seeds(
      network, job.protocol, examples, lr, ctx.train_x[free], labels, key=ctx.key("validation"), seeds=1
    )
    scores.append(found[0])
  return float(ctx.config["eval"]["control_lrs"][int(np.argmax(scores))])


def run(ctx: Context) -> None:
  """Evaluates every set with every network of `eval.models`; finished seeds are kept in `stages/evaluations.json`."""
  ctx.together("pool", lambda: _run(ctx))


def _run(ctx: Context) -> None:
  begin, e = time.monotonic(), ctx.config["eval"]
  path = ctx.workdir / "stages" / "evaluations.json"
  results = lead(lambda: read_json(path) if path.exists() else {})
  jobs, pool = _jobs(ctx), ctx.pool()
  total = len(e["models"]) * len(jobs) * e["seeds"]
  progress = Progress("evaluate", total, stream=ctx.stream)
  for model in e["models"]:
    network = ctx.network(model)
    for name, make in jobs.items():
      entry = results.setdefault(model, {}).setdefault(name, {"lr": None, "accuracies": []})
      while (seed := len(entry["accuracies"])) < e["seeds"]:
        done = sum(len(known["accuracies"]) for sets in results.values() for known in sets.values())
        if ctx.stops():
          ctx.interrupt("evaluate", begin, f"{done} of {total} evaluations are saved")
        job = make(seed)
        if entry["lr"] is None:
          entry["lr"] = job.lr if job.lr is not None else lead(lambda n=network, j=job: _choose_lr(ctx, n, j))
        at_once = _at_once(name, e["seeds"] - seed, pool)
        sets = [
          examples_of(j.images, j.labels, ctx.dataset.num_classes)
          for j in (job, *(make(seed + other) for other in range(1, at_once) if name in _PER_SEED))
        ]
        found = evaluate_seeds(
          network,
          job.protocol,
          sets if len(sets) > 1 else sets[0],
          entry["lr"],
          ctx.test_x,
          ctx.dataset.test_y,
          key=ctx.key("evaluate"),
          seeds=at_once,
          first=seed,
          pool=pool,
        )
        entry["accuracies"] += found
        lead(lambda: write_json(path, results))
        progress.update(done + at_once, {name: found[-1]})
  progress.close()
  ctx.finish("evaluate", begin)


def _at_once(name: str, left: int, pool: Pool | None) -> int:
  """How many seeds train together: few, as each is saved, where that costs nothing."""
  on_cpu = jax.default_backend() == "cpu"
  if pool is not None:
    return min(left, pool.size) if on_cpu or name in _PER_SEED else left
  # one after another on CPU; elsewhere at once, where all seeds see the same images
  return 1 if on_cpu or name in _PER_SEED else left


def load(ctx: Context) -> dict:
  """`{model: {set: {"lr": ..., "accuracies": [...]}}}`, as left by this stage."""
  return read_json(ctx.workdir / "stages" / "evaluations.json")
