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
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from jdistill import catalog, config, stages
from jdistill.base import UserError
from jdistill.reporting import format_table
from jdistill.training import cache, distributed, lost, parallel


def define_flags(argv: Sequence[str]) -> flags.FlagValues:
  """The command's flags; new ones for every call, so that no call leaves anything behind for the next."""
  values = flags.FlagValues()
  sys.modules.pop("config_config", None)  # where ml_collections keeps the experiment that was loaded last
  config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment: a Python file with get_config, optionally FILE:PRESET.",
    flag_values=values,
    sys_argv=list(argv),
  )
  flags.DEFINE_string("workdir", None, "Where the run's files go; runs/NAME-HASH if not given.", flag_values=values)
  flags.DEFINE_string(
    "artefacts",
    None,
    "Where experts are kept and shared by runs; 'artefacts' beside the work directory if not given.",
    flag_values=values,
  )
  flags.DEFINE_bool("list", False, "Print the catalog of methods and stop.", flag_values=values)
  flags.DEFINE_bool("dry_run", False, "Print what a run would need and stop.", flag_values=values)
  flags.DEFINE_string(
    "topology",
    None,
    "With --dry_run: compile for this slice of TPUs, such as v5e:2x4, instead of for this machine.",
    flag_values=values,
  )
  flags.DEFINE_string("coordinator", None, "Of many processes: HOST:PORT where process 0 listens.", flag_values=values)
  flags.DEFINE_integer("num_processes", None, "Of many processes: how many there are.", flag_values=values)
  flags.DEFINE_integer("process_id", None, "Of many processes: which this one is, from 0.", flag_values=values)
  flags.DEFINE_bool(
    "distributed",
    False,
    "Of many processes on a TPU pod or cluster that JAX knows: instead of the three flags above.",
    flag_values=values,
  )
  flags.DEFINE_string(
    "compilation_cache",
    None,
    "Where compiled programs are kept for later runs, 'off' for nowhere. If not given, in the user's cache folder, but "
    "on CPUs none with convolutions: those can be kept or be at their fastest.",
    flag_values=values,
  )
  flags.DEFINE_bool("help", False, "Print this help and stop.", short_name="h", flag_values=values)
  return values


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


def parse(argv: Sequence[str]) -> flags.FlagValues:
  """Reads the command line.

  Raises:
    UserError: an unknown flag or key (with its near matches), a wrong type, or an experiment that cannot be loaded.
  """
  argv = _config_first(argv)
  for argument in argv:
    if argument.startswith("--config=") and (root := str(Path(argument[9:]).resolve().parents[1])) not in sys.path:
      sys.path.append(root)  # experiments import their neighbours as `experiments.common`, from wherever one calls
  unset = [a for a in argv if a.startswith("--config.") and a.endswith("=None")]
  argv = [a for a in argv if a not in unset]
  values = define_flags(argv)
  try:
    rest = values(argv)
    if values["config"].value is not None:
      values["config"].value.get("name")  # a file that could not be read shows only here
      _unset(values["config"].value, unset)
  except UserError:
    raise
  except Exception as error:  # ml_collections raises many kinds, and all of them are the user's to mend
    raise _explain(argv, error) from error
  if len(rest) > 1:
    raise UserError(f"{rest[1]}: unexpected argument; flags look like --name=value, see --help")
  return values


def _unset(experiment, arguments: Sequence[str]) -> None:
  """Carries out `--config.KEY=None`, for which absl has no word: the key takes its tested value again."""
  known = config.flat_keys(experiment)
  for argument in arguments:
    key = argument.removeprefix("--config.").removesuffix("=None")
    if key not in known:
      raise UserError(f"config.{key}=None: unknown key{catalog.near_matches(key, known)}")
    *path, last = key.split(".")
    section = experiment
    for name in path:
      section = section[name]
    section[last] = None


def _config_first(argv: Sequence[str]) -> list[str]:
  """Moves `--config=FILE` before its overrides, where it must be, and joins `--config FILE`."""
  program, *rest = argv
  first, others = [], []
  while rest:
    argument = rest.pop(0)
    if argument in ("--config", "-config"):
      if not rest or rest[0].startswith("-"):
        raise UserError("--config: needs a value, such as --config=experiments/datm.py")
      argument = f"--config={rest.pop(0)}"
    (first if argument.startswith(("--config=", "-config=")) else others).append(argument)
  return [program, *first[-1:], *others]


