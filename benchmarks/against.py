"""This checkout against another one, in turn: an outer gradient of trajectory matching, and the step of a student.

  python -m benchmarks.against OTHER_CHECKOUT [--repeats=7] [--cases "width 32, 5 steps" ...]

Both run our side of `benchmarks.trajectory_step` and `benchmarks.student_step` with the same interpreter, each from its
own folder; nothing of PyTorch is needed. Ratios below 1 say that this checkout is faster.
"""

import statistics
import tempfile
from pathlib import Path

from benchmarks import _reports, _workers

TRAJECTORIES = ("digits, 20 steps", "width 32, 5 steps", "width 32, 20 steps")
STUDENTS = tuple((students, targets) for students in ("one", "seeds") for targets in ("online", "cached"))


def commands(scratch: str) -> dict[str, list[str]]:
  """The workers' arguments by the name of the case."""
  found = {
    name: ["-m", "benchmarks.trajectory_step", f"--case={name}", "--gradient=mixed", "--worker=jax"]
    for name in TRAJECTORIES
  }
  for students, targets in STUDENTS:
    found[f"student step, {students}, {targets}"] = [
      *("-m", "benchmarks.student_step", f"--students={students}", f"--scratch={scratch}", f"--worker={targets}")
    ]
  return found


def measure(command: list[str], folders: list[Path], repeats: int, threads: int) -> dict:
  """One case from both folders, in turn."""
  workers = [_workers.Worker(command, threads, folder) for folder in folders]
  _workers.interleave(workers, repeats)
  for worker in workers:
    worker.stop()
  own, other = workers
  pairs = [a / b for a, b in zip(own.seconds, other.seconds, strict=True)]
  return {
    "own_seconds": own.seconds,
    "other_seconds": other.seconds,
    "ratio_of_medians": own.median / other.median,
    "median_ratio_of_pairs": statistics.median(pairs),
  }


def main() -> None:
  parser = _reports.parser(__doc__)
  parser.add_argument("other", type=Path)
  parser.add_argument("--cases", nargs="*", metavar="CASE")
  arguments = parser.parse_args()
  folders = [Path.cwd(), arguments.other.resolve()]
  figures = {"machine": _reports.machine(arguments.threads), "repeats": arguments.repeats, "cases": {}}
  with tempfile.TemporaryDirectory() as scratch:
    for name, command in commands(scratch).items():
      if arguments.cases and name not in arguments.cases:
        continue
      row = figures["cases"][name] = measure(command, folders, arguments.repeats, arguments.threads)
      print(f"{name}: ratio of medians {row['ratio_of_medians']:.3f}", flush=True)
  rows = [
    [name, statistics.median(row["own_seconds"]), statistics.median(row["other_seconds"]), row["ratio_of_medians"]]
    for name, row in figures["cases"].items()
  ]
  print(f"load {figures['machine']['load_at_start'][0]}")
  print(_reports.table(["case", "this one s", "the other s", "ratio"], rows))
  if arguments.out is not None:
    _reports.write("against", figures, arguments.out)


if __name__ == "__main__":
  main()
