"""The section `parallel`, which every family has: on which devices, and in which way."""

from typing import Any

from jdistill.config.fields import Field
from jdistill.training import parallel

PARALLEL = {
  "route": Field(str, choices=parallel.ROUTES),
  "pool": Field(int, low=1, optional=True),
  "data": Field(int, low=1, optional=True),
}
_DEFAULTS = {"route": "shard_map", "pool": None, "data": None}


def fill_parallel(raw: dict[str, Any]) -> None:
  """Adds the section where an experiment does not say how it is carried out."""
  how = raw.setdefault("parallel", {})
  if isinstance(how, dict):
    how.update({key: value for key, value in _DEFAULTS.items() if how.get(key) is None})
