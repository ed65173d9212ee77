"""A configuration in which everything is open: what experiments start from, so that they list only what differs."""

from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from jdistill import catalog
from jdistill.config.resolve import declared
from jdistill.config.sections import Declared, Named, Plain
from jdistill.schema import Field


def template(method: str, stages: Mapping[str, Declared]) -> ml_collections.ConfigDict:
  """Every key that a configuration of a method may set, open (`None`) and of its type.

  Sections that name something have the options of everything that could be named, so that the command line reaches
  them whatever it chooses.

  Args:
    method: a name of the catalog.
    stages: what each stage declares.
  """
  row = catalog.row(method)
  config = ml_collections.ConfigDict()
  for part in declared(row, stages):
    for key, field in part.keys.items():
      config[key] = _open(field)
    for name, section in part.sections.items():
      config[name] = _section(section)
    for name in part.free:
      config[name] = {}
  config.method = {"name": method} | {key: _open(field) for key, field in row.fields().items()}
  config.stages = row.stages
  return config


def _section(section: Plain | Named) -> dict[str, Any]:
  if isinstance(section, Plain):
    return {key: _open(field) for key, field in section.fields.items()}
  default = section.default if isinstance(section.default, Mapping) else {}
  name = default.get("name")
  return {"name": name or config_dict.placeholder(str)} | {k: _open(field) for k, field in section.shown(name).items()}


def _open(field: Field) -> Any:
  return config_dict.placeholder(field.kind)
