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

  python -m jdistill.run --config=experiments/datm.py:cifar10_ipc1000 --dry_run --topology=v5e:2x4
      memory, work and least time of a step on eight TPUs that need not be there

  python -m jdistill.run --config=experiments/datm.py --config.parallel.data=2 \\
      --coordinator=HOST:PORT --num_processes=2 --process_id=0
      one of two processes that share the work; the other has --process_id=1, see docs/parallel.md

Every key of a configuration can be set with --config.KEY=VALUE. Keys that are None (--config.KEY=None) take a tested
value for the data set and the number of images per class; the values that a run really used are in config.json of its
work directory.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jdistill import catalog, cli, config, stages
from jdistill.base import UserError
from jdistill.reporting import format_table
from jdistill.training import cache, distributed, lost, parallel


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
  with context.catch_signals() if signals else contextlib.nullcontext():
    return stages.run_stages(context)


def run_sweep(experiment, workdir=None, artefacts=None, stream=None, signals=False) -> Mapping[str, Any]:
  """Runs an experiment that is a grid of runs; see `jdistill.stages.sweep`."""
  stream = stream if stream is not None else sys.stderr
  comparison = stages.family(experiment).COMPARISON
  grid = stages.sweep.cells(experiment, comparison.again)
  resolved = [config.resolve(cell.config) for cell in grid]  # all of them before any work
  if not set(comparison.needs) <= set(resolved[0]["stages"]):
    *most, last = comparison.needs
    raise UserError(
      f"stages={resolved[0]['stages']}: a sweep compares {comparison.what}; it needs {', '.join(most)} and {last}"
    )
  workdir = Path(workdir).expanduser() if workdir else Path("runs") / resolved[0]["name"]
  artefacts = Path(artefacts).expanduser() if artefacts else workdir.parent / "artefacts"

  def claim():
    if not workdir.exists() or not any(workdir.iterdir()):
      workdir.mkdir(parents=True, exist_ok=True)
    elif not (workdir / "cells").is_dir():
      raise UserError(f"--workdir={workdir} is not empty and not that of a sweep; choose another")

  distributed.lead(claim)

  def run_cell(one, directory, log):
    return run_experiment(one, directory, artefacts=artefacts, stream=log, signals=signals)

  say = functools.partial(print, file=stream, flush=True) if distributed.is_writer() else lambda line: None
  return stages.sweep.run(grid, comparison, workdir, run_cell, say)


def first_cell(experiment):
  """The experiment itself, or the first run of a sweep."""
  return stages.sweep.cells(experiment)[0].config if experiment.get("sweep") else experiment


def make_context(experiment, workdir=None, artefacts=None, stream=None) -> stages.Context:
  """Resolves a configuration and chooses the directories."""
  resolved = config.resolve(experiment)
  room = stages.family(resolved)
  workdir = Path(workdir).expanduser() if workdir else Path("runs") / room.label(resolved, config.config_hash(resolved))
  artefacts = Path(artefacts).expanduser() if artefacts else workdir.parent / "artefacts"
  return room.Context(resolved, workdir, artefacts, stream)


def main(argv: Sequence[str]) -> int:
  """The command; returns the exit status: 0 done, 1 the user's to mend, 130 stopped by the user."""
  status = _main(argv)
  distributed.leave(status)
  return status


def _main(argv: Sequence[str]) -> int:
  try:
    _run(cli.parse(argv))
    return 0
  except UserError as error:
    print(f"jdistill: {error}", file=sys.stderr)
    return 1
  except BrokenPipeError:  # `--list | head`: the reader has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except OSError as error:  # disks and directories, not programming
    print(f"jdistill: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
    return 1
  except (stages.Interrupted, KeyboardInterrupt) as stop:
    print(f"\njdistill: stopped; {str(stop) or 'at once'}; the same command goes on", file=sys.stderr)
    return 130
  except Exception as error:
    if distributed.is_loss(error):
      lost.end()
    raise


def _run(values: cli.FlagValues) -> None:
  if values["help"].value:
    print(__doc__, cli.flag_help(values), sep="\n")
    return
  if values["list"].value:
    print(format_table(*catalog.table(), align="lllll"))
    return
  experiment, workdir, artefacts = (values[name].value for name in ("config", "workdir", "artefacts"))
  if experiment is None:
    raise UserError("--config: not given; try --config=experiments/datm.py, or --help")
  topology = cli.topology(values)
  cache.enable(values["compilation_cache"].value)
  parallel.use_cores()
  if values["dry_run"].value:
    context = make_context(first_cell(experiment), workdir, artefacts)
    stages.family(context.config).dry_run(context, topology)
    return
  processes = cli.processes(values)
  if processes is not None:
    where = lambda: make_context(first_cell(experiment), workdir, artefacts).goes_on()  # noqa: E731
    distributed.initialize(*processes, where=where)
  run_experiment(experiment, workdir, artefacts=artefacts, signals=True)


if __name__ == "__main__":
  status = main(sys.argv)
  if status == 130:  # at once: files are whole at any moment, and threads that still write would complain at the exit
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  sys.exit(status)
