"""Checkpoints that are whole or absent, checked before they are used."""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jdistill.base import PyTree, UserError
from jdistill.files import Damaged, disk_errors, read_record, sha256_file, to_jsonable, write_record

_REFUSALS = {  # how the array store writes numbers of the operating system's errors
  errno.ENOSPC: ("ENOSPC", "No space left on device", "RESOURCE_EXHAUSTED"),
  errno.EDQUOT: ("EDQUOT", "Disk quota exceeded"),
  errno.EFBIG: ("EFBIG", "File too large"),
}


class Checkpoints:
  """The last few states of a stage under one directory.

  Orbax writes a step into a temporary directory and renames it; after that a `STEP.json` with the identity of the run
  and the checksum of every file is written beside it. A step without its JSON was interrupted and is ignored, so a kill
  at any moment leaves the step before it.
  """

  def __init__(
    self,
    directory: Path,
    identity: Mapping[str, Any],
    *,
    keep: int = 2,
    log: Callable[[str], None] = lambda line: None,
  ):
    """Opens or prepares the directory. `note` may be set to what tells something to be stored with every state.

    Args:
      directory: for this stage alone.
      identity: what determined the run; a state of another is refused.
      keep: how many steps are kept.
      log: is told of a damaged one.
    """
    self._directory = Path(directory).absolute()  # orbax wants absolute paths
    self._identity = to_jsonable(identity)  # as it will be read back: JSON has lists for tuples
    self._keep, self._log = keep, log
    self.note: Callable[[], str] = lambda: ""
    # orbax reports every save as a warning, and an error that it raises three times before as a traceback
    logging.getLogger("absl").setLevel(logging.CRITICAL)
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
    with disk_errors(target, needed), _array_store_errors():
      if shutil.disk_usage(self._directory).free < 2 * needed:
        # asked for beforehand, as the array store reports a full disk in words of its own
        raise OSError(errno.ENOSPC, "no space left on device")
      if target.exists():
        shutil.rmtree(target)
      try:
        self._handler.save(target, jax.tree.map(np.asarray, state))
        self._handler.wait_until_finished()
      except BaseException:
        for unfinished in self._directory.glob(f"{step}.orbax-checkpoint-tmp*"):
          shutil.rmtree(unfinished, ignore_errors=True)  # on a full disk, this is what fills it
        raise
    files = {str(p.relative_to(target)): sha256_file(p) for p in sorted(target.rglob("*")) if p.is_file()}
    write_record(
      target.with_suffix(".json"),
      {"identity": self._identity, "form": _form(state), "files": files, "note": self.note()},
    )
    for old in self.steps()[: -self._keep]:
      (self._directory / f"{old}.json").unlink()  # first the claim, then what it claims
      shutil.rmtree(self._directory / str(old), ignore_errors=True)

  def newest(self) -> int | None:
    """The last step whose files are whole; damaged ones after it are told and forgotten."""
    for step in reversed(self.steps()):
      try:
        self._claim(step)
      except Damaged as error:
        self._log(f"checkpoint {error}; the one before it is taken, or the beginning")
        (self._directory / f"{step}.json").unlink()
      else:
        return step
    return None

  def _claim(self, step: int) -> dict[str, Any]:
    """The record of a finished step.

    Raises:
      Damaged: it, or a file of the step, is not as it was written.
    """
    target = self._directory / str(step)
    claim = read_record(target.with_suffix(".json"))
    for name, digest in claim["files"].items():
      if not (target / name).is_file() or sha256_file(target / name) != digest:
        raise Damaged(target, f"is damaged ({name})")
    return claim

  def noted(self, step: int) -> str:
    """What `note` told when a step was saved.

    Raises:
      Damaged: a file of the step is damaged or missing.
    """
    return self._claim(step).get("note", "")

  def restore(self, like: PyTree, step: int | None = None) -> tuple[int, PyTree] | None:
    """A whole step and its state with the structure of `like`, or `None` if there is none; the newest if not given.

    Raises:
      Damaged: a file of the given step is damaged or missing.
      UserError: it belongs to another run, or its state has another form.
    """
    step = self.newest() if step is None else step
    if step is None:
      return None
    target, claim = self._directory / str(step), self._claim(step)
    if claim["identity"] != self._identity:
      raise UserError(
        f"checkpoint {target} belongs to another configuration: choose another --workdir, or delete {self._directory}"
      )
    if claim["form"] != _form(like):  # orbax would cast, cut and fill up without a word
      raise UserError(f"checkpoint {target} does not fit this method's state: delete {self._directory}")
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
    return step, self._handler.restore(target, abstract)

  def close(self) -> None:
    """Ends orbax's background threads."""
    with contextlib.suppress(Exception):
      self._handler.close()


@contextlib.contextmanager
def _array_store_errors() -> Iterator[None]:
  """A disk on which the array store could not write, as the `OSError` that it was."""
  try:
    yield
  except OSError:
    raise
  except Exception as error:
    for number, words in _REFUSALS.items():
      if any(word in str(error) for word in words):
        raise OSError(number, os.strerror(number)) from error
    raise


def _form(state: PyTree) -> list:
  """Name, dtype and shape of every leaf."""
  leaves = jax.tree.leaves_with_path(state)
  return [[jax.tree_util.keystr(path), str(leaf.dtype), list(leaf.shape)] for path, leaf in leaves]
