"""How the students of an arm hear of their teachers: the section `targets`, and what is stored for it."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np

from jdistill import schema
from jdistill.base import Outputs, TargetSource, UserError
from jdistill.config import Plain
from jdistill.files import format_bytes
from jdistill.jobs.networks import Teachers
from jdistill.models import head_arrays
from jdistill.runs import artefacts
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.schema import Range
from jdistill.tasks import Task
from jdistill.teachers import cache, hidden
from jdistill.teachers.frozen import committee
from jdistill.teachers.top_k_logits import record_top_k

ONLINE, CACHED, HIDDEN, TOP_K = "online", "cached", "hidden", "top_k"
FILED = (HIDDEN, TOP_K)  # kept among the artefacts: a teacher of a large vocabulary takes minutes
_RECORD, _ARRAYS = "targets.json", "targets.npz"


class Targets(NamedTuple):
  """How teachers are asked."""

  source: Literal["online", "cached", "hidden", "top_k"] = ONLINE
  top_k: Annotated[int, Range(1)] | None = None
  store: Literal["float16", "bfloat16", "float32"] = hidden.DTYPES[0]


SECTION = Plain(schema.fields(Targets))


def is_stored(arm: Mapping[str, Any]) -> bool:
  """Whether an arm's teachers are asked once about every example, and not about every batch."""
  return arm["targets"]["source"] != ONLINE


def check_section(prefix: str, arm: Mapping[str, Any]) -> None:
  """Refuses what does not go together in a section `targets`."""
  own, source = arm["targets"], arm["targets"]["source"]
  if own["top_k"] is not None and source not in (CACHED, TOP_K):
    raise UserError(f"{prefix}targets.top_k={own['top_k']}: needs targets.source='cached' or, for text, 'top_k'")
  if source == TOP_K and own["top_k"] is None:
    raise UserError(f"{prefix}targets.source='top_k': how many are kept is open; set targets.top_k")
  if source == TOP_K and own["store"] == "bfloat16":
    raise UserError(f"{prefix}targets.store='bfloat16': has two decimals, too few for log-probabilities; use 'float16'")
  if source in FILED and arm["task"]["name"] != "language":
    raise UserError(
      f"{prefix}targets.source={source!r}: is for rows of tokens, and task.name={arm['task']['name']!r}; use 'cached'"
    )
  if source != ONLINE and arm["train"]["augment"] != "none":
    raise UserError(
      f"{prefix}targets.source={source!r}: stored targets are of images without train.augment="
      f"{arm['train']['augment']!r}; use 'online', or augment='none'"
    )
  many = arm["teachers"]["count"] + len(arm["teachers"]["also"])
  if source in FILED and many > 1:
    raise UserError(f"{prefix}targets.source={source!r}: is of one teacher, and there are {many}; use 'cached'")


def source(run: Run, found: Teachers, section: Mapping[str, Any], task: Task) -> TargetSource:
  """Teachers as a section asks for them: online or stored; the same object for the same teachers."""
  name = (found.hash, json.dumps(dict(section), sort_keys=True), run.fingerprint(task.data))
  return run.once(name, lambda: _source(run, found, section, task))


def _source(run: Run, found: Teachers, section: Mapping[str, Any], task: Task) -> TargetSource:
  online = committee(found.networks, found.variables)
  if section["source"] == ONLINE:
    return online
  own = {"data": run.fingerprint(task.data), "teacher_hash": found.hash}
  if section["source"] in FILED:
    _ready(run, found, section, task)
    path = _directory(run, found, section, task) / _ARRAYS
    if section["source"] == HIDDEN:
      return hidden.hidden_targets(hidden.load(path), found.variables[0].params, **own)
    return cache.cached(cache.load(path), **own)
  stored = cache.record(online, task.data.x, task.data.ids, **own)
  if section["top_k"] is not None:
    stored = cache.top_k(stored, section["top_k"])
  return cache.cached(stored, **own)


def about(run: Run, found: Teachers | None, section: Mapping[str, Any], task: Task) -> dict[str, Any]:
  """Figures of stored targets: seconds, bytes and what they lose; nothing where none are filed."""
  if found is None or section["source"] not in FILED:
    return {}
  return dict(_ready(run, found, section, task)["about"])


