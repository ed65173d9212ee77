"""Checkpoints that are whole or absent, checked before they are used."""

import contextlib
import errno
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jdistill.base import PyTree, UserError
from jdistill.files import disk_errors, read_json, sha256_file, to_jsonable, write_json


class Checkpoints:
  """The last few states of a stage under one directory.

  Orbax writes a step into a temporary directory and renames it; after that a `STEP.json` with the identity of the run
  and the checksum of every file is written beside it. A step without its JSON was interrupted and is ignored, so a kill
  at any moment leaves the step before it.
  """

  def __init__(self, directory: Path, identity: Mapping[str, Any], *, keep: int = 2):
    """Opens or prepares the directory; `identity` is what determined the run, and a state of another is refused."""
    self._directory = Path(directory).absolute()  # orbax wants absolute paths
    self._identity = to_jsonable(identity)  # as it will be read back: JSON has lists for tuples
    self._keep = keep
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports every save at warning level
    own = jax.process_index()  # every process reads by itself and only one writes, so orbax has nobody to wait for
    alone = ocp.options.MultiprocessingOptions(own, {own}, f"process{own}") if jax.process_count() > 1 else None
    self._handler = ocp.StandardCheckpointer(**({"multiprocessing_options": alone} if alone else {}))

  def steps(self) -> list[int]:
    """The finished steps, ascending."""
    return sorted(int(path.stem) for path in self._directory.glob("*.json") if path.stem.isdigit())

  def save(self, step: int, state: PyTree) -> None:
    """Writes a state and forgets those beyond the last `keep`.

    Raises:
      UserError: the disk is full; earlier steps are untouched.
    """
    target = self._directory / str(step)
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    self._directory.mkdir(parents=True, exist_ok=True)
    with disk_errors(target, needed):
      if shutil.disk_usage(self._directory).free < 2 * needed:
        # asked for beforehand, as the array store reports a full disk in words of its own
        raise OSError(errno.ENOSPC, "no space left on device")
      if target.exists():
        shutil.rmtree(target)
      self._handler.save(target, jax.tree.map(np.asarray, state))
      self._handler.wait_until_finished()
    files = {str(p.relative_to(target)): sha256_file(p) for p in sorted(target.rglob("*")) if p.is_file()}
    write_json(target.with_suffix(".json"), {"identity": self._identity, "form": _form(state), "files": files})
    for old in self.steps()[: -self._keep]:
      (self._directory / f"{old}.json").unlink()  # first the claim, then what it claims
      shutil.rmtree(self._directory / str(old), ignore_errors=True)

  def restore(self, like: PyTree, step: int | None = None) -> tuple[int, PyTree] | None:
    """A finished step and its state with the structure of `like`, or `None` if there is none; the newest if not given.

    Raises:
      UserError: it belongs to another run, a file of it is damaged or missing, or its state has another form.
    """
    steps = self.steps() if step is None else [step]
    if not steps:
      return None
    target = self._directory / str(steps[-1])
    claim = read_json(target.with_suffix(".json"))
    if not isinstance(claim, dict) or claim.get("identity") != self._identity:
      raise UserError(
        f"checkpoint {target} belongs to another configuration: choose another --workdir, or delete {self._directory}"
      )
    for name, digest in claim.get("files", {}).items():
      if not (target / name).is_file() or sha256_file(target / name) != digest:
        raise UserError(
          f"checkpoint {target} is damaged ({name}): delete {target}.json and run again to go on from the step before"
        )
    if claim.get("form") != _form(like):  # orbax would cast, cut and fill up without a word
      raise UserError(f"checkpoint {target} does not fit this method's state: delete {self._directory}")
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
    return steps[-1], self._handler.restore(target, abstract)

  def close(self) -> None:
    """Ends orbax's background threads."""
    with contextlib.suppress(Exception):
      self._handler.close()


def _form(state: PyTree) -> list:
  """Name, dtype and shape of every leaf."""
  leaves = jax.tree.leaves_with_path(state)
  return [[jax.tree_util.keystr(path), str(leaf.dtype), list(leaf.shape)] for path, leaf in leaves]
