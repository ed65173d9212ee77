"""Experiments as Python files with `get_config`, wherever they lie: in the working directory, or shipped with jdistill.

Each directory of experiments is a package of its own, with a name that no other module has, so that a file imports its
neighbours by `from . import common` whatever the directory is called. What a directory does not have comes from the
shipped experiments: a copied file works alone.
"""

import difflib
import hashlib
import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path

from jdistill.base import UserError
from jdistill.files import user_path

_SUFFIX = ".py"


def shipped() -> Path | None:
  """The directory of the experiments that came with jdistill: in the installed package, or in a checkout beside it."""
  package = Path(__file__).resolve().parent
  for directory in (package / "experiments", package.parent / "experiments"):
    if (directory / "datm.py").is_file():
      return directory
  return None


def locate(name: str) -> tuple[Path, str | None]:
  """The file and the preset of `FILE` or `FILE:PRESET`.

  A file that is there wins over a shipped one; `experiments/datm.py` and `datm.py` name a shipped one from anywhere.

  Raises:
    UserError: no such file; near matches are given.
  """
  file, colon, preset = name.partition(f"{_SUFFIX}:")
  path = user_path(file + _SUFFIX if colon else file, "--config")
  directory = shipped()
  if not path.is_file() and directory is not None and path.parent in (Path(), Path("experiments")):
    path = directory / path.name if (directory / path.name).is_file() else path
  if not path.is_file():
    known = sorted(one.name for one in directory.glob(f"*{_SUFFIX}")) if directory else []
    near = difflib.get_close_matches(path.name, known, n=3)
    cure = f"did you mean {' or '.join(near)}?" if near else "shipped ones are called experiments/NAME.py, see --list"
    raise UserError(f"--config={name}: no such file; {cure}")
  if path.suffix != _SUFFIX:
    raise UserError(f"--config={name}: is not a Python file; give one with get_config, such as experiments/datm.py")
  return path.resolve(), preset if colon else None


def load(name: str):
  """The configuration of an experiment.

  Args:
    name: `FILE` or `FILE:PRESET`, see `locate`.

  Returns:
    What the file's `get_config` gives, a `ConfigDict`.

  Raises:
    UserError: no such file, one that cannot be loaded, or a preset that it does not have.
  """
  path, preset = locate(name)
  try:
    get_config = getattr(_module(path), "get_config", None)
    if get_config is None:
      raise AttributeError("it has no function get_config")
    found = get_config() if preset is None else get_config(preset)
    if not hasattr(found, "to_dict"):
      raise TypeError(f"get_config gave {type(found).__name__}, not a ConfigDict")
  except (Exception, SystemExit) as error:  # whatever an experiment's code raises
    said = " ".join(str(error).split()) or type(error).__name__
    raise UserError(f"--config={name}: cannot be loaded: {said}; mend the file, or its preset's name") from error
  return found


def _module(path: Path) -> types.ModuleType:
  """A file as a module, executed anew, with its neighbours in reach."""
  package = _package(path.parent)
  name = f"{package}.{path.stem}"
  loader = importlib.machinery.SourceFileLoader(name, str(path))
  module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
  sys.modules[name] = module
  try:
    loader.exec_module(module)
  except BaseException:
    del sys.modules[name]
    raise
  return module


def _package(directory: Path) -> str:
  """The name of the package that a directory of experiments is."""
  name = f"_jdistill_experiments_{hashlib.sha256(str(directory).encode()).hexdigest()[:12]}"
  if name not in sys.modules:
    package, own = types.ModuleType(name), shipped()
    package.__path__ = [str(directory), *([str(own)] if own not in (None, directory) else [])]
    sys.modules[name] = package
  return name
