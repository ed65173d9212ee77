"""What every benchmark says beside its figures: machine, load, versions; one JSON file and one table."""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

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
  """FLOP/s of a 1024 x 1024 float32 product in a process with as many threads as the others."""
  program = "from jdistill.reporting import matmul_peak; print(matmul_peak(seconds=2.0))"
  environment = os.environ | {"OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}
  done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
  return float(done.stdout)


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