def _explain(argv: Sequence[str], error: Exception) -> UserError:
  """One line about a command line that cannot be read: which argument, and the near matches or the right type."""
  files = [a.partition("=")[2] for a in argv if a.startswith(("--config=", "-config="))]
  overrides = [a for a in argv if a.startswith(("--config.", "--noconfig."))]
  if isinstance(error, flags.UnrecognizedFlagError) and not error.flagname.removeprefix("no").startswith("config."):
    return UserError(f"--{error.flagname}: unknown flag{catalog.near_matches(error.flagname, define_flags(argv))}")
  if not files:
    if overrides:
      return UserError(
        f"{overrides[0].lstrip('-')}: --config is not given; add --config=experiments/datm.py or another"
      )
    return UserError(_last_line(error))
  file = files[-1].partition(":")[0]
  if not Path(file).is_file():
    return UserError(f"--config={files[-1]}: no such file; experiments lie in experiments/, see --list")
  try:
    loaded = _load(argv[0], files[-1])
  except Exception as inner:  # whatever an experiment's code raises
    return UserError(f"--config={files[-1]}: cannot be loaded: {_last_line(inner)}")
  known = config.flat_keys(loaded)
  for argument in overrides:
    dotted, _, value = argument.lstrip("-").partition("=")
    key = dotted.partition(".")[2]
    if key not in known and key.partition(".")[0] != "auto":
      return UserError(f"{dotted}={value}: unknown key{catalog.near_matches(key, known)}")
    try:
      _load(argv[0], files[-1], argument)
    except Exception as inner:
      *path, last = key.split(".")
      section = loaded
      for name in path:
        section = section[name]
      kind = getattr(section.get_type(last), "__name__", "") if key in known else ""
      return UserError(f"{dotted}={value}: {f'must be of type {kind}' if kind else _last_line(inner)}")
  return UserError(_last_line(error))


def _load(program: str, file: str, *overrides: str):
  argv = [program, f"--config={file}", *overrides]
  values = define_flags(argv)
  values(argv)
  values["config"].value.get("name")
  return values["config"].value


def _last_line(error: Exception) -> str:
  """What a wrapped exception finally says, without a traceback around it."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  if not lines:
    return type(error).__name__
  return re.sub(r"^[\w.]*(Error|Exception): ", "", lines[-1])


def main(argv: Sequence[str]) -> int:
  """The command; returns the exit status: 0 done, 1 the user's to mend, 130 stopped by the user."""
  status = _main(argv)
  distributed.leave(status)
  return status


def _main(argv: Sequence[str]) -> int:
  try:
    _run(parse(argv))
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
      lost.say()
    raise


def _run(values: flags.FlagValues) -> None:
  if values["help"].value:
    print(__doc__)
    for name in ("config", "workdir", "artefacts", "list", "dry_run", "topology", "compilation_cache"):
      print(f"  --{name:<17} {values[name].help}")
    for name in ("coordinator", "num_processes", "process_id", "distributed", "help"):
      print(f"  --{name:<17} {values[name].help}")
    return
  if values["list"].value:
    print(format_table(*catalog.table(), align="lllll"))
    return
  experiment, workdir, artefacts = (values[name].value for name in ("config", "workdir", "artefacts"))
  if experiment is None:
    raise UserError("--config: not given; try --config=experiments/datm.py, or --help")
  topology = values["topology"].value
  if topology is not None and not values["dry_run"].value:
    raise UserError(f"--topology={topology}: compiles for hardware that is not there; add --dry_run")
  cache.enable(values["compilation_cache"].value)
  parallel.use_cores()
  if values["dry_run"].value:
    context = make_context(first_cell(experiment), workdir, artefacts)
    stages.family(context.config).dry_run(context, topology)
    return
  _join(values, lambda: make_context(first_cell(experiment), workdir, artefacts).goes_on())
  run_experiment(experiment, workdir, artefacts=artefacts, signals=True)


def _join(values: flags.FlagValues, where: Callable[[], str]) -> None:
  """Joins the other processes of a run, if there are any.

  Raises:
    UserError: flags that do not go together.
  """
  names = ("coordinator", "num_processes", "process_id")
  given = [name for name in names if values[name].value is not None]
  if values["distributed"].value:
    if given:
      raise UserError(f"--distributed: finds {', '.join(names)} by itself; leave --{given[0]} out")
    distributed.initialize(where=where)
  elif given:
    missing = [f"--{name}" for name in names if name not in given]
    if missing:
      raise UserError(f"--{given[0]}: many processes need all of {', '.join(names)}; add {' and '.join(missing)}")
    distributed.initialize(*(values[name].value for name in names), where=where)


if __name__ == "__main__":
  status = main(sys.argv)
  if status == 130:  # at once: files are whole at any moment, and threads that still write would complain at the exit
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  sys.exit(status)
