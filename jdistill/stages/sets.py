"""The training sets that stage `evaluate` compares: the distilled one, real images, the initialisation, full data."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jdistill import augment, catalog
from jdistill.base import View
from jdistill.evaluation import Protocol, augmentation_robust_score, embeddings, label_robust_score
from jdistill.jobs import networks, trajectories
from jdistill.runs.run import Run
from jdistill.selection import CHOICES, Evidence, select
from jdistill.stages import build, distill, labels, real_images, relabel
from jdistill.stages.labels import Labels
from jdistill.synthetic import expert_label_logits, random_real

OWN = "distilled"
HARD = "distilled_hard"
FULL = "full_data"
RELABELLED = "relabelled"  # the kind of labels that section `relabel` gives the distilled set
KINDS = labels.KINDS  # others that the same images may be given in the same training
_AGAIN = "_reaugmented"  # the same set under `eval.other_augment`
_SHOWN = {
  "k_center": "k-center",
  "k_means": "k-means",
  "graph_cut": "graph cut",
  "facility_location": "facility location",
}
_GUIDED = ("graph_cut", "facility_location")  # by the last-layer gradients of the first teacher
_WORDS = {
  "hard": "hard labels",
  "soft": "teachers' soft labels",
  RELABELLED: "stored labels as the set's",
  "one_hot": "hard labels in the training with stored ones",
  "float16": "stored soft labels",
  "dbr": "two stored distances per image (DBR)",
  "online": "labels of teachers that are asked in training",
}
REAL = tuple(f"{choice}_{kind}" for choice in CHOICES for kind in ("hard", "soft"))
_STORED = tuple(f"{choice}_{RELABELLED}" for choice in (*CHOICES, *_GUIDED))
CONTROLS = (*REAL, *_STORED)  # the best of these is what the set is compared with
_REAUGMENTED = tuple(name + _AGAIN for name in (OWN, "random_hard", "random_soft", f"random_{RELABELLED}"))
LABELS = {OWN: "distilled", HARD: "the distilled images, hard labels"}
LABELS |= {f"{OWN}_{kind}": f"the distilled images, {_WORDS[kind]}" for kind in KINDS}
LABELS |= {
  f"{choice}_{kind}": f"{_SHOWN.get(choice, choice)} real images, {words}"
  for choice in (*CHOICES, *_GUIDED)
  for kind, words in _WORDS.items()
}
LABELS |= {"initial": "the initialisation", FULL: "full data"}
LABELS |= {name: f"{LABELS[name.removesuffix(_AGAIN)]}, other augmentation" for name in _REAUGMENTED}


class Set(NamedTuple):
  """One set to train on.

  Attributes:
    images, labels: of the set.
    protocol: how networks are trained on it.
    lr: learning rate; `None` asks for a choice on validation images.
    rates: what is tried beside `eval.control_lrs`.
    used: positions of real images that validation must not contain.
    records: makes the labels that networks are trained on instead, by stage `relabel`.
    view: what networks are shown in the place of each image; `None` for the image.
    seconds: that the choice of the images took.
  """

  images: np.ndarray
  labels: np.ndarray
  protocol: Protocol
  lr: float | None = None
  rates: tuple[float, ...] = ()
  used: Sequence[int] = ()
  records: Callable[[], Labels] | None = None
  view: View | None = None
  seconds: float = 0.0


def reaugmented(name: str) -> str:
  """What a set is called under the other augmentation."""
  return name + _AGAIN


def drawn_anew(name: str) -> bool:
  """Whether every network gets other images of this set."""
  return name.startswith("random_")


def has_records(out: Mapping[str, Any]) -> bool:
  """Whether networks are trained on the labels of stage `relabel`."""
  return "relabel" in out["stages"]


def applicable(out: Mapping[str, Any]) -> tuple[list[str], list[str]]:
  """`(what is compared where nothing is asked for, all that can be)`.

  Soft labels need teachers, stored ones the stage `relabel`.
  """
  if has_records(out):
    plain = [OWN, HARD, "random_hard", f"random_{RELABELLED}", FULL]
    real = [f"{choice}_{kind}" for choice in (*CHOICES, *_GUIDED) for kind in ("hard", RELABELLED, *KINDS)]
    again = [name for name in _REAUGMENTED if "soft" not in name]
    return plain, list(dict.fromkeys([*plain, *(f"{OWN}_{kind}" for kind in KINDS), *real, *again]))
  taught = "teachers" in out["stages"] or catalog.row(out["method"]["name"]).asks_teachers
  kinds = ("_hard", "_soft") if taught else ("_hard",)
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
  if (chosen := real_images.positions(run)) is not None:
    return chosen
  own = {image.tobytes() for image in np.asarray(distill.load(run, "initial").images)}
  return np.flatnonzero([image.tobytes() in own for image in np.asarray(run.task().teacher.x)])


def protocol(e: Mapping[str, Any], *, cells: int = 1, other: bool = False) -> Protocol:
  """How networks are trained on a set, by the section `eval`.

  Args:
    e: the section.
    cells: into how many an image of the set is divided along an axis.
    other: whether `eval.other_augment` stands in the place of all that the section does to a batch.
  """
  whole = {"cells": cells, "crop_scale": e["crop_scale"], "mirror": e["flip"]}
  own = augment.of_protocol(e["other_augment"]) if other else augment.of_protocol(e["augment"], **whole)
  names = ("epochs", "batch_size", "momentum", "weight_decay", "loss", "optimizer", "schedule", "decay_all")
  return Protocol(**{name: e[name] for name in names}, augment=own)


def split(name: str) -> tuple[str, str]:
  """`(images, kind of labels)` of the name of a set, as in `("k_center", "hard")`; `(name, "")` of other sets."""
  for kind in _WORDS:
    if name.endswith(f"_{kind}"):
      return name.removesuffix(f"_{kind}"), kind
  return name, ""


class Sets:
  """The sets of one run, made when they are asked for."""

  def __init__(self, run: Run):
    """Args:
    run: whose stages before `evaluate` are finished.
    """
    e = run.config["eval"]
    self._run, self._soften = run, None
    self._plain, self._other = protocol(e), protocol(e, other=True)
    self._gridded = protocol(e, cells=e["cells"])  # of what was learned; other images are whole
    self._view = augment.view(e["view"]).view  # of what was learned, and of its start
    self._used = functools.cache(lambda: started_from(run))
    self._own, self._initial = distill.load(run, "distilled"), distill.load(run, "initial")
    self._evidence = functools.cache(self._evidence_for)
    # networks of one set are trained one after another: what they share is made once, and nothing large is kept on
    self._chosen, self._recorded = functools.lru_cache(8)(self._choice), functools.lru_cache(1)(self._record)

  def make(self, name: str, seed: int) -> Set:
    """A set by name, for the network of one seed."""
    again = name.endswith(_AGAIN)
    made = self._made(name.removesuffix(_AGAIN), seed, self._run.config["eval"]["other_augment"] if again else None)
    own = self._gridded if name in (OWN, HARD) else self._plain
    return made._replace(protocol=self._other if again else own)._replace(**self._full(name))

  def _full(self, name: str) -> dict[str, Any]:
    if name != FULL:
      return {}
    e = self._run.config["eval"]
    return {"protocol": self._plain._replace(epochs=e["full_epochs"], batch_size=e["full_batch_size"])}

  def _made(self, name: str, seed: int, other: str | None) -> Set:
    """`other`: the augmentation in the place of the section's own, for stored labels."""
    real, own, initial = self._run.task().teacher, self._own, self._initial
    if name == OWN:
      return self._distilled(other)
    if name == HARD:
      return Set(own.images, self._hard(), self._plain, used=self._used(), view=self._view)
    if name == "initial":
      return Set(initial.images, initial.labels, self._plain, used=self._used(), view=self._view)
    if name == FULL:
      return Set(real.x, real.y, self._plain, self._run.config["eval"]["full_lr"])
    images, kind = split(name)
    if images == OWN:
      return self._with_records(Set(own.images, own.labels, self._plain), OWN, 0, kind, other)
    one, drawn = self._chosen(images, seed if drawn_anew(name) else 0), seed if drawn_anew(name) else 0
    if kind == "soft":
      self._soften = self._soften or soft_labels(self._run)
      return one._replace(labels=self._soften(one.images, one.labels))
    return one if kind == "hard" else self._with_records(one, images, drawn, kind, other)

  def _distilled(self, other: str | None) -> Set:
    run, own = self._run, self._own
    if has_records(run.config):
      found = Set(own.images, own.labels, self._plain)
      return self._with_records(found, OWN, 0, RELABELLED, other)
    rate, chosen = float(own.lr), run.config["eval"]["choose_lr"]
    if not chosen:
      return Set(own.images, own.labels, self._plain, rate, view=self._view)
    tried = (float(f"{rate:.6g}"),)  # one of the controls' own is not tried twice for float32's sake
    return Set(own.images, own.labels, self._plain, rates=tried, used=self._used(), view=self._view)

  def _with_records(self, one: Set, images: str, seed: int, kind: str, other: str | None) -> Set:
    """The set with labels by the section `relabel`, whose learning rate is theirs; made once for all networks."""
    found = functools.partial(self._recorded, images, seed, kind, other)
    return one._replace(lr=self._run.config["relabel"]["lr"], records=found)

  def _record(self, images: str, seed: int, kind: str, other: str | None) -> Labels:
    own = None if kind == RELABELLED else kind
    if images == OWN:
      if own is None and other is None:
        return relabel.load(self._run)
      return relabel.record_again(self._run, kind=own, augment=other)
    one, key = self._chosen(images, seed), jax.random.fold_in(self._run.key("random records"), seed)
    return relabel.record(self._run, one.images, one.labels, key, kind=own, augment=other, real=True)

  def _hard(self) -> np.ndarray:
    """Integer labels of the distilled images, which lie class by class."""
    labels = np.asarray(self._own.labels)
    size = len(labels) // self._run.task().num_classes
    return labels if labels.ndim == 1 else (np.arange(len(labels)) // size).astype(np.int32)

  def _choice(self, choice: str, seed: int) -> Set:
    """Real images; `seed` counts for those that are drawn anew."""
    c, task = self._run.config, self._run.task()
    evidence, before = (None, 0.0) if choice == "random" else self._evidence(choice in _GUIDED)
    begin = time.monotonic()
    rng = np.random.default_rng((c["seed"], 3, *([seed] if choice == "random" else [])))
    if choice == "random":
      picked = random_real(rng, task.teacher.y, c["ipc"], task.num_classes)
    else:
      picked = select(rng, choice, evidence, per_class=c["ipc"]).index
    images, own = task.teacher.x[picked], task.teacher.y[picked]
    return Set(images, own, self._plain, used=picked, seconds=before + time.monotonic() - begin)

  def _evidence_for(self, guided: bool) -> tuple[Evidence, float]:
    """What selectors know of the real images, and the seconds that it took.

    That is their pixels, or the features and logits of the first teacher.
    """
    real, begin = self._run.task().teacher, time.monotonic()
    if not guided:
      return Evidence(real.y, real.x), 0.0
    found = networks.own(self._run)
    features = embeddings(found.networks[0], found.variables[0], real.x)
    return Evidence(real.y, features, networks.logits(found, real.x)[0]), time.monotonic() - begin


def ranking(arms: Mapping[str, Mapping[str, Any]], metric: str) -> dict[str, list[float]]:
  """DD-Ranking's scores by name, one figure per network, as far as their sets are there.

  Args:
    arms: sets by name, with one accuracy per network under `scores`.
    metric: that of `scores`.
  """
  scores = {name: arm["scores"][metric] for name, arm in arms.items() if "scores" in arm and "failed" not in arm}
  soft = arms.get(OWN, {}).get("label_bytes", 1) > arms.get(HARD, {}).get("label_bytes", 0)
  # random images with labels like the set's
  kinds = (f"random_{RELABELLED}", "random_soft", "random_hard") if soft else ("random_hard",)
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
