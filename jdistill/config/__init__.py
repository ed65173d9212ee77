"""What a configuration may say: filling in defaults, and refusing everything that cannot work before work starts."""

import json
from collections.abc import Mapping
from typing import Any

from jdistill import catalog
from jdistill.base import UserError
from jdistill.config import dataset, knowledge
from jdistill.config.dataset import SETS, STAGES, check_against_data
from jdistill.config.identity import config_hash, difference, flat_keys, what
from jdistill.files import to_jsonable

__all__ = ["SETS", "STAGES", "check_against_data", "config_hash", "difference", "flat_keys", "resolve", "what"]

_FAMILIES = {"dataset": dataset.resolve, "knowledge": knowledge.resolve}


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
  """Turns an experiment's configuration into plain values that are all set and all allowed.

  What it may say depends on the family of its method.

  Args:
    config: a `ConfigDict` or nested mapping.

  Returns:
    Nested plain dictionaries without `auto`.

  Raises:
    UserError: an unknown key, method, model, or stage; a wrong type or range; or values that contradict each other.
  """
  raw = config.to_dict() if hasattr(config, "to_dict") else dict(config)
  raw = json.loads(json.dumps(to_jsonable(raw)))
  if not isinstance(raw.get("method"), dict):
    raise UserError("method: missing; an experiment's configuration needs this section")
  return _FAMILIES[catalog.row(raw["method"].get("name")).family](raw)
