"""The flags of the command line, and one readable line for each mistake in them."""

import re
from collections.abc import Sequence

import ml_collections
from absl import flags
from ml_collections import config_dict, config_flags

from jdistill import config, experiment_files, schema
from jdistill.base import UserError

FlagValues = flags.FlagValues

_CONFIG = "Experiment: a Python file with get_config, optionally FILE:PRESET; a shipped one from any directory."

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


def define_flags(argv: Sequence[str] = ("",), experiment=None) -> FlagValues:
  """The command's flags; new ones for every call, so that no call leaves anything behind for the next.

  Args:
    argv: the command line.
    experiment: a `ConfigDict`; those of its keys that `argv` sets become flags. `None` if there is none.
  """
  values = flags.FlagValues()
  if experiment is None:
    flags.DEFINE_string("config", None, _CONFIG, flag_values=values)
  else:
    config_flags.DEFINE_config_dict("config", experiment, _CONFIG, flag_values=values, sys_argv=list(argv))
  for name, (define, default, text) in _FLAGS.items():
    define(name, default, text, flag_values=values)
  flags.DEFINE_bool("help", False, "Print this help and stop.", short_name="h", flag_values=values)
  return values


def parse(argv: Sequence[str]) -> FlagValues:
  """Reads the command line.

  Raises:
    UserError: an unknown flag or key (with its near matches), a wrong type, or an experiment that cannot be loaded.
  """
  try:
    argv = [argv[0], *flags.FlagValues().read_flags_from_files(list(argv[1:]))]  # --flagfile=FILE
  except (flags.Error, OSError) as error:
    raise UserError(f"--flagfile: {_last_line(error)}; give a file with one flag per line") from error
  file, argv = _experiment(argv)
  experiment = None if file is None else _without_options_of_others(experiment_files.load(file), argv)
  unset = _unset_at_last(argv)
  argv = [a for a in argv if not (a.startswith("--config.") and a.endswith("=None"))]
  try:
    values = define_flags(argv, experiment)
    rest = values(argv)
  except Exception as error:  # absl and ml_collections raise many kinds, and all of them are the user's to mend
    raise _explain(argv, file, error) from error
  if experiment is not None:
    _unset(values["config"].value, unset)
  for name in ("workdir", "artefacts", "compilation_cache", "topology", "coordinator"):
    if values[name].value == "":
      raise UserError(f"--{name}=: empty; give a value, or leave the flag out")
  if len(rest) > 1:
    raise UserError(f"{rest[1]}: unexpected argument; flags look like --name=value, see --help")
  return values


def _without_options_of_others(experiment, argv: Sequence[str]):
  """Opens the options of sections that the command line gives another name: those of the former mean nothing to it."""
  for argument in argv:
    found = re.fullmatch(r"--?config\.(\w+)\.name=(.*)", argument)
    section = experiment.get(found[1]) if found else None
    if isinstance(section, ml_collections.ConfigDict) and section.get("name") not in (None, found[2]):
      for key in section:
        if key != "name":
          section[key] = config_dict.placeholder(section.get_type(key))
  return experiment


def _unset_at_last(argv: Sequence[str]) -> list[str]:
  """The arguments `--config.KEY=None` that no later one for the same key takes back."""
  last = {argument.partition("=")[0]: argument for argument in argv if argument.startswith("--config.")}
  return [argument for argument in last.values() if argument.endswith("=None")]


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


def _experiment(argv: Sequence[str]) -> tuple[str | None, list[str]]:
  """What `--config=FILE` or `--config FILE` names, the last one if there are several, and the other arguments."""
  program, *rest = argv
  file, others = None, []
  while rest:
    argument = rest.pop(0)
    name, equals, value = argument.partition("=")
    if name not in ("--config", "-config"):
      others.append(argument)
      continue
    if not equals:
      value = rest.pop(0) if rest and not rest[0].startswith("-") else ""
    if not value:
      raise UserError("--config: needs a value, such as --config=experiments/datm.py")
    file = value
  return file, [program, *others]


def _explain(argv: Sequence[str], file: str | None, error: Exception) -> UserError:
  """One line about a command line that cannot be read: which argument, and the near matches or the right type."""
  overrides = [a for a in argv if a.startswith(("--config.", "--noconfig."))]
  if isinstance(error, flags.UnrecognizedFlagError) and not error.flagname.removeprefix("no").startswith("config."):
    return UserError(f"--{error.flagname}: unknown flag{schema.near_matches(error.flagname, define_flags())}")
  if file is None:
    if overrides:
      return UserError(
        f"{overrides[0].lstrip('-')}: --config is not given; add --config=experiments/datm.py or another"
      )
    return UserError(f"{_last_line(error)}; see --help")
  known = config.flat_keys(experiment_files.load(file))
  for argument in overrides:
    dotted, _, value = argument.lstrip("-").partition("=")
    key = dotted.partition(".")[2]
    if key not in known and key.partition(".")[0] != "auto":
      return UserError(f"{dotted}={value}: unknown key{schema.near_matches(key, known)}")
    loaded = _without_options_of_others(experiment_files.load(file), argv)
    try:
      define_flags([argv[0], argument], loaded)([argv[0], argument])
    except Exception:
      section, last = _place(loaded, key)
      kind = getattr(section.get_type(last), "__name__", "") if key in known else ""
      return UserError(
        f"{dotted}={value}: {f'must be of type {kind}' if kind else 'must be a mapping, as an experiment has it'}"
      )
  return UserError(f"{_last_line(error)}; see --help")


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
