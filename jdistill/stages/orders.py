"""Stage `orders`: trains once, estimates what other orders of the batches would give, and compares with trainings."""

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from scipy import stats

from jdistill import orders, schema
from jdistill.base import Batch, Diverged
from jdistill.config import Declared
from jdistill.files import Damaged, format_bytes, read_npz, write_npz
from jdistill.reporting import units
from jdistill.runs import grid
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.schema import Range
from jdistill.stages import order_lab, order_report
from jdistill.stages.order_lab import Lab
from jdistill.stages.stage import Stage

_FILE = "estimates.json"
_ELITE = 2  # orders of the search that live on


class Keys(NamedTuple):
  """Keys at the top."""

  seeds: Annotated[int, Range(1, 1000)] = 3
  subject: str | None = None
  reference: str | None = None
  order: tuple[str, ...] | None = None


def _check(run: Run) -> None:
  for label in run.config["order"]:
    arm = run.config["arms"][label]
    lab = order_lab.lab_of(run, arm)
    batches = order_lab.batches_of(run, arm, 0)
    order_lab.check_memory(label, lab, arm["orders"]["memory"])
    jax.eval_shape(lab.recorded, jax.random.key(0), batches)  # refuses a network that does not fit the batches


def _run(run: Run) -> None:
  cells = grid.Grid(run, "orders", _FILE)
  cells.work(run.config["order"], lambda label: _arm(run, cells, label))
  cells.finish()


def _arm(run: Run, cells: grid.Grid, label: str) -> dict[str, Any]:
  """All seeds of one arm: the record of its cell."""
  begin, arm, rows, files, curves = time.monotonic(), run.config["arms"][label], [], [], []
  lab = order_lab.lab_of(run, arm)
  for seed in range(run.config["seeds"]):
    cells.stop_if_asked(f"{label}: seed {seed} comes next")
    truth = _truth(run, lab, arm, seed)
    row, curve = _seed(run, lab, arm, seed, truth)
    rows.append(row)
    curves.append(curve)
    files.append(_path(run, arm, seed))
    run.log(f"orders: {label}, seed {seed}: r {row['r']:.4f}, found {row['found']:.4f} nats")
  scores = {name: [row[name] for row in rows] for name in rows[0]}
  seconds = {name: float(np.mean([curve.pop(name) for curve in curves])) for name in ("per_estimate", "per_training")}
  costs = order_lab.work(lab, order_lab.batches_of(run, arm, 0))
  figures = {"seconds": time.monotonic() - begin, "flops": costs, **seconds, "bytes": order_lab.nbytes(lab)}
  return {
    "arm": arm,
    "scores": scores,
    "figures": figures | {"curves": curves},
    "files": on_first(lambda: run.checksums(*files)),
  }


def _path(run: Run, arm: Mapping[str, Any], seed: int) -> Path:
  """Where what was drawn and what it really gave is kept, for all arms that train alike."""
  c = run.config
  data = run.fingerprint(run.task(arm["task"]).data)
  identity = {name: arm[name] for name in order_lab.ALIKE} | {"data": data, "seed": c["seed"], "replicate": seed}
  return run.workdir / "orders" / f"{run.key_of(stage='orders', **identity)}.npz"


def _start(run: Run, seed: int) -> jax.Array:
  return jax.random.fold_in(run.key("orders"), seed)


