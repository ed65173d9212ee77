"""From the command to the end of the first outer step: import, data, teachers on disk, compilation.

  python -m benchmarks.first_step

The digits default with a cold and then a warm compilation cache, in processes of their own. Teachers are made before,
and not counted.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import _reports


def command(directory: Path, workdir: str, *options: str) -> float:
  """Runs the experiment; its seconds."""
  begin = time.perf_counter()
  subprocess.run(
    [
      sys.executable, "-m", "jdistill.run", "--config=experiments/datm.py", "--config.steps=1",
      f"--workdir={directory / workdir}", f"--artefacts={directory / 'artefacts'}", *options,
    ],
    check=True,
    stderr=subprocess.DEVNULL,
  )  # fmt: skip
  return time.perf_counter() - begin


def main() -> None:
  arguments = _reports.parser(__doc__).parse_args()
  figures = {"machine": _reports.machine(arguments.threads), "seconds": {}}
  with tempfile.TemporaryDirectory() as name:
    directory = Path(name)
    command(directory, "teachers", "--config.stages=('teachers',)", "--compilation_cache=off")
    cache = f"--compilation_cache={directory / 'cache'}"
    for which in ("cold cache", "warm cache"):
      figures["seconds"][which] = command(directory, which.split()[0], "--config.stages=('distill',)", cache)
  print(_reports.table(["to the first step", "seconds"], [[k, v] for k, v in figures["seconds"].items()]))
  _reports.write("first_step", figures, arguments.out)


if __name__ == "__main__":
  main()
