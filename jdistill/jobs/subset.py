"""What the sections `select`, `proxy` and `proxy_train` of an arm say."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np

from jdistill import schema, selection
from jdistill.config import Named, Plain, sections
from jdistill.config.arms import SELECTED
from jdistill.config.common import TRAIN
from jdistill.data.policies import Chosen
from jdistill.jobs import networks
from jdistill.runs.run import Run
from jdistill.schema import Above, Count, Range
from jdistill.selection.select import SELECTORS, check

MOST_RUNS = 1000


class Common(NamedTuple):
  """What the section `select` holds beside the options of a selector."""

  fraction: Annotated[float, Above(0), Range(high=1)] | None = 0.1
  per_class: Count | None = None
  balanced: bool = True
  runs: Annotated[int, Range(0, MOST_RUNS)] = 1
  at_epoch: Count | None = None


COMMON = schema.fields(Common)
SECTIONS = {
  "select": Named(
    lambda: list(SELECTORS),
    lambda name: COMMON | schema.fields(SELECTORS[name].choose),
    {"name": "random"},
    open=True,
    common=COMMON,
  ),
  "proxy": sections.network("student"),
  "proxy_train": Plain(TRAIN.fields | {"epochs": TRAIN.fields["epochs"]._replace(default=10)}),
}


def is_selected(arm: Mapping[str, Any]) -> bool:
  """Whether students of an arm train on what a selector chose."""
  return any(arm[f"{phase}data_policy"]["name"] == SELECTED for phase in networks.phases(arm))


def needs(arm: Mapping[str, Any]) -> tuple[str, ...]:
  """What the selector of an arm reads beside the labels."""
  return selection.needs(arm["select"]["name"], **options(arm))


def has_proxies(arm: Mapping[str, Any]) -> bool:
  """Whether networks are trained before the choice."""
  return bool(needs(arm)) and arm["select"]["runs"] > 0


def budget(arm: Mapping[str, Any]) -> dict[str, Any]:
  """`fraction` or `per_class`, as selectors take them."""
  own = arm["select"]
  return {"fraction": own["fraction"]} if own["per_class"] is None else {"per_class": own["per_class"]}


def kept(run: Run, arm: Mapping[str, Any], seed: int = 0) -> int:
  """How many examples the student of a seed keeps.

  Raises:
    UserError: a class would keep nothing, or has fewer examples than asked, or its selector cannot choose so many.
  """
  return sum(check(arm["select"]["name"], labels_of(run, arm, seed), **options(arm)).values())


def options(arm: Mapping[str, Any]) -> dict[str, Any]:
  """The keyword arguments of `jdistill.selection.select` that an arm asks for."""
  own = arm["select"]
  others = {name: value for name, value in own.items() if name != "name" and name not in COMMON}
  return {"balanced": own["balanced"], **budget(arm), **others}


def labels_of(run: Run, arm: Mapping[str, Any], seed: int) -> np.ndarray:
  """The labels of the examples of one student."""
  task = run.task(arm["task"])
  return np.asarray(task.data.y)[task.members(seed)]


def planned(run: Run, arm: Mapping[str, Any]) -> Chosen | None:
  """A choice of the right size for the first student, before anything is chosen; `None` where nothing is."""
  if not is_selected(arm):
    return None
  count = kept(run, arm)
  return Chosen(np.arange(count)[None], np.ones((1, count), np.float32))


def epoch_of(arm: Mapping[str, Any]) -> int:
  """After how many epochs proxies are asked."""
  return arm["select"]["at_epoch"] or arm["proxy_train"]["epochs"]


def members(run: Run, arm: Mapping[str, Any], seeds: Sequence[int]) -> np.ndarray:
  """`[seeds, n]` positions of the examples of each student."""
  task = run.task(arm["task"])
  return np.stack([task.members(seed) for seed in seeds])