def _identity(run: Run, found: Teachers, section: Mapping[str, Any], task: Task) -> dict[str, Any]:
  return {"data": run.fingerprint(task.data), "teacher": found.hash, "targets": dict(section)}


def _directory(run: Run, found: Teachers, section: Mapping[str, Any], task: Task) -> Path:
  return run.artefact("targets", **_identity(run, found, section, task))


def _ready(run: Run, found: Teachers, section: Mapping[str, Any], task: Task) -> dict[str, Any]:
  """The record of stored targets, which are made first where they are missing."""
  path, wanted = _directory(run, found, section, task), _identity(run, found, section, task)

  def make() -> None:
    record = _hidden if section["source"] == HIDDEN else _top_k
    begin, own = time.monotonic(), {"data": wanted["data"], "teacher_hash": found.hash}
    figures = record(found, section, task, path, own)
    figures["seconds"] = time.monotonic() - begin
    artefacts.write(path, _RECORD, wanted, (_ARRAYS,), about=figures)
    lost = f"; of the teacher's probability {figures['kept_mass']:.4f} is kept" if "kept_mass" in figures else ""
    run.log(
      f"targets: {section['source']} of {len(task.data.ids):,} rows by teacher {found.hash}: "
      f"{format_bytes(figures['nbytes'])} in {figures['seconds']:.1f} s{lost}"
    )

  return artefacts.ready(run, "students", path, _RECORD, wanted, lambda: on_first(make))


def _hidden(found: Teachers, section: Mapping[str, Any], task: Task, path: Path, own: Mapping[str, str]) -> dict:
  data, kind = task.data, section["store"]
  stored = hidden.record_hidden(found.networks[0], found.variables[0], data.x, data.ids, dtype=kind, **own)
  hidden.save(stored, path / _ARRAYS)
  return {"nbytes": stored.hidden.nbytes + stored.ids.nbytes, "store": kind}


def _top_k(found: Teachers, section: Mapping[str, Any], task: Task, path: Path, own: Mapping[str, str]) -> dict:
  where = task.data.extra.get("mask", np.ones(np.shape(task.data.y), bool))
  stored, lost = record_top_k(
    committee(found.networks, found.variables), task.data.x, task.data.ids, section["top_k"], where=where,
    num_classes=task.num_classes, dtype=section["store"], **own,
  )  # fmt: skip
  cache.save(stored, path / _ARRAYS)
  arrays = (stored.logits, stored.classes, stored.rest, stored.ids)
  return {"nbytes": sum(array.nbytes for array in arrays), "store": section["store"]} | lost


def shapes(online: TargetSource, params, section: Mapping[str, Any]) -> TargetSource:
  """Targets as shapes, before any teacher is there.

  Args:
    online: of teachers whose parameters are shapes.
    params: of the first of them.
    section: `targets`.

  Raises:
    UserError: at trace time, more logits than there are.
  """
  if section["source"] == ONLINE:
    return online
  if section["source"] == HIDDEN:
    head_arrays(params)  # refuses what is no decoder
    return online._replace(targets=_as_hidden(online.targets))
  return online._replace(targets=_as_cached(online.targets, section["top_k"]))


def _as_hidden(targets):
  def call(arrays, *others):
    (out,) = targets(arrays, *others)
    return (Outputs(out.logits, out.embedding, head=head_arrays(arrays[0].params)),)

  return call


class _Cut(Outputs):
  """What stored targets without embeddings hold: who asks for more hears it, instead of computing with nothing."""

  @property
  def embedding(self) -> jax.Array:
    raise UserError("targets.top_k: the greatest logits come without embeddings; set targets.top_k=None")


def _as_cached(targets, k: int | None):
  def call(*arguments):
    found = [out._replace(taps={}, norm_inputs={}) for out in targets(*arguments)]
    classes = found[0].logits.shape[-1]
    if k is None:
      return tuple(found)
    if k >= classes:
      raise UserError(f"targets.top_k={k}: must lie in 1..{classes - 1} for {classes} classes")
    return tuple(_Cut(*out) for out in found)

  return call
