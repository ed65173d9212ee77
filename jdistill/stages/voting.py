"""How several teachers are weighed against each other: the committee of a run, and what each of them is worth."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from jdistill import schema
from jdistill.base import UserError
from jdistill.config import sections
from jdistill.config.arms import TEACHER_SECTIONS, Arms
from jdistill.jobs import networks
from jdistill.jobs.sections import TEACHERS, check_train
from jdistill.models.predict import predict
from jdistill.runs.run import Run
from jdistill.schema import Above, near_matches
from jdistill.teachers.checks import check_knowledge


class Voting(NamedTuple):
  """What the teachers of a committee count: in the recovery of images, and in the labels."""

  prior: tuple[schema.Positive, ...] = ()
  label_weights: Literal["equal", "prior"] = "equal"
  temperature: Annotated[float, Above(0)] = 10.0


def _check_arm(prefix: str, arm: Mapping[str, Any], committee: Mapping[str, Any]) -> None:
  check_train(f"{prefix}teacher_train", arm["teacher_train"])


_ARMS = Arms({"model": sections.network()} | {name: TEACHERS[name] for name in TEACHER_SECTIONS}, _check_arm)


def complete(given: Mapping[str, Any], out: dict[str, Any]) -> None:
  """Fills in the committee of a configuration in place.

  Raises:
    UserError: a teacher that is not in it, or a prior for another number of teachers.
  """
  out["committee"] = _ARMS.committee(given)
  also, known = out["teachers"]["also"], out["committee"]
  for label in also:
    if label not in known:
      cure = near_matches(label, known) if known else ", which is empty; name its teachers there"
      raise UserError(f"teachers.also={also}: no teacher {label!r} in committee{cure}")
  if len(set(also)) < len(also):
    raise UserError(f"teachers.also={also}: names one of them twice; name each once")
  prior, count = out["voting"]["prior"], out["teachers"]["count"] + len(also)
  if prior and len(prior) != count:
    order = ", ".join(["the section teacher's", *also])
    raise UserError(
      f"voting.prior={tuple(prior)}: {len(prior)} numbers for {count} teachers; give one for each ({order}), or none "
      "to measure them on held-out examples"
    )


def check(run: Run) -> None:
  """Refuses a committee that is to be measured without examples for it."""
  several = sum(one.count for one in networks.specs(run)) > 1
  if several and not run.config["voting"]["prior"] and not len(run.task().validation.y):
    raise UserError(
      "voting.prior=(): is measured on held-out examples, and there are none; set validation_size, or give a number "
      "for each teacher"
    )


def prior(run: Run) -> np.ndarray:
  """`[teachers]` float32: what each is worth in percent, as configured, or its accuracy on the held-out examples.

  The paper takes the accuracy that a student reaches on what is distilled from this teacher alone (arXiv 2501.07575);
  such numbers are for `voting.prior`.
  """
  given = run.config["voting"]["prior"]
  if given:
    return np.asarray(given, np.float32)
  found = networks.own(run)
  if len(found.networks) == 1:
    return np.full(1, 100, np.float32)
  return run.once(("prior", found.hash), lambda: _measured(run, found))


def _measured(run: Run, found: networks.Teachers) -> np.ndarray:
  held_out, scores = run.task().validation, []
  for number, (network, variables) in enumerate(zip(found.networks, found.variables, strict=True)):
    logits = predict(network, variables, held_out.x)
    check_knowledge(logits, held_out.y, name=f"teacher {number}")
    scores.append(100 * np.mean(np.argmax(logits, -1) == held_out.y))
  return np.asarray(scores, np.float32)
