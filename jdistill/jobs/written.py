"""Examples that teachers write once, before students train on them: an artefact."""

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdistill.base import Batch, LanguageModel, PyTree, TargetSource, UserError
from jdistill.files import read_npz, write_npz
from jdistill.jobs.named import recipe_of
from jdistill.jobs.networks import Teachers
from jdistill.methods.knowledge import Recipe
from jdistill.models.predict import predict
from jdistill.runs import artefacts
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.teachers.frozen import committee

_RECORD, _ARRAYS = "responses.json", "responses.npz"
_AT_ONCE = 64  # rows


def ready(
  run: Run, label: str, method: Mapping[str, Any], data: Batch, teachers: Teachers | None, stage: str
) -> tuple[Batch, dict[str, Any]]:
  """The examples of a method whose teachers write them, made first where they are missing; else those given.

  Args:
    run: the run.
    label: of the arm, for messages.
    method: its section.
    data: what is written to.
    teachers: that write.
    stage: that asks, for messages.

  Returns:
    `(examples, figures)`: means over examples as `written/NAME`, and `written_seconds`; none for other methods.
  """
  recipe = recipe_of(method)
  if recipe.written is None:
    return data, {}
  identity = {
    "data": run.fingerprint(data), "teacher": teachers.hash, "method": dict(method), "seed": run.config["seed"]
  }  # fmt: skip
  path = run.artefact("responses", **identity)
  make = lambda: on_first(lambda: _make(run, label, recipe, data, teachers, stage, path, identity))  # noqa: E731
  record = artefacts.ready(run, "responses", path, _RECORD, identity, make)
  found = read_npz(path / _ARRAYS)
  leaves, form = jax.tree.flatten(data)
  return jax.tree.unflatten(form, [found[str(i)] for i in range(len(leaves))]), dict(record["about"])


def check(recipe: Recipe, data: Batch, source: TargetSource) -> None:
  """Traces the writing of a method whose teachers write, so that models and options can speak up before any work.

  Raises:
    ValueError: what these refuse.
  """
  if recipe.written is not None:
    few = jax.tree.map(lambda leaf: leaf[:1], data)
    jax.eval_shape(_writer(recipe.written, source.language), (jax.random.key(0), source.arrays), few)


@functools.lru_cache(maxsize=8)
def _writer(written: Callable, models: tuple[LanguageModel, ...]) -> Callable[[PyTree, Batch], tuple[Batch, Mapping]]:
  """`((key, variables of the teachers), batch) -> (batch, figures [B])`."""

  def write(given: PyTree, batch: Batch) -> tuple[Batch, Mapping]:
    key, variables = given
    teachers = tuple((model, own.params) for model, own in zip(models, variables, strict=False))
    return written(key, teachers, batch)

  return write


def _make(
  run: Run, label: str, recipe: Recipe, data: Batch, teachers: Teachers, stage: str, path: Path, identity: Mapping
) -> None:
  begin, source = time.monotonic(), committee(teachers.networks, teachers.variables)
  given = run.key("responses"), source.arrays
  new, figures = predict(_writer(recipe.written, source.language), given, data, batch_size=_AT_ONCE)
  if "mask" in new.extra and not new.extra["mask"].any():
    raise UserError(
      f"{label}: of {len(new.ids):,} responses that the teacher wrote, none has a token to learn: all are unfinished; "
      "raise method.max_new, or train the teacher longer"
    )
  seconds = time.monotonic() - begin
  about = {f"written/{name}": float(np.mean(values)) for name, values in figures.items()}
  write_npz(path / _ARRAYS, {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(new))})
  artefacts.write(path, _RECORD, identity, (_ARRAYS,), about=about | {"written_seconds": seconds})
  shown = ", ".join(f"{name.removeprefix('written/')} {value:.3g}" for name, value in about.items())
  run.log(f"{stage}: {label}: {len(new.ids):,} responses written; means: {shown}; {seconds:.2f} s")
