"""Coresets of up to 50,000 x 512 features: ours against loops of NumPy and JAX, submodlib and scikit-learn, in turn.

  python -m benchmarks.selection [--repeats=3] [--cases "graph cut, 50,000" ...] [--packages=FOLDER]

Submodlib is `submodlib-py` of the extra `bench`; `--packages` is a folder that has it (`pip install --target=FOLDER
submodlib-py`). A step is a whole selection from features in memory, similarities included. The loops are what one
writes: gains in one vector, one row of similarities for every choice (graph cut, k-center), and all gains anew from
a kept matrix (facility location). Where a loop in float32 rounds differently, its order leaves the true one after a
while: `same order` counts the choices until then. Loops of JAX use all cores, whatever `--threads` says. Submodlib gets
the same matrix, ready-made in NumPy, since making it by itself takes longer, and its lazy optimiser; 50,000 x 50,000 do
not fit in memory, so it takes part where there are 5,000. CPU seconds say more where other work shares the cores.
"""

import functools
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

from benchmarks import _reports, _workers

WIDTH, CLASSES = 512, 10


def features(size: int) -> np.ndarray:
  """`[size, WIDTH]` float32 features after a ReLU, of ten classes."""
  rng = np.random.default_rng(0)
  middles = rng.normal(size=(CLASSES, WIDTH)).astype(np.float32)
  noise = rng.normal(size=(size, WIDTH)).astype(np.float32)
  return np.maximum(middles[np.arange(size) % CLASSES] + noise, 0)


def unit(x: np.ndarray) -> np.ndarray:
  return x / np.linalg.norm(x, axis=1, keepdims=True)


# sides: `(x, count) -> positions in the order of their choice`


def our_graph_cut(x, count):
  from jdistill.selection import embeddings, greedy, objectives

  return greedy.maximise(objectives.graph_cut(objectives.cosine_similarity(embeddings.points(x))), count).index


def our_facility_location(x, count):
  from jdistill.selection import embeddings, greedy, objectives

  return greedy.maximise(objectives.facility_location(objectives.cosine_similarity(embeddings.points(x))), count).index


def our_k_center(x, count):
  from jdistill.selection import k_center

  return k_center(np.random.default_rng(0), x, count)


def our_pursuit(x, count):
  from jdistill.selection import embeddings, matching

  return np.sort(matching.matching_pursuit(embeddings.points(x), target(x), count).index)


def numpy_graph_cut(x, count, kind=np.float64):
  e = unit(x.astype(kind))
  gain, picked = 0.5 * len(e) + 0.5 * e @ e.sum(0), []
  for _ in range(count):
    picked.append(int(gain.argmax()))
    gain -= 1 + e @ e[picked[-1]]
    gain[picked[-1]] = -np.inf
  return np.array(picked)


def numpy_facility_location(x, count):
  e = unit(x)
  s = 0.5 + 0.5 * e @ e.T
  highest, picked = np.zeros(len(e), np.float32), []
  for _ in range(count):
    gain = np.maximum(s - highest, 0).sum(1)
    gain[picked] = -np.inf
    picked.append(int(gain.argmax()))
    highest = np.maximum(highest, s[picked[-1]])
  return np.array(picked)


def numpy_k_center(x, count):
  square = np.einsum("nd,nd->n", x, x)
  picked = [int(np.linalg.norm(x - x.mean(0), axis=1).argmin())]
  far = np.full(len(x), np.inf, np.float32)
  while len(picked) < count:
    far = np.minimum(far, square - 2 * x @ x[picked[-1]] + square[picked[-1]])
    far[picked[-1]] = -1
    picked.append(int(far.argmax()))
  return np.array(picked)


def jax_loop(begin: Callable, row: Callable) -> Callable:
  """A compiled `lax.fori_loop` over one vector of gains."""

  def choose(x, count):
    import jax
    import jax.numpy as jnp

    @jax.jit
    def run(x):
      x, gain = begin(x)

      def step(k, carry):
        gain, picked = carry
        best = jnp.argmax(gain)
        return row(x, gain, best).at[best].set(-jnp.inf), picked.at[k].set(best)

      return jax.lax.fori_loop(0, count, step, (gain, jnp.zeros(count, jnp.int32)))[1]

    compiled = _COMPILED.setdefault((begin, x.shape, count), run)
    return np.asarray(compiled(x))

  return choose


_COMPILED: dict = {}


def _begin_cut(x):
  import jax.numpy as jnp

  e = x / jnp.linalg.norm(x, axis=1, keepdims=True)
  return e, 0.5 * len(e) + 0.5 * e @ e.sum(0)


def _begin_center(x):
  import jax.numpy as jnp

  first = jnp.argmin(jnp.linalg.norm(x - x.mean(0), axis=1))
  return x, jnp.full(len(x), 1e30).at[first].set(2e30)


def _row_center(x, gain, best):
  import jax.numpy as jnp

  square = jnp.sum(x * x, axis=1)
  return jnp.minimum(gain, square - 2 * x @ x[best] + square[best])


def submodlib_graph_cut(x, count):
  from submodlib import GraphCutFunction

  s = 0.5 + 0.5 * unit(x) @ unit(x).T
  function = GraphCutFunction(n=len(x), mode="dense", lambdaVal=1.0, mgsijs=s, ggsijs=None)
  return _submodlib(function, count)


def submodlib_facility_location(x, count):
  from submodlib import FacilityLocationFunction

  s = 0.5 + 0.5 * unit(x) @ unit(x).T
  return _submodlib(FacilityLocationFunction(n=len(x), mode="dense", sijs=s, separate_rep=False), count)


def _submodlib(function, count):
  found = function.maximize(budget=count, optimizer="LazyGreedy", show_progress=False)
  return np.array([example for example, _ in found])


