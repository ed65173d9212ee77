"""Teachers that begin with the trained weights of a file, or are these and no more."""

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import models, pretrained
from jdistill.base import Network, UserError, Variables
from jdistill.files import sha256_file, user_path
from jdistill.jobs import checkpoints
from jdistill.runs.run import Run
from jdistill.tasks import Task


class Weights(NamedTuple):
  """What teachers begin with.

  Attributes:
    path: of a file; `None` for new parameters.
    tuned: whether they are trained after that.
    worst_perplexity: of a language model on held-out text, which must be below; `None` for a tenth of its vocabulary.
  """

  path: str | None = None
  tuned: bool = True
  worst_perplexity: float | None = None


def check(run: Run, sections: Mapping[str, Any], own: Weights, *, count: int, stored: str | None) -> None:
  """Refuses weights that are not there, do not fit, or cannot be used as they are asked for."""
  if own.path is None:
    if own.worst_perplexity is not None:
      raise UserError(f"teachers.worst_perplexity={own.worst_perplexity:g}: is for teachers.weights; give them, too")
    if not own.tuned:
      raise UserError("teachers.tune=False: without weights there is nothing but training; give teachers.weights")
    return
  if stored is not None:
    raise UserError(f"teachers.weights={own.path!r}: teachers.stored is given, too; leave one of them out")
  if not own.tuned and count > 1:
    raise UserError(f"teachers.count={count}: teachers of the same weights are all alike; set 1, or tune=True")
  network, found, _ = _read(run, sections, own)
  if checkpoints.is_language(own.path):
    task = run.task(sections["task"])
    checkpoints.check_teacher(run, own.path, network, found, task, own.worst_perplexity)


def digest(own: Weights) -> dict[str, Any]:
  """What of a file determines the teachers that begin with it; nothing where they begin with new parameters."""
  if own.path is None:
    return {}
  if checkpoints.is_language(own.path):
    return {"weights": pretrained.checkpoint_digest(own.path, "teachers.weights"), "tuned": own.tuned}
  return {"weights": file_digest(own.path, "teachers.weights", ".safetensors, .npz or .pth"), "tuned": own.tuned}


def file_digest(path: str, key: str, kind: str) -> str:
  """The SHA-256 of a file that a configuration names.

  Raises:
    UserError: it is not there.
  """
  found = user_path(path, key)
  if not found.is_file():
    raise UserError(f"{key}={path!r}: no such file; give a {kind} file")
  return _sha256(found, os.stat(found).st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _sha256(path: Path, changed: int) -> str:
  del changed
  return sha256_file(path)


def start(run: Run, sections: Mapping[str, Any], own: Weights, seeds: Sequence[int]) -> Variables | None:
  """What the teachers of some seeds begin with, on a leading axis; `None` where they begin with new parameters.

  A head of other classes than the task's is replaced by a new one for every seed.
  """
  if own.path is None:
    return None
  network, found, whole = _read(run, sections, own)
  if whole:
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * len(seeds)), found)
  mask = _head(run, sections)
  fresh = (network.init(jax.random.fold_in(run.key("head of weights"), seed)) for seed in seeds)
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(models.with_head_of(found, one, mask) for one in fresh))


def as_they_are(run: Run, sections: Mapping[str, Any], own: Weights) -> tuple[Network, Variables]:
  """A teacher that is not trained."""
  return _read(run, sections, own)[:2]


def _read(run: Run, sections: Mapping[str, Any], own: Weights) -> tuple[Network, Variables, bool]:
  """The network, its variables, and whether the file has its head, too."""
  task = run.task(sections["task"])
  network = run.network(sections["teacher"], task)
  return run.once(("weights", *digest(own).values(), network), lambda: _fitted(own, network, task))


def _fitted(own: Weights, network: Network, task: Task) -> tuple[Network, Variables, bool]:
  if checkpoints.is_language(own.path):
    return network, checkpoints.teacher_variables(own.path, task), True
  if task.text is not None:
    raise UserError(
      f"teachers.weights={own.path!r}: is no language model; give 'smollm2', FILE.gguf, or a directory with "
      "config.json and model.safetensors"
    )
  try:
    arrays, source = pretrained.read_weights(own.path), f"teachers.weights={own.path!r}"
  except UserError as error:
    raise UserError(f"teachers.weights: {error}") from error
  try:
    return network, models.from_torch(network, arrays, source=source), True
  except UserError:
    found = models.from_torch(network, arrays, source=source, head=False)
  if not own.tuned:
    raise UserError(
      f"teachers.tune=False: {own.path} has no head of the {task.num_classes} classes of this data; set tune=True"
    )
  return network, found, False


def _head(run: Run, sections: Mapping[str, Any]) -> Any:
  task = run.task(sections["task"])
  return models.head_mask(
    *(run.network(sections["teacher"], task._replace(num_classes=task.num_classes + more)) for more in (0, 1))
  )


def student_start(run: Run, arm: Mapping[str, Any], seeds: Sequence[int]) -> Variables | None:
  """What the students of an arm begin with, on a leading axis; `None` where they begin with new parameters."""
  own = arm.get("student_weights")
  if not own or own["path"] is None:
    return None
  params = checkpoints.student_params(own, run.task(arm["task"]))
  return Variables(jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf), (len(seeds), *leaf.shape)), params))


def student_digest(arm: Mapping[str, Any]) -> dict[str, str]:
  """What of a file determines an arm's students."""
  own = arm.get("student_weights")
  if not own or own["path"] is None:
    return {}
  return {"student_weights": pretrained.checkpoint_digest(own["path"], "student_weights.path")}
