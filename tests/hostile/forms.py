"""Sections of a form that nobody can read: `auto`, `sweep`, `arms`, `order`, `tune`, `committee`, `eval` and others."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.hostile.case import Action, Case, changed, config_of, python, tiny

_SCALARS = {"number": 3, "word": "abc", "list": [1, 2], "true": True, "NaN": float("nan")}
_SWEEP = {"groups": {"a": {"seed": 1}}, "series": {"b": {"log_every": 1}}, "order": ["b"], "seeds": [0]}

_FORMS: dict[str, dict[str, Any]] = {
  "auto": {
    **_SCALARS,
    "number for a set": {"digits": 3},
    "number for a size": {"digits": {"1": 3}},
    "word for a size": {"digits": {"one": {"method/image_lr": 1.0}}},
    "list for a table": {"*": [1]},
    "unknown section": {"*": {"*": {"metod/image_lr": 1.0}}},
    "unknown key": {"*": {"*": {"ipcc": 1.0}}},
    "wrong type": {"*": {"*": {"tensorboard": "abc"}}},
    "endless": {"digits": {"1": {"steps": 10**5000}}},
  },
  "sweep": {
    **_SCALARS,
    "no series": {"groups": {"a": {}}},
    "number for groups": _SWEEP | {"groups": 3},
    "number for a group": _SWEEP | {"groups": {"a": 3}},
    "list for series": _SWEEP | {"series": ["b"]},
    "word for seeds": _SWEEP | {"seeds": "abc"},
    "negative seed": _SWEEP | {"seeds": [-1]},
    "NaN for a seed": _SWEEP | {"seeds": [float("nan")]},
    "seed twice": _SWEEP | {"seeds": [0, 0]},
    "unknown in order": _SWEEP | {"order": ["c"]},
    "order twice": _SWEEP | {"order": ["b", "b"]},
    "number for order": _SWEEP | {"order": 3},
    "unknown key": _SWEEP | {"groups": {"a": {"metod/image_lr": 1}}},
    "unknown axis": _SWEEP | {"axes": {"a": {}}},
    "sweep in a sweep": _SWEEP | {"groups": {"a": {"sweep": 1}}},
    "through a number": _SWEEP | {"groups": {"a": {"seed/x": 1}}},
    "wrong type": _SWEEP | {"groups": {"a": {"seed": "abc"}}},
    "group name outside": _SWEEP | {"groups": {"../../x": {"seed": 1}}},
    "group name with a line break": _SWEEP | {"groups": {"a\nb": {"seed": 1}}},
    "group name empty": _SWEEP | {"groups": {"": {"seed": 1}}},
    "two groups of one name": _SWEEP | {"groups": {"A b": {"seed": 1}, "ab": {"seed": 1}}},
    "series name outside": _SWEEP | {"series": {"../x": {"seed": 1}}, "order": ["../x"]},
    "group name too long": _SWEEP | {"groups": {"x" * 300: {"seed": 1}}},
  },
  "arms": {
    **_SCALARS,
    "number for an arm": {"x": 3},
    "list for an arm": {"x": [1]},
    "no section": {"x": {"temperature": 3}},
    "section alone": {"x": {"method": 3}},
    "unknown section": {"x": {"metod/name": "kd"}},
    "unknown option": {"x": {"method/temprature": 3}},
    "number for a name": {"x": {"method/name": 3}},
    "list for a name": {"x": {"method/name": ["kd"]}},
    "own name": {"kd": {"method/name": "ce"}},
    "NaN": {"x": {"method/temperature": float("nan")}},
    "endless": {"x": {"method/temperature": 10**5000}},
    "deep": {"x": {"method/temperature/x": 3}},
    "empty name": {"": {"method/name": "ce"}},
    "name with a line break": {"a\nb": {"method/name": "ce"}},
  },
  "order": {
    **_SCALARS,
    "unknown": ["kd", "ce", "x"],
    "twice": ["kd", "kd", "ce"],
    "missing": ["kd"],
    "dict": {"kd": 1},
    "mixed": ["kd", 3],
    "nested": [["kd", "ce"]],
  },
  "tune": {
    **_SCALARS,
    "unknown arm": {"kdd": {"method/temperature": [1.0]}},
    "number for a grid": {"kd": 3},
    "empty grid": {"kd": {}},
    "no values": {"kd": {"method/temperature": []}},
    "NaN": {"kd": {"method/temperature": [float("nan")]}},
    "dict for values": {"kd": {"method/temperature": {"a": 1}}},
    "unknown option": {"kd": {"method/temprature": [1.0]}},
    "deep": {"kd": {"method/temperature/x": [1.0]}},
  },
  "committee": {
    **_SCALARS,
    "number for a teacher": {"x": 3},
    "students' section": {"x": {"method/name": "kd"}},
    "unknown option": {"x": {"teacher/widhts": [3]}},
    "wrong type": {"x": {"teacher/widths": "abc"}},
    "endless": {"x": {"teacher/widths": [10**5000]}},
  },
  "published": _SCALARS,
  "parallel": _SCALARS,
  "method": _SCALARS,
  "task": _SCALARS,
}
_EVAL: dict[str, Any] = {
  "models": [[], 3, {"a": 1}, ["mlp", "mlp"], [["mlp"]], "nope", "", [None]],
  "sets": [[3], {"a": 1}, ["distilled", "distilled"], "nope", [None]],
  "control_lrs": [[], "abc", ["abc"], [0.0], [-1.0], [float("nan")], [float("inf")], {"a": 1}, [10**400]],
  "augment": [3, "flop", "", "flip_flop", ["flip"], "none_flip"],
  "seeds": [0, -1, 1.5, "abc", [1], 10**400],
}
_STAGES = [[], "", 3, "nope", ["report", "export"], ["distill", "distill"], {"a": 1}, [["distill"]], [None], [3]]
_DATA_FAMILY = ("auto", "sweep", "published", "parallel", "method", "task")  # the others are of students


def cases() -> Iterator[Case]:
  """Each form for the families that have the section."""
  for section, forms in _FORMS.items():
    for experiment in ("datm", "kd") if section in _DATA_FAMILY else ("kd",):
      for what, value in forms.items():
        yield _case(experiment, section, what, value)
  for key, values in _EVAL.items():
    for number, value in enumerate(values):
      yield _case("datm", f"eval.{key}", str(number), value)
  for section in ("eval", "model", "teacher_train", "teachers", "unroll"):
    for what, value in _SCALARS.items():
      yield _case("datm", section, what, value)
  for section in ("student", "teacher", "train", "data_policy", "teacher_method"):
    for what, value in _SCALARS.items():
      yield _case("kd", section, what, value)
  for experiment in ("datm", "kd", "sre2l"):
    for number, value in enumerate(_STAGES):
      yield _case(experiment, "stages", str(number), value)
  for section in ("auto", "sweep", "arms", "order", "stages", "published", "eval", "method"):
    for text in ("3", "abc", "(1,2)"):
      yield Case(f"form/command/{section}/{text}", "form", functools.partial(_override, section, text), (section,))


def _case(experiment: str, key: str, what: str, value: Any) -> Case:
  name = key.rpartition(".")[2]
  words = (name, "config.sweep") if name == "sweep" else (name,)
  return Case(f"form/{experiment}/{key}/{what}", "form", functools.partial(_start, experiment, key, value), (words,))


def _start(experiment: str, key: str, value: Any, place: Path) -> Action:
  config = config_of(experiment)
  if key == "arms":
    config |= {"order": None, "reference": None}  # which would be refused first
  return python(changed(config, key, value), place)


def _override(section: str, text: str, place: Path) -> Action:
  return tiny("kd" if section in ("arms", "order") else "datm", place, f"{section}={text}")
