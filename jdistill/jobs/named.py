"""Recipes and data policies of the sections that name them."""

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from jdistill import catalog
from jdistill.base import DataPolicy, UserError
from jdistill.config.arms import SELECTED
from jdistill.data.policies import Chosen
from jdistill.methods.knowledge import Recipe


def recipe_of(section: Mapping[str, Any]) -> Recipe:
  """The recipe of a section `method`, `teacher_method` or `start_method`; the same object for equal sections."""
  return _recipe(json.dumps(dict(section), sort_keys=True))


@functools.lru_cache(maxsize=64)
def _recipe(section: str) -> Recipe:
  options = json.loads(section)
  try:
    return catalog.row(options.pop("name")).build()(**options)
  except ValueError as error:  # of the pure functions that builders call, too
    raise UserError(str(error)) from error


def policy_of(
  section: Mapping[str, Any], chosen: Chosen | None = None, domains: tuple[str, ...] = ()
) -> Callable[[int, int], DataPolicy]:
  """A section `data_policy` as `(size, batch_size) -> DataPolicy`; the same object for equal arguments.

  Args:
    section: the name of the policy and its options.
    chosen: the subset of every student, for the policy of stage `select`.
    domains: names of the task's domains, for policies that take them.
  """
  if section["name"] != SELECTED:
    return functools.partial(_policy, json.dumps(dict(section), sort_keys=True), domains)
  options = {name: value for name, value in section.items() if name != "name"}
  return lambda size, batch_size: catalog.policy(SELECTED)(size, batch_size, chosen, **options)


@functools.lru_cache(maxsize=64)
def _policy(section: str, domains: tuple[str, ...], size: int, batch_size: int) -> DataPolicy:
  options = json.loads(section)
  builder = catalog.policy(options.pop("name"))
  own = {"domains": domains} if "domains" in inspect.signature(builder).parameters else {}
  return builder(size, batch_size, **own, **options)
