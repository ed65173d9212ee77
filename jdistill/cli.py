"""The flags of the command line, and one readable line for each mistake in them."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from jdistill import config, schema
from jdistill.base import UserError

FlagValues = flags.FlagValues

# name -> how it is read, its value if not given, and its help
_FLAGS = {
  "workdir": (flags.DEFINE_string, None, "Where the run's files go; runs/NAME-HASH if not given."),
  "artefacts": (
    flags.DEFINE_string,
    None,
    "Where teachers are kept and shared by runs; 'artefacts' beside the work directory if not given.",
  ),
  "list": (flags.DEFINE_bool, False, "Print the catalog of methods and stop."),
  "dry_run": (flags.DEFINE_bool, False, "Print what a run would need and stop."),
  "topology": (
    flags.DEFINE_string,
    None,
    "With --dry_run: compile for this slice of TPUs, such as v5e:2x4, instead of for this machine.",
  ),
  "compilation_cache": (
    flags.DEFINE_string,
    None,
    "Where compiled programs are kept for later runs, 'off' for nowhere. If not given, in the user's cache folder, but "
    "on CPUs none with convolutions: those can be kept or be at their fastest.",
  ),
  "coordinator": (flags.DEFINE_string, None, "HOST:PORT of process 0 in a run of several processes."),
  "num_processes": (flags.DEFINE_integer, None, "Number of processes."),
  "process_id": (flags.DEFINE_integer, None, "Index of this process, from 0."),
  "distributed": (
    flags.DEFINE_bool,
    False,
    "Several processes on a TPU pod or a cluster that JAX knows; instead of the three flags above.",
  ),
}


def define_flags(argv: Sequence[str]) -> FlagValues:
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
  for name, (define, default, text) in _FLAGS.items():
    define(name, default, text, flag_values=values)
  flags.DEFINE_bool("help", False, "Print this help and stop.", short_name="h", flag_values=values)
  return values


def parse(argv: Sequence[str]) -> FlagValues:
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
      raise UserError(f"config.{key}=None: unknown key{schema.near_matches(key, known)}")
    section, last = _place(experiment, key)
    section[last] = None


def _place(experiment, dotted: str) -> tuple:
  """The section that holds a dotted key, and its name there."""
  *path, last = dotted.split(".")
  for name in path:
    experiment = experiment[name]
  return experiment, last


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
    return UserError(f"--{error.flagname}: unknown flag{schema.near_matches(error.flagname, define_flags(argv))}")
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
      return UserError(f"{dotted}={value}: unknown key{schema.near_matches(key, known)}")
    try:
      _load(argv[0], files[-1], argument)
    except Exception as inner:
      section, last = _place(loaded, key)
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


def flag_help(values: FlagValues) -> str:
  """One line for each flag."""
  return "\n".join(f"  --{name:<17} {values[name].help}" for name in ("config", *_FLAGS, "help"))


def topology(values: FlagValues) -> str | None:
  """The slice of TPUs to plan for.

  Raises:
    UserError: one without `--dry_run`.
  """
  name = values["topology"].value
  if name is not None and not values["dry_run"].value:
    raise UserError(f"--topology={name}: compiles for hardware that is not there; add --dry_run")
  return name


def processes(values: FlagValues) -> tuple[str, int, int] | tuple[()] | None:
  """How this process joins others: `(coordinator, num_processes, process_id)`.

  Returns:
    `()` where JAX finds all three by itself, `None` for a run of one process.

  Raises:
    UserError: flags that do not go together.
  """
  names = ("coordinator", "num_processes", "process_id")
  given = [name for name in names if values[name].value is not None]
  if values["distributed"].value:
    if given:
      raise UserError(f"--distributed: finds {', '.join(names)} by itself; leave --{given[0]} out")
    return ()
  if not given:
    return None
  missing = [f"--{name}" for name in names if name not in given]
  if missing:
    raise UserError(f"--{given[0]}: many processes need all of {', '.join(names)}; add {' and '.join(missing)}")
  return tuple(values[name].value for name in names)
