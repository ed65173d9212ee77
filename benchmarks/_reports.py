"""What every benchmark says beside its figures: machine, load, versions; one JSON file and one table."""

import argparse
import json
import os
import platform
from pathlib import Path

from benchmarks import _workers

RESULTS = Path(__file__).parent / "results"


def machine(threads: int) -> dict:
  """Where and under what load the figures were taken."""
  return {
    "processor": _processor(),
    "cores": os.cpu_count(),
    "threads": threads,
    "load_at_start": [round(value, 2) for value in os.getloadavg()],
    "python": platform.python_version(),
  }


def _processor() -> str:
  try:
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
  except (OSError, StopIteration):
    return platform.machine()


def matmul_peak(threads: int) -> float:
  """FLOP/s of a 1024 x 1024 float32 product, the best of a few."""
  worker = _workers.Worker(["-m", "benchmarks._reports", "--matmul"], threads)
  worker.wait()
  for _ in range(12):
    worker.step()
  worker.stop()
  return 2 * 1024**3 * 10 / min(worker.seconds)


def _matmul_worker() -> None:
  import jax

  x = jax.random.normal(jax.random.key(0), (1024, 1024))
  product = jax.jit(lambda x: jax.lax.fori_loop(0, 10, lambda _, y: (x @ y) * 0.03, x))
  jax.block_until_ready(product(x))
  _workers.serve(lambda: jax.block_until_ready(product(x)), 0)


def table(header: list[str], rows: list[list]) -> str:
  """Columns of one width, the first to the left."""
  cells = [header, *([_text(value) for value in row] for row in rows)]
  widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
  lines = [
    "  ".join(
      value.ljust(w) if i == 0 else value.rjust(w) for i, (value, w) in enumerate(zip(row, widths, strict=True))
    )
    for row in cells
  ]
  return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def _text(value) -> str:
  return f"{value:.3g}" if isinstance(value, float) else str(value)


def write(name: str, figures: dict, out: Path | None) -> None:
  """Keeps the figures as `benchmarks/results/NAME.json`, or where asked."""
  path = out or RESULTS / f"{name}.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(figures, indent=1) + "\n")
  print(f"written to {path}")


def parser(text: str) -> argparse.ArgumentParser:
  """The options that all benchmarks have."""
  out = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
  out.add_argument("--repeats", type=int, default=5, help="rounds of one step each that are counted")
  out.add_argument("--threads", type=int, default=2)
  out.add_argument("--out", type=Path, help="file for the figures, instead of one in benchmarks/results")
  return out


if __name__ == "__main__":
  _matmul_worker()
