"""The name of a configuration: what determines a run's numbers, and in what two runs differ."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import ml_collections

from jdistill.files import to_jsonable

# what says how a run is carried out and not what it is
_HOW = ("parallel", "memory_limit", "stop_if_stuck", "transport")


def determining(raw: Mapping[str, Any]) -> dict[str, Any]:
  """A configuration without what only says how it is carried out: on which devices, in which way."""
  return {key: value for key, value in raw.items() if key not in _HOW}


def config_hash(raw: Mapping[str, Any]) -> str:
  """A short name of a resolved configuration: the SHA-256 of its canonical JSON, without what only says how."""
  return hashlib.sha256(json.dumps(to_jsonable(determining(raw)), sort_keys=True).encode()).hexdigest()[:16]


def difference(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
  """The dotted keys in which two configurations differ, with both values."""
  out = []
  for key in sorted({*a, *b}):
    left, right = a.get(key), b.get(key)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
      out += difference(left, right, f"{prefix}{key}.")
    elif left != right:
      out.append(f"{prefix}{key}={left!r} (there) != {right!r} (now)")
  return out


def flat_keys(config: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
  """All dotted keys of a configuration, for messages about unknown ones."""
  out = []
  whole = isinstance(config, ml_collections.ConfigDict)  # references stay: asked for, an unset one raises
  for key, value in config.items(preserve_field_references=True) if whole else config.items():
    if isinstance(value, Mapping | ml_collections.ConfigDict):
      out += flat_keys(value, f"{prefix}{key}.") if key != "auto" else []
    else:
      out.append(prefix + key)
  return out