def _truth(run: Run, lab: Lab, arm: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
  """Orders as they were drawn, and what real trainings in them give; made once."""
  path = _path(run, arm, seed)

  def read() -> dict[str, np.ndarray] | None:
    try:
      return read_npz(path) if path.exists() else None
    except Damaged as error:
      run.tell("orders", error)
      return None

  found = on_first(read)
  if found is None:
    found = _trained(run, lab, arm, seed)
    on_first(lambda: write_npz(path, found))
  return found


def _drawn(run: Run, arm: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
  """All random orders of a seed: those that are compared, and as many as the search will ask about."""
  how = arm["orders"]
  rng = np.random.default_rng((run.config["seed"], seed, 73))
  asked = how["population"] + how["generations"] * (how["population"] - _ELITE)
  steps = how["batches"]
  own = np.arange(steps, dtype=np.int32)
  places = np.unique(np.linspace(0, steps - 1, how["moved"] + 2).astype(int)[1:-1]) if how["moved"] else []
  return {
    "compared": orders.random_orders(rng, how["compared"], steps),
    "searched": orders.random_orders(rng, asked, steps),
    "moved_batches": np.asarray(places, np.int32),
    "moved": np.concatenate([orders.moved_orders(own, place) for place in places] or [np.zeros((0, steps), np.int32)]),
  }


def _trained(run: Run, lab: Lab, arm: Mapping[str, Any], seed: int) -> dict[str, np.ndarray]:
  batches, key = order_lab.batches_of(run, arm, seed), _start(run, seed)
  theta, state = lab.init(key)
  validation, test = (order_lab.examples(part) for part in (lab.task.validation, lab.task.test))
  train = lambda found: lab.trained(theta, state, found, batches)  # noqa: E731
  found = _drawn(run, arm, seed)
  last = order_lab.in_blocks(train, np.arange(lab.steps, dtype=np.int32)[None])  # compiles, too
  every = [float(lab.loss(last[0], one)) for one in _each(batches, range(lab.steps))]
  easy = np.argsort(every, kind="stable").astype(np.int32)[None]
  begin = time.monotonic()
  compared = order_lab.in_blocks(train, found["compared"])
  seconds = (time.monotonic() - begin) / len(compared)
  searched, sorted_ = (order_lab.in_blocks(train, one) for one in (found["searched"], easy))
  own = {"moved_test": np.zeros(0), "moved_own": np.zeros(0)}
  if len(found["moved"]):
    moved = order_lab.in_blocks(train, found["moved"])
    own = _of_moved(lab, moved, found["moved_batches"], batches, test)
  out = found | own | {
    "ids": np.asarray(batches.ids),
    "easy": easy[0],
    "theta": compared,
    "last": last[0],
    "test": order_lab.score(lab, compared, test),
    "last_test": order_lab.score(lab, last, test),
    "easy_test": order_lab.score(lab, sorted_, test),
    "searched_validation": order_lab.score(lab, searched, validation),
    "searched_test": order_lab.score(lab, searched, test),
    "seconds": np.float64(seconds),
  }  # fmt: skip
  if not all(np.isfinite(out[name]).all() for name in ("theta", "test", "searched_test", "easy_test")):
    raise Diverged(f"a real training of seed {seed} is not finite any more; lower orders.lr={arm['orders']['lr']}")
  return out


def _each(batches: Batch, places: Iterable[int]) -> Iterator[Batch]:
  return (jax.tree.map(lambda leaf, place=place: leaf[place], batches) for place in places)


def _of_moved(lab: Lab, theta: np.ndarray, places: np.ndarray, batches, test) -> dict[str, np.ndarray]:
  """Losses after trainings with one batch at every position: on this batch, and on the test examples."""
  parts = np.split(theta, len(places))
  own = [order_lab.score(lab, part, one) for part, one in zip(parts, _each(batches, places), strict=True)]
  return {"moved_own": np.concatenate(own), "moved_test": order_lab.score(lab, theta, test)}


def _seed(run: Run, lab: Lab, arm: Mapping[str, Any], seed: int, truth: Mapping[str, np.ndarray]):
  """Scores of one seed, and what figures need."""
  batches, key, how = order_lab.batches_of(run, arm, seed), _start(run, seed), arm["orders"]
  validation, test = (order_lab.examples(part) for part in (lab.task.validation, lab.task.test))
  reference = order_lab.reference_of(lab, key, batches)
  guess = lambda found: lab.guessed(reference, found, batches)  # noqa: E731
  order_lab.in_blocks(guess, truth["compared"][:1])  # compiles
  begin = time.monotonic()
  estimate = order_lab.in_blocks(guess, truth["compared"])
  seconds = (time.monotonic() - begin) / len(truth["compared"])
  orders.require_finite(estimate)
  guessed = order_lab.score(lab, estimate.theta, test)

  def fitness(found: np.ndarray) -> np.ndarray:
    values = order_lab.score(lab, order_lab.in_blocks(guess, found).theta, validation)
    return np.where(np.isfinite(values), values, 1e30)  # a diverged expansion tells nothing of its order

  search = orders.search_curriculum(
    fitness,
    np.random.default_rng((run.config["seed"], seed, 79)),
    steps=lab.steps,
    population=how["population"],
    generations=how["generations"],
    elite=_ELITE,
  )
  theta, state = lab.init(key)
  best = order_lab.in_blocks(lambda found: lab.trained(theta, state, found, batches), search.order[None])
  row = _against(truth, estimate.theta, guessed) | _of_search(truth, float(order_lab.score(lab, best, test)[0]))
  curve = {"per_estimate": seconds, "per_training": float(truth["seconds"]), "history": search.history}
  curve |= {"order": search.order.tolist(), "true": truth["test"].tolist(), "guessed": guessed.tolist()}
  if len(truth["moved"]):
    moved = order_lab.in_blocks(guess, truth["moved"])
    told = _of_moved(lab, moved.theta, truth["moved_batches"], batches, test)
    row |= {f"{name}_r": _mean_r(truth[f"moved_{name}"], told[f"moved_{name}"], truth) for name in ("own", "test")}
    curve |= {
      f"moved_{name}": [truth[f"moved_{name}"].tolist(), told[f"moved_{name}"].tolist()] for name in ("own", "test")
    }
  return row, curve


def _mean_r(true: np.ndarray, told: np.ndarray, truth: Mapping[str, np.ndarray]) -> float:
  """The correlation over positions, the mean over the batches that were moved."""
  count = len(truth["moved_batches"])
  return float(np.mean([pearson(a, b) for a, b in zip(*(np.split(one, count) for one in (true, told)), strict=True)]))


def pearson(a: np.ndarray, b: np.ndarray) -> float:
  """Pearson's r; 0 where one side does not vary, for a constant tells nothing."""
  a, b = (np.asarray(one, np.float64) - np.mean(one) for one in (a, b))
  scale = np.linalg.norm(a) * np.linalg.norm(b)
  return float(a @ b / scale) if scale > 0 else 0.0


def _against(truth: Mapping[str, np.ndarray], theta: np.ndarray, guessed: np.ndarray) -> dict[str, float]:
  """Estimates beside real trainings in the same orders."""
  true = truth["test"].astype(np.float64)
  real, last, theta = (np.asarray(one, np.float64) for one in (truth["theta"], truth["last"], theta))
  apart, moved = np.linalg.norm(theta - real, axis=1), np.linalg.norm(real - last, axis=1)
  return {
    "r": pearson(true, guessed),
    "spearman": pearson(stats.rankdata(true), stats.rankdata(guessed)),
    "error": float(np.mean(np.abs(true - guessed))),
    "constant_error": float(np.mean(np.abs(true - truth["last_test"]))),
    "relative_error": float(np.mean(apart / np.maximum(moved, np.finfo(np.float32).tiny))),
  }


def _of_search(truth: Mapping[str, np.ndarray], found: float) -> dict[str, float]:
  """The order that was found in a real training, beside other ways to choose one; test nats."""
  return {
    "found": found,
    "random_mean": float(np.mean(truth["test"])),
    "true_search": float(truth["searched_test"][np.argmin(truth["searched_validation"])]),
    "easy_to_hard": float(truth["easy_test"][0]),
    "gain": float(np.mean(truth["test"]) - found),
  }


def _plan(run: Run) -> list[tuple[str, str]]:
  rows = []
  for label in run.config["order"]:
    c, arm = run.config, run.config["arms"][label]
    lab = order_lab.lab_of(run, arm)
    costs, how = order_lab.work(lab, order_lab.batches_of(run, arm, 0)), arm["orders"]
    amounts = {name: units.amount(value, "FLOP") for name, value in costs.items()}
    rows.append(
      (
        f"{label}: {c['seeds']} x a reference of {how['batches']} updates, {arm['model']['name']} ({lab.size:,} "
        f"parameters), {format_bytes(order_lab.nbytes(lab))} kept",
        f"{amounts['reference']} for it, {amounts['estimate']} an estimate, {amounts['training']} a real training",
      )
    )
  return rows


STAGE = Stage(
  "orders",
  lambda run: on_first(lambda: _run(run)),
  Declared(schema.fields(Keys), order_lab.SECTIONS, ("arms",), order_lab.ARMS.expand),
  (f"stages/{_FILE}",),
  _check,
  lambda run: grid.check_metrics(run, grid.load(run, _FILE)),
  _plan,
  lambda run, record: order_report.part(run, grid.load(run, _FILE)),
)
