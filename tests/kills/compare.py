"""A run that was killed against one that was not: figures, rows, arrays and the last checkpoints, bit for bit."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jdistill.base import UserError
from jdistill.files import sha256_arrays
from tests.hostile import figures


def content(root: Path) -> dict[str, Any]:
  """All that two runs of one configuration must have in common, by path below `root`."""
  found = json.loads(json.dumps(figures.figures(root)))
  for path, step in _last_checkpoints(root):
    state = ocp.StandardCheckpointer().restore(path / str(step))
    leaves = {jax.tree_util.keystr(name): np.asarray(leaf) for name, leaf in jax.tree.leaves_with_path(state)}
    found[f"{path.relative_to(root)}, last state"] = [step, sha256_arrays(leaves)]
  return found


def _last_checkpoints(root: Path) -> Iterator[tuple[Path, int]]:
  directories = {path.parent for path in root.rglob("*.json") if path.stem.isdigit() and "checkpoints" in path.parts}
  for directory in sorted(directories):
    yield directory, max(int(path.stem) for path in directory.glob("*.json") if path.stem.isdigit())


def differences(expected: dict[str, Any], root: Path) -> list[str]:
  """What is not as in the run that nobody disturbed."""
  try:
    return list(figures.differences(expected, content(root)))
  except UserError as error:
    return [str(error)]
