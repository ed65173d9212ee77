"""Arms: the method and its controls, each as a few keys that differ.

An arm is `{"method/name": "kd", "method/temperature": 4.0}`; everything else is the same for all arms, so that a
difference between two of them is a difference between methods. Grids and committees are made of the same paths.
"""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jdistill.base import UserError
from jdistill.config.resolve import checked_section
from jdistill.config.sections import Named, Plain
from jdistill.schema import near_matches

NO_START = "none"  # students start from new parameters
SELECTED = "selected"  # the data policy of what stage `select` chose
TEACHER_SECTIONS = ("teacher", "teacher_method", "teacher_train", "teacher_data_policy")
START_SECTIONS = ("start_method", "start_train", "start_data_policy")
SELECT_SECTIONS = ("select", "proxy", "proxy_train")


class Arms:
  """The sections that an arm may change, and how its paths are read.

  Attributes:
    sections: what each may hold, by name.
  """

  def __init__(self, sections: Mapping[str, Plain | Named], check: Callable[[str, dict, Mapping], None]):
    """Args:
    sections: see `sections`.
    check: `(prefix, arm, committee) -> None`, refuses what does not go together in an arm.
    """
    self.sections = dict(sections)
    self._check = check

  def expand(self, given: Mapping[str, Any], out: dict[str, Any]) -> None:
    """Replaces `arms`, `order`, `committee` and `tune` of a configuration by what they stand for, in place.

    Args:
      given: the configuration before defaults were filled in; an arm that names another method or network takes
        nothing from the options of the former.
      out: the resolved one.

    Raises:
      UserError: an unknown section, key or arm, or values that do not fit.
    """
    _check_mappings(given)
    out["committee"] = self.committee(given)
    out |= {name: self._resolved("", given, given.get("committee") or {})[name] for name in self.sections}
    out["arms"] = self._arms(given, out)
    out["order"] = list(out["arms"])
    if out["reference"] is not None and out["reference"] not in out["arms"]:
      raise UserError(f"reference={out['reference']!r}: no such arm{near_matches(out['reference'], out['arms'])}")
    out["tune"] = self._grids(given.get("tune") or {}, out["arms"])
    # arms that `order` leaves out may select, too
    selects = any(SELECTED in overrides.values() for overrides in (given.get("arms") or {}).values())
    if not selects and not any(arm.get("select") for arm in out["arms"].values()):
      for section in [name for name in SELECT_SECTIONS if name in self.sections]:
        _check_unread("", section, given.get(section) or {}, self.sections[section])

  def set_path(self, arm: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    """Sets `section/key` of an arm.

    Raises:
      UserError: there is no such section.
    """
    section, _, key = dotted.partition("/")
    if section not in self.sections or not key:
      raise UserError(f"{where}.{dotted}={value!r}: an arm may set {', '.join(f'{s}/KEY' for s in self.sections)}")
    arm[section] = (arm.get(section) or {}) | {key: value}

  def combinations(
    self, arm: Mapping[str, Any], grid: Mapping[str, list], where: str = "tune"
  ) -> list[tuple[dict[str, Any], dict]]:
    """All points of a grid, as `(what is set, the whole arm)`; `where` is for messages."""
    out = []
    for values in itertools.product(*grid.values()):
      one, chosen = copy.deepcopy(dict(arm)), dict(zip(grid, values, strict=True))
      for dotted, value in chosen.items():
        self.set_path(one, dotted, value, where)
      named = dict.fromkeys((*one["teachers"]["also"], one["patches"]["decoder"]))  # of the committee, checked before
      out.append((chosen, self._resolved(f"{where}: ", one, named)))
    return out

  def _resolved(self, prefix: str, raw: Mapping[str, Any], committee: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, section in self.sections.items():
      out[name] = checked_section(f"{prefix}{name}", raw.get(name), section, out)
      if name in START_SECTIONS and out["start_method"]["name"] == NO_START:
        out[name] = {"name": NO_START} if name == "start_method" else {}
    if not any(out.get(name, {}).get("name") == SELECTED for name in ("data_policy", "start_data_policy")):
      out |= {name: {} for name in SELECT_SECTIONS if name in out}
    self._check(prefix, out, committee)
    return out

  def _arm(self, label: str, overrides: Mapping[str, Any], given: Mapping[str, Any], room: str = "arms") -> dict:
    out = {name: copy.deepcopy(given.get(name)) for name in self.sections}
    for section in self.sections:
      name = overrides.get(f"{section}/name")
      if name is not None and name != (given.get(section) or {}).get("name"):
        # the options of another name mean nothing to this one
        common, own = getattr(self.sections[section], "common", {}), given.get(section) or {}
        out[section] = {"name": name} | {key: own[key] for key in common if key in own}
    for dotted, value in overrides.items():
      self.set_path(out, dotted, value, f"{room}.{label}")
    found = self._resolved(f"{room}.{label}: ", out, given.get("committee") or {})
    for dotted, value in overrides.items():
      section, _, key = dotted.partition("/")
      if section in SELECT_SECTIONS and not found["select"]:
        _check_unread(f"{room}.{label}: ", section, {key: value}, self.sections[section])
    return found

  def _arms(self, given: Mapping[str, Any], out: Mapping[str, Any]) -> dict[str, dict]:
    """The method's own arm and the controls, each with its sections whole."""
    controls = given.get("arms") or {}
    own = out["method"]["name"] if out["subject"] is None else out["subject"]
    if own in controls:
      raise UserError(f"arms.{own}: is the name of the method's own arm; call the control something else")
    for label in [own, *controls]:
      if not label.strip() or not label.isprintable():
        raise UserError(f"arms: {label!r} is no name of an arm; give one without line breaks")
    order = checked_order("order", given.get("order"), [own, *controls])
    return {label: self._arm(label, controls.get(label, {}), given) for label in order}

  def committee(self, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Additional teachers: the sections of each, whole.

    Raises:
      UserError: what is no section of a teacher, or has values that do not fit.
    """
    _check_mappings(given)
    found = {}
    for label, overrides in (given.get("committee") or {}).items():
      for dotted, value in overrides.items():
        if dotted.partition("/")[0] not in TEACHER_SECTIONS:
          raise UserError(
            f"committee.{label}.{dotted}={value!r}: a teacher may set "
            f"{', '.join(f'{name}/KEY' for name in TEACHER_SECTIONS)}"
          )
      whole = self._arm(label, overrides, given, "committee")
      found[label] = {section: whole[section] for section in TEACHER_SECTIONS}
    return found

  def _grids(self, tune: Mapping[str, Mapping], arms: Mapping[str, dict]) -> dict[str, dict[str, list]]:
    grids = {}
    for label, grid in tune.items():
      if label not in arms:
        raise UserError(f"tune.{label}: no such arm{near_matches(label, arms)}")
      grids[label] = {dotted: list(v) if isinstance(v, list | tuple) else [v] for dotted, v in grid.items()}
      if not grid:
        raise UserError(f"tune.{label}: empty; give keys and their values, or leave the arm out")
      for dotted, values in grids[label].items():
        if not values:
          raise UserError(f"tune.{label}.{dotted}: empty; give at least one value")
        if dotted.partition("/")[0] in (*TEACHER_SECTIONS, "teachers", "task"):
          raise UserError(f"tune.{label}.{dotted}: teachers and data are not searched; give every one of them an arm")
      self.combinations(arms[label], grids[label], f"tune.{label}")  # refuses what an arm would refuse
    return grids


def checked_order(key: str, order: Any, names: Sequence[str]) -> list[str]:
  """An order of names, in which each stands once; their own if it is `None` or empty.

  Raises:
    UserError: not a list, or of other names.
  """
  wanted = order or list(names)
  if not isinstance(wanted, list | tuple) or not all(isinstance(one, str) for one in wanted):
    raise UserError(f"{key}={wanted!r}: must be a list of names")
  if sorted(wanted) != sorted(names):
    raise UserError(f"{key}={list(wanted)}: must name every one of {sorted(names)} once")
  return list(wanted)


def _check_unread(prefix: str, section: str, values: Mapping[str, Any], known: Plain | Named) -> None:
  """Refuses values of a selection that nobody makes; the name that a section has by default asks for nothing."""
  usual = getattr(known, "default", None)
  usual = usual.get("name") if isinstance(usual, Mapping) else None
  for key, value in sorted(values.items(), key=lambda item: item[0] != "name"):
    if value is not None and not (key == "name" and value == usual):
      raise UserError(
        f"{prefix}{section}.{key}={value!r}: is read by data_policy.name={SELECTED!r} only; set that, too, or leave "
        "this out"
      )


def _check_mappings(given: Mapping[str, Any]) -> None:
  for section, example in (
    ("arms", "method/temperature"),
    ("tune", "method/temperature"),
    ("committee", "teacher/name"),
  ):
    if not isinstance(found := given.get(section) or {}, Mapping):
      raise UserError(f"{section}={found!r}: must be a section with keys of its own")
    for label, paths in found.items():
      if not isinstance(paths, Mapping):
        raise UserError(f"{section}.{label}={paths!r}: must be a mapping of paths such as {example!r}")
