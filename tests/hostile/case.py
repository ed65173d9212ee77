"""One hostile input as a value, and the ways to hand it over: command line, Python, a function."""

import copy
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jdistill import run

REPOSITORY = Path(__file__).resolve().parents[2]

Action = Callable[[], int]
Words = tuple[str | tuple[str, ...], ...]


def nothing(name: str, refused: bool) -> bool:
  """No file may change."""
  del name, refused
  return False


class Case(NamedTuple):
  """An input and what must become of it.

  Attributes:
    name: how it is asked for again.
    kind: the row of the table that it counts in.
    start: `(place) -> action`; lays out files in an empty directory and returns what is to be done there, which gives
      an exit status.
    words: what the message must contain; of a tuple, one.
    outcome: `refused`; `works`, with exit status 0; or `either`, where a run may mend itself.
    differences: `(place) -> lines`, what is wrong after exit status 0.
    may_change: `(path in the directory, whether the input was refused) -> whether a file that was there may change`.
    early: whether a refusal must come before anything is printed or written.
  """

  name: str
  kind: str
  start: Callable[[Path], Action]
  words: Words = ()
  outcome: Literal["refused", "works", "either"] = "refused"
  differences: Callable[[Path], list[str]] = lambda place: []
  may_change: Callable[[str, bool], bool] = nothing
  early: bool = True


def config_of(experiment: str, preset: str = "tiny") -> dict[str, Any]:
  """An experiment's configuration as plain values, to be spoilt."""
  return importlib.import_module(f"experiments.{experiment}").get_config(preset).to_dict()


def experiments() -> list[str]:
  """The names of all experiments, in alphabetical order."""
  paths = (REPOSITORY / "experiments").glob("*.py")
  return sorted(path.stem for path in paths if not path.stem.startswith(("common", "__")))


def changed(config: Mapping[str, Any], dotted: str, value: Any) -> dict[str, Any]:
  """A configuration with another value, at a path of sections."""
  config = copy.deepcopy(dict(config))
  *path, last = dotted.split(".")
  section = config
  for name in path:
    section[name] = dict(section.get(name) or {})
    section = section[name]
  section[last] = value
  return config


def command(*arguments: str) -> Action:
  """The command with these arguments."""
  return lambda: run.main(["run", *arguments])


def tiny(experiment: str, place: Path, *overrides: str) -> Action:
  """The command for an experiment's preset `tiny`, with `KEY=VALUE` overrides, in `place/work`."""
  file = f"--config={REPOSITORY}/experiments/{experiment}.py:tiny"
  return command(file, *(f"--config.{one}" for one in overrides), f"--workdir={place / 'work'}")


def python(config: Mapping[str, Any], place: Path) -> Action:
  """`run_experiment` of a configuration, in `place/work`."""

  def action() -> int:
    summary = run.run_experiment(config, place / "work")
    return 1 if summary.get("failed") else 0

  return action
