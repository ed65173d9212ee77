"""Whose a work directory is: one configuration on one set of data, and one process at a time."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from jdistill import config as config_lib
from jdistill.base import UserError
from jdistill.files import Damaged, Held, read_json, read_record, remove_leftovers, take, write_json, write_record
from jdistill.reporting import environment
from jdistill.runs import locked
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first

CLAIM = "claim.json"  # configuration and data once more, with a checksum
_SHOWN = 12  # digits of a fingerprint


def check_artefacts(run: Run) -> None:
  """Refuses artefacts that could not be kept; those that are there may lie in a place for reading only."""
  if "teachers" not in run.config and run.config["preprocessing"] != "zca":
    return
  if not run.artefacts.is_dir():
    with contextlib.suppress(Held):  # another process, which is just finding out the same
      locked.writable("--artefacts", run.artefacts, lambda: take(run.artefacts).release())


def check(run: Run) -> None:
  """Refuses a work directory that is not this run's; writes nothing.

  Raises:
    UserError: it belongs to another configuration, or is a file or a directory with other things in it.
  """
  on_first(lambda: _check(run))


def _check(run: Run) -> None:
  if run.workdir.exists() and not run.workdir.is_dir():
    raise UserError(f"--workdir={run.workdir} is a file; choose another")
  found = read(run)
  if found is None:
    return
  differing = config_lib.difference(config_lib.determining(found["config"]), config_lib.determining(run.config))
  if differing:
    raise UserError(
      f"--workdir={run.workdir} belongs to another configuration: {'; '.join(differing[:3])}"
      f"{f' and {len(differing) - 3} more' if len(differing) > 3 else ''}; choose another --workdir"
    )


def read(run: Run) -> dict[str, Any] | None:
  """The claim on a work directory, from `config.json` alone where the other copy is damaged; `None` for a new one.

  Raises:
    UserError: neither can be read, or there are other things in the directory.
  """
  claim, plain = run.workdir / CLAIM, run.workdir / "config.json"
  if not claim.exists() and not plain.exists():
    if not locked.is_new(run.workdir):
      raise UserError(f"--workdir={run.workdir} is not empty and not a work directory; choose another")
    return None
  with contextlib.suppress(Damaged):
    return read_record(claim)
  with contextlib.suppress(UserError):
    found = read_json(plain)
    if isinstance(found, dict) and found:
      return {"config": _before_calibration(found, run.config), "data": {}}
  raise UserError(
    f"{plain} and {claim} are damaged, so nothing tells whose --workdir={run.workdir} is; choose another, or put one "
    "of them back"
  )


def _before_calibration(found: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
  """A configuration in which the values that its run measured are those of another one."""
  out = {key: dict(value) if isinstance(value, dict) else value for key, value in found.items()}
  for path in (found.get("calibration") or {}).get("keys") or ():
    section, _, key = str(path).rpartition("/")
    # such as the teacher, which is as the model
    copies = [name for name, one in found.items() if name == section or (section == "model" and one == found["model"])]
    if not section:
      out[key] = config.get(key)
    elif key == "name":  # its options are those of the name
      out[section] = config.get(section)
    for name in copies:
      if key != "name" and isinstance(out[name], dict) and isinstance(config.get(name), Mapping):
        out[name][key] = config[name].get(key)
  return out


def check_alike(run: Run) -> None:
  """Refuses a process that was started with another configuration, or read other data, than process 0."""
  differing = config_lib.difference(on_first(lambda: run.config), run.config)
  if differing:
    there = differing[0].replace("(there)", "(process 0)").replace("(now)", "(this process)")
    raise UserError(f"{there}: give all processes of a run the same flags, but for --process_id")


def check_data(run: Run) -> None:
  """Refuses data that changed since the work directory began with them; after they were read.

  Raises:
    UserError: the first set that differs.
  """
  own = data(run)
  known = on_first(lambda: own)
  for name, digest in own.items():
    if known[name] != digest:
      raise UserError(
        f"{_words(run, name)}: this process reads other data than process 0 (fingerprint {digest[:_SHOWN]}, there "
        f"{known[name][:_SHOWN]}); give all processes the same files"
      )
  on_first(lambda: _compare(run, own))


def _compare(run: Run, own: dict[str, str]) -> None:
  for name, digest in (read(run) or {"data": {}})["data"].items():
    if own.get(name, digest) != digest:
      raise UserError(
        f"{_words(run, name)}: its content has changed since --workdir={run.workdir} began (fingerprint "
        f"{digest[:_SHOWN]} there, {own[name][:_SHOWN]} now); put the former data back, or choose another --workdir"
      )


def data(run: Run) -> dict[str, str]:
  """Fingerprints of the data of all arms by their section `task`, before preprocessing where a task tells of it."""
  found = {}
  for section in run.sections():
    task = run.task(section)
    parts = [str(task.source.get("fingerprint", ""))]
    for batch in (task.data, task.teacher, task.validation, task.test):
      # preprocessed inputs can differ in their last bits from one machine to another
      parts.append(run.fingerprint(batch if not parts[0] else batch._replace(x=batch.y)))
    found[json.dumps(section, sort_keys=True)] = hashlib.sha256(" ".join(parts).encode()).hexdigest()
  return found


def _words(run: Run, name: str) -> str:
  other = json.loads(name)
  task = "" if other == run.config["task"] else f" (task {other['name']})"
  return f"dataset={run.config['dataset']!r}{task}"


def write(run: Run) -> None:
  """Claims the work directory for this run and clears what a killed one left; after all checks."""

  def claim():
    remove_leftovers(run.workdir)
    write_record(run.workdir / CLAIM, {"config": run.config, "data": data(run)})
    write_json(run.workdir / "config.json", run.config)
    write_json(run.workdir / "environment.json", environment())

  on_first(claim)
  if not (run.workdir / CLAIM).is_file():
    raise UserError(
      f"--workdir={run.workdir}: process 0 wrote into it and this process cannot see it; all processes need it, and "
      "--artefacts, on a filesystem that they share"
    )
  run.log(f"work directory: {run.workdir} (config {run.hash})")
