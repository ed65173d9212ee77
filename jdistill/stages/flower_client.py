"""The process of one client of a federation.

  python -m jdistill.stages.flower_client WORKDIR ARTEFACTS CLIENT HOST:PORT

It reads the configuration of the work directory, makes its own data of it, and answers the server until that ends.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jdistill.base import UserError
from jdistill.files import read_json
from jdistill.runs.run import Run
from jdistill.stages import federation
from jdistill.training import parallel
from jdistill.transports.flower import serve


def main(arguments: Sequence[str]) -> int:
  """The command; returns the exit status."""
  workdir, artefacts, client, address = arguments
  parallel.use_cores()
  try:
    run = Run(read_json(Path(workdir) / "config.json"), Path(workdir), Path(artefacts))
    serve(int(client), address, federation.participant(run, int(client)).answer)
  except UserError as error:
    print(f"jdistill: {error}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
