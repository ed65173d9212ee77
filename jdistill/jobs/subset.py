"""What the sections `select`, `proxy` and `proxy_train` of an arm say."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np

from jdistill import schema, selection
from jdistill.base import UserError
from jdistill.config import Named, Plain, sections
from jdistill.config.arms import SELECTED
from jdistill.config.common import TRAIN
from jdistill.data.policies import Chosen
from jdistill.jobs import networks
from jdistill.runs.run import Run
from jdistill.schema import Above, Count, Range
from jdistill.selection.corpus import kept_of
from jdistill.selection.select import RULES, check

MOST_RUNS = 1000


class Common(NamedTuple):
  """What the section `select` holds beside the options of a selector."""

  fraction: Annotated[float, Above(0), Range(high=1)] | None = 0.1
  per_class: Count | None = None
  balanced: bool = True
  runs: Annotated[int, Range(0, MOST_RUNS)] = 1
  at_epoch: Count | None = None
  reference: Annotated[float, Range(0, 0.9)] = 0.0
  rollouts: Annotated[int, Range(2, 64)] = 4


COMMON = schema.fields(Common)
SECTIONS = {
  "select": Named(
    lambda: list(RULES),
    lambda name: COMMON | schema.fields(RULES[name].choose),
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
  return bool(set(needs(arm)) & {"features", "logits", "history"}) and arm["select"]["runs"] > 0


def budget(arm: Mapping[str, Any]) -> dict[str, Any]:
  """`fraction` or `per_class`, as selectors take them."""
  own = arm["select"]
  return {"fraction": own["fraction"]} if own["per_class"] is None else {"per_class": own["per_class"]}


def kept(run: Run, arm: Mapping[str, Any], seed: int = 0) -> int:
  """How many examples the student of a seed keeps.

  Raises:
    UserError: a class would keep nothing, or has fewer examples than asked, or its selector cannot choose so many.
  """
  return sum(check(arm["select"]["name"], labels_of(run, arm, seed), **options_for(run, arm)).values())


def options(arm: Mapping[str, Any]) -> dict[str, Any]:
  """The keyword arguments of `jdistill.selection.select` that an arm asks for."""
  own = arm["select"]
  others = {name: value for name, value in own.items() if name != "name" and name not in COMMON}
  return {"balanced": own["balanced"], **budget(arm), **others}


def has_chunks(run: Run, arm: Mapping[str, Any]) -> bool:
  """Whether examples are chunks of a corpus: they have a label per token, and are chosen as one class."""
  return run.task(arm["task"]).kind == "tokens"


def options_for(run: Run, arm: Mapping[str, Any]) -> dict[str, Any]:
  """`options`, in which a fraction of chunks has become their number, `floor(fraction n)`.

  Raises:
    UserError: that is none of them.
  """
  own = options(arm)
  if "fraction" not in own or not has_chunks(run, arm):
    return own
  fraction, size = own.pop("fraction"), len(pool(run, arm))
  if not (count := kept_of(size, fraction)):
    raise UserError(f"select.fraction={fraction}: keeps none of {size} chunks; raise it")
  return own | {"per_class": count}


def set_aside(run: Run, arm: Mapping[str, Any]) -> np.ndarray:
  """Positions of the chunks that a reference is trained on, a uniform draw of the run's seed; ascending.

  Responses to the same question stay together: a share of the questions is drawn.
  """
  data = run.task(arm["task"]).data
  group = np.asarray(data.extra["question"] if "question" in data.extra else np.arange(len(data.ids)))
  groups = np.unique(group)
  count = kept_of(len(groups), arm["select"]["reference"])
  drawn = np.random.default_rng((run.config["seed"], 53)).permutation(len(groups))[:count]
  return np.flatnonzero(np.isin(group, groups[drawn]))


def pool(run: Run, arm: Mapping[str, Any]) -> np.ndarray:
  """Positions of the chunks that may be chosen, ascending: all that are not set aside."""
  return np.setdiff1d(np.arange(len(run.task(arm["task"]).data.ids)), set_aside(run, arm))


def labels_of(run: Run, arm: Mapping[str, Any], seed: int) -> np.ndarray:
  """The labels of the examples of one student that may be chosen."""
  task = run.task(arm["task"])
  if has_chunks(run, arm):
    return np.zeros(len(pool(run, arm)), np.int32)
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
