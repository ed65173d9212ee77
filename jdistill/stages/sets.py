"""The training sets that stage `evaluate` compares: the distilled one, real images, the initialisation, full data."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jdistill import augment
from jdistill.base import View
from jdistill.evaluation import Protocol, augmentation_robust_score, label_robust_score
from jdistill.selection import CHOICES, Evidence, select
from jdistill.stages import build, distill, networks, relabel, trajectories
from jdistill.stages.labels import Labels
from jdistill.stages.run import Run
from jdistill.synthetic import expert_label_logits, random_real

OWN = "distilled"
HARD = "distilled_hard"
FULL = "full_data"
_AGAIN = "_reaugmented"  # the same set under `eval.other_augment`
_SHOWN = {"k_center": "k-center", "k_means": "k-means"}
REAL = tuple(f"{choice}_{kind}" for choice in CHOICES for kind in ("hard", "soft"))
CONTROLS = (*REAL, "random_relabelled")  # the best of these is what the set is compared with
_REAUGMENTED = tuple(name + _AGAIN for name in (OWN, "random_hard", "random_soft"))
LABELS = {OWN: "distilled", HARD: "the distilled images, hard labels"}
LABELS |= {
  f"{choice}_{kind}": f"{_SHOWN.get(choice, choice)} real images, {words}"
  for choice in CHOICES
  for kind, words in (("hard", "hard labels"), ("soft", "teachers' soft labels"))
}
LABELS |= {
  "random_relabelled": "random real images, stored labels as the set's",
  "initial": "the initialisation",
  FULL: "full data",
}
LABELS |= {name: f"{LABELS[name.removesuffix(_AGAIN)]}, other augmentation" for name in _REAUGMENTED}


class Set(NamedTuple):
  """One set to train on.

  Attributes:
    images, labels: of the set.
    protocol: how networks are trained on it.
    lr: learning rate; `None` asks for a choice on validation images.
    rates: what is tried beside `eval.control_lrs`.
    used: positions of real images that validation must not contain.
    records: makes the teachers' labels that networks are trained on instead, by stage `relabel`.
    view: what networks are shown in the place of each image; `None` for the image.
  """

  images: np.ndarray
  labels: np.ndarray
  protocol: Protocol
  lr: float | None = None
  rates: tuple[float, ...] = ()
  used: Sequence[int] = ()
  records: Callable[[], Labels] | None = None
  view: View | None = None


def reaugmented(name: str) -> str:
  """What a set is called under the other augmentation."""
  return name + _AGAIN


def drawn_anew(name: str) -> bool:
  """Whether every network gets other images of this set."""
  return name.startswith("random_")


def applicable(out: Mapping[str, Any]) -> tuple[list[str], list[str]]:
  """`(what is compared where nothing is asked for, all that can be)`.

  Soft labels need teachers, stored ones the stage `relabel`.
  """
  if "relabel" in out:
    known = [OWN, HARD, "random_hard", "random_relabelled", FULL]
    return known, known
  kinds = ("_hard", "_soft") if "teachers" in out else ("_hard",)
  plain = [OWN, *(f"random{kind}" for kind in kinds), "initial", FULL]
  others = [name for name in (*REAL, *_REAUGMENTED) if name.removesuffix(_AGAIN).endswith((*kinds, OWN))]
  return plain, list(dict.fromkeys([*plain, HARD, *others]))


def soft_labels(run: Run) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
  """`(images, labels) -> label logits [n, classes]`, the mean over the teachers that classify an image correctly."""
  if build.row_of(run).keep == "trajectory":
    buffer, count = trajectories.ready(run), run.config["teachers"]["count"]
    logits = lambda images: trajectories.logits(run, buffer, images, range(count))  # noqa: E731
  else:
    found = networks.own(run)
    logits = lambda images: networks.logits(found, images)  # noqa: E731
  return lambda images, labels: expert_label_logits(logits(images), labels)


def started_from(run: Run) -> np.ndarray:
  """Positions of the real images that the set started from, which a choice must not be tested on."""
  own = {image.tobytes() for image in np.asarray(distill.load(run, "initial").images)}
  return np.flatnonzero([image.tobytes() in own for image in np.asarray(run.task().teacher.x)])


def protocol(e: Mapping[str, Any], augmentation: str) -> Protocol:
  """How networks are trained on a set, by the section `eval` and an augmentation by name."""
  own = augment.named(augmentation)
  return Protocol(e["epochs"], e["batch_size"], e["momentum"], e["weight_decay"], own, e["loss"], e["optimizer"])


class Sets:
  """The sets of one run, made when they are asked for."""

  def __init__(self, run: Run):
    """Args:
    run: whose stages before `evaluate` are finished.
    """
    e = run.config["eval"]
    self._run, self._soften = run, None
    self._plain, self._other = (protocol(e, e[key]) for key in ("augment", "other_augment"))
    self._view = augment.view(e["view"]).view  # of what was learned, and of its start
    self._used = functools.cache(lambda: started_from(run))
    self._own, self._initial = distill.load(run, "distilled"), distill.load(run, "initial")

  def make(self, name: str, seed: int) -> Set:
    """A set by name, for the network of one seed."""
    protocol = self._other if name.endswith(_AGAIN) else self._plain
    return self._made(name.removesuffix(_AGAIN), seed)._replace(protocol=protocol)._replace(**self._full(name))

  def _full(self, name: str) -> dict[str, Any]:
    if name != FULL:
      return {}
    e = self._run.config["eval"]
    return {"protocol": self._plain._replace(epochs=e["full_epochs"], batch_size=e["full_batch_size"])}

  def _made(self, name: str, seed: int) -> Set:
    c, real, own = self._run.config, self._run.task().teacher, self._own
    if name == OWN:
      return self._distilled()
    if name == HARD:
      return Set(own.images, self._hard(), self._plain, used=self._used(), view=self._view)
    if name == "initial":
      initial = self._initial
      return Set(initial.images, initial.labels, self._plain, used=self._used(), view=self._view)
    if name == FULL:
      return Set(real.x, real.y, self._plain, c["eval"]["full_lr"])
    choice, _, kind = name.rpartition("_")
    one = self._real(choice, seed)
    if kind == "soft":
      self._soften = self._soften or soft_labels(self._run)
      return one._replace(labels=self._soften(one.images, one.labels))
    if kind == "relabelled":
      key = jax.random.fold_in(self._run.key("random records"), seed)
      found = lambda: relabel.record(self._run, one.images, one.labels, key)  # noqa: E731
      return one._replace(lr=c["relabel"]["lr"], records=found)
    return one

  def _distilled(self) -> Set:
    run, own = self._run, self._own
    if "relabel" in run.config:
      return Set(own.images, own.labels, self._plain, run.config["relabel"]["lr"], records=lambda: relabel.load(run))
    rate, chosen = float(own.lr), run.config["eval"]["choose_lr"]
    if not chosen:
      return Set(own.images, own.labels, self._plain, rate, view=self._view)
    tried = (float(f"{rate:.6g}"),)  # one of the controls' own is not tried twice for float32's sake
    return Set(own.images, own.labels, self._plain, rates=tried, used=self._used(), view=self._view)

  def _hard(self) -> np.ndarray:
    """Integer labels of the distilled images, which lie class by class."""
    labels = np.asarray(self._own.labels)
    size = len(labels) // self._run.task().num_classes
    return labels if labels.ndim == 1 else (np.arange(len(labels)) // size).astype(np.int32)

  def _real(self, choice: str, seed: int) -> Set:
    c, task = self._run.config, self._run.task()
    rng = np.random.default_rng((c["seed"], 3, *([seed] if choice == "random" else [])))
    if choice == "random":
      picked = random_real(rng, task.teacher.y, c["ipc"], task.num_classes)
    else:
      picked = select(rng, choice, Evidence(task.teacher.y, task.teacher.x), per_class=c["ipc"]).index
    return Set(task.teacher.x[picked], task.teacher.y[picked], self._plain, used=picked)


def ranking(arms: Mapping[str, Mapping[str, Any]], metric: str) -> dict[str, list[float]]:
  """DD-Ranking's scores by name, one figure per network, as far as their sets are there.

  Args:
    arms: sets by name, with one accuracy per network under `scores`.
    metric: that of `scores`.
  """
  scores = {name: arm["scores"][metric] for name, arm in arms.items() if "scores" in arm and "failed" not in arm}
  soft = arms.get(OWN, {}).get("label_bytes", 1) > arms.get(HARD, {}).get("label_bytes", 0)
  kinds = ("random_soft", "random_hard") if soft else ("random_hard",)  # random images with labels like the set's
  kind = next((one for one in kinds if one in scores), None)
  found = {}
  if kind and {OWN, FULL, HARD} <= scores.keys():
    columns = zip(*(scores[name] for name in (OWN, kind, FULL, HARD)), strict=True)
    found["label_robust_score"] = [label_robust_score(*row) for row in columns]
  both = [OWN, kind, reaugmented(OWN), reaugmented(kind or "")]
  if kind and scores.keys() >= set(both):
    rows = zip(*(scores[name] for name in both), strict=True)
    found["augmentation_robust_score"] = [
      augmentation_robust_score(own_again - real_again, own - real) for own, real, own_again, real_again in rows
    ]
  return found
