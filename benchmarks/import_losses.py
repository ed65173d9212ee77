"""Seconds that `import jdistill.losses` takes beyond JAX itself, in fresh processes.

python -m benchmarks.import_losses
"""

import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPEATS = 7
LIMIT = 1.5
CODE = """
import time
begin = time.perf_counter()
import jax
middle = time.perf_counter()
import jdistill.losses
print(middle - begin, time.perf_counter() - middle)
"""


def once() -> tuple[float, float]:
  """Seconds of `import jax`, and of `import jdistill.losses` after it."""
  done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True)
  jax, losses = map(float, done.stdout.split())
  return jax, losses


def main() -> int:
  """Prints medians and the worst; status 1 where the median is over the limit."""
  once()  # fills the disk's cache and writes the byte code
  found = [once() for _ in range(REPEATS)]
  jax, losses = zip(*found, strict=True)
  print(f"import jax              {statistics.median(jax):.2f} s (median of {REPEATS})")
  print(f"import jdistill.losses  {statistics.median(losses):.2f} s beyond that, at most {max(losses):.2f} s")
  print(f"limit                   {LIMIT:.2f} s")
  return int(statistics.median(losses) > LIMIT)


if __name__ == "__main__":
  sys.exit(main())
