"""No stage names a hyper-parameter of a method: options reach builders by the builders' own signatures."""

import ast
from pathlib import Path

from jdistill import catalog, stages
from jdistill.config import Plain
from jdistill.config.common import RUN

ROOM = Path(stages.__file__).parent

# Options whose names are words of the stages as well, with what the stages mean by them.
WORDS = {
  "base": "a field of what stage `project` fits",
  "features": "a field of `Evidence`",
  "fraction": "a key of the section `select`, whatever the selector",
  "grid": "cells of work",
  "initial": "the synthetic set before the first step, a control of evaluation",
  "kernel": "an array of a layer",
  "labels": "a field of `SyntheticSet`",
  "outer": "a field of `Recipe`",
  "state": "a field of `Outcome`",
  "per_class": "a key of the section `select`, whatever the selector",
  "repeat": "of NumPy",
  "taps": "a field of `Outputs`",
}


def options():
  """The names of all options of methods, their parts and data policies that are no keys of stages."""
  found = set()
  for row in catalog.rows():
    found |= set(catalog.policy_fields(row.policy_name) if row.policy else row.fields())
  for name in catalog.policy_names():
    found |= set(catalog.policy_fields(name))
  for declared in (RUN, *(stage.fields for stage in stages.STAGES.values())):
    found -= {*declared.keys, *declared.sections, *declared.free}
    for section in declared.sections.values():
      found -= set(section.fields) if isinstance(section, Plain) else set()
  return found


def names(text):
  """`(line, name)` of every string, keyword argument and attribute of a file."""
  for node in ast.walk(ast.parse(text)):
    match node:
      case ast.Constant(value=str() as name) | ast.Attribute(attr=name):
        yield node.lineno, name
      case ast.keyword(arg=str() as name):
        yield node.value.lineno, name


def test_stages_name_no_option_of_a_method():
  known = options()
  assert {"inner_steps", "threshold", "batch_real", "r_bn", "fraction", "at_weight", "min_start_epoch"} <= known
  assert set(WORDS) <= known
  found = {}
  for path in ROOM.glob("*.py"):
    for line, name in names(path.read_text()):
      if name in known and name not in WORDS:
        found.setdefault(name, []).append(f"{path.name}:{line}")
  assert found == {}


def test_stages_name_no_method():
  """Nor do they ask which method it is: rows tell what a method needs."""
  methods, found = set(catalog.names()) - {"ce"}, []  # every run may train with plain cross entropy
  for path in ROOM.glob("*.py"):
    found += [f"{path.name}:{line}: {name}" for line, name in names(path.read_text()) if name in methods]
  assert found == []


def test_the_walk_sees_what_it_looks_for():
  text = 'x = config["inner_steps"]\nf(threshold=1)\ny = plan.max_start_epoch\n'
  found = sorted(pair for pair in names(text) if pair[1] in options())
  assert found == [(1, "inner_steps"), (2, "threshold"), (3, "max_start_epoch")]
