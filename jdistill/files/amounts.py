"""Numbers of bytes in words."""

import re


def format_bytes(count: float) -> str:
  """Says a number of bytes in words, decimal units: `1_234_567 -> "1.2 MB"`."""
  if count > 10**30:
    return "more than 1e18 TB"
  for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
    if count >= size:
      return f"{count / size:.1f} {unit}"
  return f"{int(count)} B"


_UNITS = {
  "": 1,
  "b": 1,
  "kb": 1e3,
  "mb": 1e6,
  "gb": 1e9,
  "tb": 1e12,
  "kib": 2**10,
  "mib": 2**20,
  "gib": 2**30,
  "tib": 2**40,
}


def parse_bytes(text: str) -> int:
  """Reads a number of bytes: `"1.5 GB"`, `"512MiB"`, `"4000000"`.

  Raises:
    ValueError: anything else, or nothing above 0.
  """
  found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-z]*)\s*", text.lower())
  if found is None or found[2] not in _UNITS or not float(found[1]) > 0:
    raise ValueError(f"{text!r} is no number of bytes; write it like '2GB' or '500MB'")
  count = float(found[1]) * _UNITS[found[2]]
  if count > 1e18:
    raise ValueError(f"{text[:40]!r} is more than any machine has; write it like '2GB' or '500MB'")
  return int(count)


def parse_seconds(text: str) -> float:
  """Reads a time: `"20m"`, `"1.5h"`, `"90s"`, `"90"`.

  Raises:
    ValueError: anything else, or nothing above 0.
  """
  found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(s|m|min|h|d)?\s*", text.lower())
  if found is None or not float(found[1]) > 0:
    raise ValueError(f"{text[:40]!r} is no time; write it like '20m', '90s' or '1.5h'")
  seconds = float(found[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}[found[2] or "s"]
  if seconds > 1e9:
    raise ValueError(f"{text[:40]!r} is longer than anyone waits; write it like '20m' or '1.5h'")
  return seconds