def target(x: np.ndarray) -> np.ndarray:
  """Between the mean of all and one class, in float64."""
  return x.mean(0, dtype=np.float64) + 0.5 * x[::CLASSES].mean(0, dtype=np.float64)


def sklearn_pursuit(x, count):
  from sklearn.linear_model import orthogonal_mp

  return np.flatnonzero(orthogonal_mp(x.T.astype(np.float64), target(x), n_nonzero_coefs=count))


def within_classes(choose: Callable) -> Callable:
  """The same within every class, a tenth of the choice each."""

  def each(x, count):
    own = [np.arange(label, len(x), CLASSES) for label in range(CLASSES)]
    return np.concatenate([rows[choose(x[rows], count // CLASSES)] for rows in own])

  return each


_JAX_CUT = jax_loop(_begin_cut, lambda x, gain, best: gain - (1 + x @ x[best]))
_JAX_CENTER = jax_loop(_begin_center, _row_center)
_FLOAT32 = functools.partial(numpy_graph_cut, kind=np.float32)
_CUTS = {"ours": our_graph_cut, "NumPy": numpy_graph_cut, "NumPy, float32": _FLOAT32, "JAX, float32": _JAX_CUT}
_COVERS = {"ours": our_facility_location, "NumPy": numpy_facility_location}
_CENTERS = {"ours": our_k_center, "NumPy, float32": numpy_k_center, "JAX, float32": _JAX_CENTER}
# name: examples, choices, sides
CASES: dict[str, tuple[int, int, dict[str, Callable]]] = {
  "graph cut, 5,000": (5_000, 500, _CUTS | {"submodlib": submodlib_graph_cut}),
  "facility location, 5,000": (5_000, 50, _COVERS | {"submodlib": submodlib_facility_location}),
  "matching pursuit, 5,000": (5_000, 50, {"ours": our_pursuit, "scikit-learn": sklearn_pursuit}),
  "graph cut, 50,000": (50_000, 200, _CUTS),
  "k-center, 50,000": (50_000, 200, _CENTERS),
  "facility location, 50,000 in ten classes": (50_000, 100, {k: within_classes(v) for k, v in _COVERS.items()}),
  "facility location, 50,000 at once": (50_000, 50, {"ours": our_facility_location}),
}
_SHOWN = ("seconds", "ratio", "cpu_seconds", "cpu_ratio")
_ONCE = ("facility location, 50,000 at once",)  # nothing to be compared with, and long


def worker(case: str, side: str) -> None:
  """One side of a case."""
  size, count, sides = CASES[case]
  x, order, spent = features(size), [], []
  baseline = _workers.peak_rss()

  def step():
    begin = time.process_time()
    order[:] = sides[side](x, count).tolist()
    spent.append(time.process_time() - begin)

  _workers.serve(step, baseline, order=order, spent=spent)  # lists that are full when it prints them


def measure(case: str, repeats: int, threads: int, packages: str) -> dict:
  """All sides of a case, in turn."""
  sides = CASES[case][2]
  command = ["-m", "benchmarks.selection", f"--case={case}", f"--packages={packages}"]
  workers = {side: _workers.Worker([*command, f"--worker={side}"], threads) for side in sides}
  if case in _ONCE:
    for one in workers.values():
      one.wait()
      one.step()
  else:
    _workers.interleave(list(workers.values()), repeats)
  facts = {side: one.stop() for side, one in workers.items()}
  counted = {side: statistics.median(facts[side]["spent"][-len(one.seconds) :]) for side, one in workers.items()}
  return {
    side: {
      "seconds": one.median,
      "all_seconds": one.seconds,
      "ratio": workers["ours"].median / one.median,
      "cpu_seconds": counted[side],
      "cpu_ratio": counted["ours"] / counted[side],
      "peak_bytes": facts[side]["peak_bytes"],
      "same_order_for": _agreement(facts["ours"]["order"], facts[side]["order"]),
    }
    for side, one in workers.items()
  }


def _agreement(own: list[int], other: list[int]) -> int:
  """How many choices are the same, up to the first that is not."""
  return next((k for k, (a, b) in enumerate(zip(own, other, strict=True)) if a != b), len(own))


def main() -> None:
  parser = _reports.parser(__doc__)
  parser.set_defaults(repeats=3)
  parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES), metavar="CASE")
  parser.add_argument("--packages", default="", help="folder with submodlib, where it is not installed")
  parser.add_argument("--worker")
  parser.add_argument("--case")
  arguments = parser.parse_args()
  if arguments.packages:
    import sys

    sys.path.append(arguments.packages)
  if arguments.worker:
    return worker(arguments.case, arguments.worker)
  figures = {"machine": _reports.machine(arguments.threads), "repeats": arguments.repeats, "cases": {}}
  begin = time.perf_counter()
  for case in arguments.cases:
    figures["cases"][case] = measure(case, arguments.repeats, arguments.threads, arguments.packages)
    figures["load_at_end"] = [round(value, 2) for value in os.getloadavg()]
    _reports.write("selection", figures, arguments.out)
    print(f"{case}: {time.perf_counter() - begin:.0f} s so far", flush=True)
  rows = [
    [f"{case}: {side}", *(row[key] for key in _SHOWN), row["peak_bytes"] / 2**20, row["same_order_for"]]
    for case, sides in figures["cases"].items()
    for side, row in sides.items()
  ]
  print(f"load {figures['machine']['load_at_start'][0]} to {figures['load_at_end'][0]}")
  print(_reports.table(["selection", "s", "ours / it", "CPU s", "ours / it", "MiB", "same order"], rows))
  return None


if __name__ == "__main__":
  main()
