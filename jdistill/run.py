"""Runs an experiment, from data to report.

  python -m jdistill.run --config=experiments/datm.py
      distils scikit-learn's digits on this machine in minutes: experts -> distill -> evaluate -> export -> report

  python -m jdistill.run --config=experiments/datm.py --config.ipc=10 --workdir=runs/ten
      sets a key of the configuration; the same command again goes on where the run stopped, or shows its report

  python -m jdistill.run --config=experiments/datm.py:cifar10_ipc10 --config.data_dir=~/tensorflow_datasets
      a published setting by name; any TFDS image classification set, .npz file or folder of images can be named too

  python -m jdistill.run --list
      all methods with their papers and experiments

  python -m jdistill.run --config=experiments/datm.py --dry_run
      shapes, parameters, memory and work of the run, without training

Every key of a configuration can be set with --config.KEY=VALUE. Keys that are None take a tested value for the data set
and the number of images per class; the values that a run really used are in config.json of its work directory.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from jdistill import catalog, config, stages
from jdistill.base import UserError
from jdistill.reporting import format_table

_FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "Experiment: a Python file with get_config, optionally FILE:PRESET.", flag_values=_FLAGS
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Where the run's files go; runs/NAME-HASH if not given.", flag_values=_FLAGS
)
_ARTEFACTS = flags.DEFINE_string(
  "artefacts",
  None,
  "Where experts are kept and shared by runs; 'artefacts' beside the work directory if not given.",
  flag_values=_FLAGS,
)
_LIST = flags.DEFINE_bool("list", False, "Print the catalog of methods and stop.", flag_values=_FLAGS)
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what a run would need and stop.", flag_values=_FLAGS)
_HELP = flags.DEFINE_bool("help", False, "Print this help and stop.", short_name="h", flag_values=_FLAGS)


def run_experiment(
  experiment: Mapping[str, Any],
  workdir: str | os.PathLike | None = None,
  *,
  artefacts: str | os.PathLike | None = None,
  stream=None,
  signals: bool = False,
) -> Mapping[str, Any]:
  """Runs an experiment from a script or a notebook, like the command line does.

  Args:
    experiment: a configuration, as `get_config()` of a file in `experiments/` gives it.
    workdir: where the run's files go; `runs/NAME-HASH` if `None`. The same call again resumes or skips.
    artefacts: where experts are kept; `artefacts` beside the work directory if `None`.
    stream: where progress is printed; standard error if `None`.
    signals: stop at a safe point on Ctrl-C (main thread only).

  Returns:
    The figures of `summary.json`.

  Raises:
    UserError: anything the user can cure, before work starts where possible.
  """
  if experiment.get("sweep"):
    return run_sweep(experiment, workdir, artefacts, stream, signals)
  context = make_context(experiment, workdir, artefacts, stream)
  if signals:
    context.catch_signals()
  return stages.run_stages(context)


def run_sweep(experiment, workdir=None, artefacts=None, stream=None, signals=False) -> Mapping[str, Any]:
  """Runs an experiment that is a grid of runs; see `jdistill.stages.sweep`."""
  stream = stream if stream is not None else sys.stderr
  grid = stages.sweep.cells(experiment)
  resolved = [config.resolve(cell.config) for cell in grid]  # all of them before any work
  workdir = Path(workdir).expanduser() if workdir else Path("runs") / resolved[0]["name"]
  artefacts = Path(artefacts).expanduser() if artefacts else workdir.parent / "artefacts"
  if not workdir.exists() or not any(workdir.iterdir()):
    workdir.mkdir(parents=True, exist_ok=True)
  elif not (workdir / "cells").is_dir():
    raise UserError(f"--workdir={workdir} is not empty and not that of a sweep; choose another")

  def run_cell(one, directory, log):
    return run_experiment(one, directory, artefacts=artefacts, stream=log, signals=signals)

  return stages.sweep.run(grid, workdir, run_cell, lambda line: print(line, file=stream, flush=True))


def first_cell(experiment):
  """The experiment itself, or the first run of a sweep."""
  return stages.sweep.cells(experiment)[0].config if experiment.get("sweep") else experiment


def make_context(experiment, workdir=None, artefacts=None, stream=None) -> stages.Context:
  """Resolves a configuration and chooses the directories."""
  resolved = config.resolve(experiment)
  name = f"{resolved['name']}-{Path(resolved['dataset']).stem}-ipc{resolved['ipc']}-{config.config_hash(resolved)[:8]}"
  workdir = Path(workdir).expanduser() if workdir else Path("runs") / name
  artefacts = Path(artefacts).expanduser() if artefacts else workdir.parent / "artefacts"
  return stages.Context(resolved, workdir, artefacts, stream)


def _unknown_override(argv: Sequence[str], error: Exception) -> UserError:
  """Says which --config.KEY a parsing error is about, with the near matches."""
  text = str(error).strip("'\"").splitlines()[0] if str(error) else type(error).__name__
  paths = [a.split("=", 1)[1] for a in argv if a.startswith("--config=")]
  file = paths[-1].split(":")[0] if paths else None
  if file is None:
    return UserError(f"--config: not given, so {text}; name an experiment first, such as experiments/datm.py")
  if not Path(file).is_file():
    return UserError(f"--config={file}: no such file; experiments lie in experiments/, see --list")
  probe = flags.FlagValues()
  config_flags.DEFINE_config_file("config", None, "", flag_values=probe)
  try:
    probe(["run", f"--config={paths[-1]}"])
  except Exception as inner:
    return inner if isinstance(inner, UserError) else UserError(f"--config={paths[-1]}: cannot be loaded: {inner}")
  known = config.flat_keys(probe["config"].value)
  for argument in argv:
    if argument.startswith("--config."):
      key, _, value = argument.removeprefix("--config.").partition("=")
      if key not in known and not key.startswith("auto."):
        return UserError(f"config.{key}={value}: unknown key{catalog.near_matches(key, known)}")
      try:
        probe = flags.FlagValues()
        config_flags.DEFINE_config_file("config", None, "", flag_values=probe)
        probe(["run", f"--config={paths[-1]}", argument])
      except Exception as inner:
        return UserError(f"config.{key}={value}: {str(inner).splitlines()[0]}")
  return UserError(text)


def _parse(argv: Sequence[str]) -> None:
  try:
    rest = _FLAGS(list(argv))
  except UserError:
    raise
  except flags.UnrecognizedFlagError as error:
    if any(a.startswith("--config.") for a in argv):
      raise _unknown_override(argv, error) from error
    raise UserError(f"--{error.flagname}: unknown flag{catalog.near_matches(error.flagname, _FLAGS)}") from error
  except Exception as error:  # ml_collections raises many kinds, and all of them are the user's to mend
    raise _unknown_override(argv, error) from error
  if len(rest) > 1:
    raise UserError(f"{rest[1]}: unexpected argument; flags look like --name=value, see --help")


def main(argv: Sequence[str]) -> int:
  """The command; returns the exit status: 0 done, 1 the user's to mend, 130 stopped by the user."""
  try:
    _parse(argv)
    if _HELP.value:
      print(__doc__)
      print(_FLAGS.main_module_help() or _FLAGS.get_help())
      return 0
    if _LIST.value:
      print(format_table(*catalog.table(), align="lllll"))
      return 0
    if _CONFIG.value is None:
      raise UserError("--config: not given; try --config=experiments/datm.py, or --help")
    if _CONFIG.value.get("sweep") and not _DRY_RUN.value:
      run_sweep(_CONFIG.value, _WORKDIR.value, _ARTEFACTS.value, signals=True)
      return 0
    context = make_context(first_cell(_CONFIG.value), _WORKDIR.value, _ARTEFACTS.value)
    if _DRY_RUN.value:
      stages.plan.run(context)
      return 0
    context.catch_signals()
    context.say(f"work directory: {context.workdir} (config {context.hash})")
    stages.run_stages(context)
    return 0
  except UserError as error:
    print(f"jdistill: {error}", file=sys.stderr)
    return 1
  except (stages.Interrupted, KeyboardInterrupt) as stop:
    print(f"\njdistill: stopped; {stop or 'at once'}; the same command goes on", file=sys.stderr)
    return 130


if __name__ == "__main__":
  sys.exit(main(sys.argv))
