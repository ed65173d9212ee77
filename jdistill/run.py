"""Runs an experiment, from data to report.

  python -m jdistill.run --config=experiments/datm.py
      distils scikit-learn's digits on this machine in minutes: teachers -> distill -> evaluate -> export -> report

  python -m jdistill.run --config=experiments/datm.py --config.ipc=10 --workdir=runs/ten
      sets a key of the configuration; the same command again goes on where the run stopped, or shows its report

  python -m jdistill.run --config=experiments/datm.py:cifar10_ipc10 --config.data_dir=~/tensorflow_datasets
      a published row by name; any TFDS image classification set, .npz file or folder of images can be named too

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
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jdistill import catalog, cli, experiment_files, stages
from jdistill.base import UserError
from jdistill.files import user_path
from jdistill.reporting import format_table
from jdistill.stages import plan, sweep
from jdistill.stages import topology as plan_on_tpus
from jdistill.training import cache, distributed, lost, parallel

load_experiment = experiment_files.load


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
    experiment: a configuration, as `load_experiment("experiments/datm.py")` gives it.
    workdir: where the run's files go; `runs/NAME-HASH` if `None`. The same call again resumes or skips.
    artefacts: where teachers are kept; `artefacts` beside the work directory if `None`.
    stream: where progress is printed; standard error if `None`.
    signals: stop at a safe point on Ctrl-C (main thread only).

  Returns:
    The figures of `summary.json`.

  Raises:
    UserError: anything the user can cure, before work starts where possible.
  """
  if experiment.get("sweep"):
    return _run_sweep(experiment, workdir, artefacts, stream, signals)
  run = make_run(experiment, workdir, artefacts, stream)
  with run.catch_signals() if signals else contextlib.nullcontext():
    return stages.run_stages(run)


def _run_sweep(experiment, workdir, artefacts, stream, signals) -> Mapping[str, Any]:
  """A grid of runs; see `jdistill.stages.sweep`."""
  grid, name = sweep.prepare(experiment, stages.resolve)
  workdir, artefacts = _directories(workdir, artefacts, name)

  def run_cell(one, directory, log):
    return run_experiment(one, directory, artefacts=artefacts, stream=log, signals=signals)

  return sweep.run(grid, name, workdir, run_cell, sys.stderr if stream is None else stream)


def make_run(experiment, workdir=None, artefacts=None, stream=None) -> stages.Run:
  """Resolves a configuration (of a sweep, that of its first run) and chooses the directories."""
  one = sweep.cells(experiment)[0].config if experiment.get("sweep") else experiment
  resolved = stages.resolve(one)
  return stages.Run(resolved, *_directories(workdir, artefacts, stages.label(resolved)), stream)


def _directories(workdir, artefacts, name: str) -> tuple[Path, Path]:
  workdir = Path("runs") / name if workdir is None else user_path(workdir, "--workdir")
  return workdir, workdir.parent / "artefacts" if artefacts is None else user_path(artefacts, "--artefacts")


def main(argv: Sequence[str]) -> int:
  """The command; returns the exit status: 0 done, 1 refused or a part failed, 130 stopped by the user."""
  status = _main(argv)
  distributed.leave(status)
  return status


def _main(argv: Sequence[str]) -> int:
  try:
    return _run(cli.parse(argv))
  except UserError as error:
    print("jdistill:", str(error).replace("\n", "\\n"), file=sys.stderr)  # of a value that is quoted
    return 1
  except BrokenPipeError:  # `--list | head`: the reader has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except OSError as error:  # disks and directories, not programming
    what = f"{error.filename or 'a file'}: {error.strerror or error}"
    print(f"jdistill: {what}; check the path, its owner and the space on its disk", file=sys.stderr)
    return 1
  except (stages.Interrupted, KeyboardInterrupt) as stop:
    print(f"\njdistill: stopped; {str(stop) or 'at once'}; the same command goes on", file=sys.stderr)
    return 130
  except Exception as error:
    if distributed.is_loss(error):
      lost.end()
    distributed.fails()
    raise


def _run(values: cli.FlagValues) -> int:
  if values["help"].value:
    print(__doc__, cli.flag_help(values), sep="\n")
    return 0
  if values["list"].value:
    print(format_table(*catalog.table(), align="lllll"))
    print(f"\nexperiments lie in {experiment_files.shipped()}; --config=experiments/NAME.py finds them from anywhere")
    return 0
  experiment, workdir, artefacts = (values[name].value for name in ("config", "workdir", "artefacts"))
  if experiment is None:
    raise UserError("--config: not given; try --config=experiments/datm.py, or --help")
  topology = cli.topology(values)
  cache.enable(values["compilation_cache"].value)
  parallel.use_cores()
  if values["dry_run"].value:
    run = make_run(experiment, workdir, artefacts)
    plan.show(run, stages.STAGES) if topology is None else plan_on_tpus.show(run, topology)
    return 0
  processes = cli.processes(values)
  if processes is not None:
    where = lambda: stages.goes_on(make_run(experiment, workdir, artefacts))  # noqa: E731
    distributed.initialize(*processes, where=where)
  summary = run_experiment(experiment, workdir, artefacts=artefacts, signals=True)
  return 1 if summary.get("failed") else 0


if __name__ == "__main__":
  status = main(sys.argv)
  if status == 130:  # at once: files are whole at any moment, and threads that still write would complain at the exit
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  sys.exit(status)
