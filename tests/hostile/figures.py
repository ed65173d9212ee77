"""What runs came to, without what differs from one time to the next: how long it took, and what it held."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jdistill.files import read_json, read_npz, sha256_arrays, sha256_file
from jdistill.reporting import read_jsonl

_VOLATILE = ("time", "memory", "seconds", "created", "step_bytes")
_ATTEMPT = ("inputs", "recorded")  # what an attempt found done already
_DIGEST = re.compile("[0-9a-f]{64}")  # of records and files that speak of time; what they hold is compared
_BYTES = ("README.md", "checksums.json")


def figures(root: Path) -> dict[str, Any]:
  """By path below `root`: figures of JSON files, rows of metrics, and the content of arrays.

  Args:
    root: holds `work` and `artefacts`.

  Raises:
    UserError: a file cannot be read.
  """
  found: dict[str, Any] = {}
  for path in sorted(path for path in root.rglob("*") if path.is_file()):
    name = str(path.relative_to(root))
    if "/checkpoints/" in name or path.name.startswith("environment"):
      continue
    if path.suffix == ".npz":
      found[name] = sha256_arrays({key: value for key, value in read_npz(path).items() if key != "seconds"})
    elif path.suffix == ".npy" or path.name in _BYTES:
      found[name] = sha256_file(path)
    elif path.suffix == ".json":
      found[name] = steady(read_json(path))
    elif path.suffix == ".jsonl":
      found[name] = steady(read_jsonl(path))
  return found


def steady(value: Any) -> Any:
  """A JSON value without the keys that speak of time and memory, and digests of such."""
  if isinstance(value, dict):
    kept = {key: one for key, one in value.items() if not any(word in key for word in _VOLATILE)}
    kept = {key: one for key, one in kept.items() if key == "artefact_sha256" or not _is_digest(one)}
    return {key: steady(one) for key, one in kept.items() if key not in _ATTEMPT}
  return [steady(one) for one in value] if isinstance(value, list) else value


def _is_digest(value: Any) -> bool:
  return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def differences(expected: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
  """What is missing or another; files that only `found` has do not count."""
  for name, value in expected.items():
    if name not in found:
      yield f"{name} is missing"
    elif found[name] != value:
      yield f"{name}: {_first(value, found[name])}"


def _first(expected: Any, found: Any, where: str = "") -> str:
  if isinstance(expected, dict) and isinstance(found, dict):
    for key in [*expected, *found]:
      if expected.get(key) != found.get(key):
        return _first(expected.get(key), found.get(key), f"{where}.{key}")
  if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
    for index, pair in enumerate(zip(expected, found, strict=True)):
      if pair[0] != pair[1]:
        return _first(*pair, f"{where}[{index}]")
  return f"{where or 'it'} is {json.dumps(found)[:80]}, not {json.dumps(expected)[:80]}"
