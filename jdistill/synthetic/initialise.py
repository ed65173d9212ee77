"""How a synthetic set starts: real images that an expert knows, and labels that experts give them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from jdistill.base import UserError
from jdistill.schema import Count, Positive, validated
from jdistill.selection.clusters import check_clusters, representative
from jdistill.synthetic.set import SyntheticSet

Embed = Callable[[np.ndarray], np.ndarray]  # images -> features [n, width]
ExpertLogits = Callable[[np.ndarray, Iterable[int]], np.ndarray]  # (images, experts) -> [experts, n, classes]


def random_real(rng: np.random.Generator, labels: np.ndarray, ipc: int, num_classes: int) -> np.ndarray:
  """Positions `[num_classes * ipc]` of random real images, class by class, without repetition.

  Args:
    rng: decides which.
    labels: `[n]` integer labels of the real images.
    ipc: images per class.
    num_classes: number of classes.

  Raises:
    UserError: a class has fewer than `ipc` images.
  """
  return _first_per_class(rng.permutation(len(labels)), labels, np.ones(len(labels), bool), ipc, num_classes)


def correctly_predicted(
  rng: np.random.Generator, logits: np.ndarray, labels: np.ndarray, ipc: int, num_classes: int
) -> np.ndarray:
  """Positions `[num_classes * ipc]` of real images that the first expert able to do so classifies correctly.

  For each class the shuffled images are walked with expert 0; only when those it gets right are used up does the walk
  go on with the next expert.

  Args:
    rng: decides the walk.
    logits: `[experts, n, classes]`, last snapshots on all real images.
    labels: `[n]`.
    ipc: images per class.
    num_classes: number of classes.

  Raises:
    UserError: all experts together get fewer than `ipc` images of a class right.

  References:
    Guo et al. (arXiv 2310.05773), sec. 3.3; `samples_predicted_correctly` in the released settings.
  """
  order = rng.permutation(len(labels))
  right = logits.argmax(-1) == labels[None]  # [experts, n]
  # the expert that admits an image first; images nobody gets right come last and are refused
  admitted = np.where(right.any(0), right.argmax(0), len(right))
  order = order[np.argsort(admitted[order], kind="stable")]
  return _first_per_class(order, labels, right.any(0), ipc, num_classes)


def _first_per_class(order, labels, allowed, ipc: int, num_classes: int) -> np.ndarray:
  picked = []
  for label in range(num_classes):
    own = order[(labels[order] == label) & allowed[order]]
    if len(own) < ipc:
      raise UserError(
        f"ipc={ipc}: class {label} has only {len(own)} usable images of {int((labels == label).sum())}; "
        "lower ipc, train the experts longer, or set method.initial='real'"
      )
    picked.append(own[:ipc])
  return np.concatenate(picked)


def expert_label_logits(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Label logits of each image: the mean over the experts that classify it correctly of their logits.

      y_i = sum_k 1[argmax L_ki = label_i] L_ki / sum_k 1[argmax L_ki = label_i]

  Where no expert is right the mean is over all of them, and the right class's logit changes places with the largest, so
  that the label still names its class.

  Args:
    logits: `[experts, m, classes]` of the last snapshots on the initial images; raw, no temperature.
    labels: `[m]` the images' classes.

  Returns:
    `[m, classes]` float32.

  References:
    Guo et al. (arXiv 2310.05773), sec. 3.3.
  """
  right = (logits.argmax(-1) == labels[None]).astype(np.float64)[..., None]  # [experts, m, 1]
  count = right.sum(0)
  some = count[:, 0] > 0
  mean = np.where(some[:, None], (right * logits).sum(0) / np.maximum(count, 1), logits.mean(0, dtype=np.float64))
  rows = np.flatnonzero(~some)
  wrong = mean[rows].argmax(-1)
  mean[rows, labels[rows]], mean[rows, wrong] = mean[rows, wrong], mean[rows, labels[rows]]
  return mean.astype(np.float32)


_MOSAICS = {"mosaic2": 2, "mosaic3": 3}


def mosaics(
  rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, ipc: int, num_classes: int, side: int
) -> tuple[np.ndarray, np.ndarray]:
  """Images `[num_classes * ipc, ...]` of `side x side` tiles, random real images of one class made smaller, and labels.

  Of every `side` rows and columns of a real image one is kept, as in the released code of NCFM.

  Args:
    rng: decides which images.
    images: `[n, height, width, channels]`, whose height and width `side` divides.
    labels: `[n]`.
    ipc: mosaics per class.
    num_classes: number of classes.
    side: tiles along an axis.

  Raises:
    UserError: a class has fewer than `side^2 ipc` images, or `side` does not divide the images.
  """
  _check_tiles(side, images.shape[1:])
  count, (height, width) = side**2, images.shape[1:3]
  least = int(np.bincount(labels, minlength=num_classes).min())
  if least < ipc * count:
    raise UserError(
      f"method.initial='mosaic{side}': needs {count} real images for each of ipc={ipc}, and a class has only {least}; "
      "lower ipc, or set method.initial='real'"
    )
  picked = random_real(rng, labels, ipc * count, num_classes)
  tiles = images[picked][:, ::side, ::side].reshape(-1, side, side, height // side, width // side, images.shape[-1])
  return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(-1, *images.shape[1:]), labels[picked[::count]]


def _check_tiles(side: int, image_shape: tuple[int, ...]) -> None:
  if any(size % side for size in image_shape[:2]):
    raise UserError(
      f"method.initial='mosaic{side}': images of {image_shape[0]} x {image_shape[1]} pixels cannot be made of {side} x "
      f"{side} equal tiles; set method.initial='real'"
    )


class Budget(NamedTuple):
  """What becomes of the images per class that a set may cost.

  Attributes:
    start: images per class of the starting set.
    trained_on: images per class that networks are trained on.
  """

  start: int
  trained_on: int


class Start(NamedTuple):
  """How a synthetic set starts, as `start` makes it.

  Attributes:
    make: `(images, labels, *, ipc, num_classes, seed, expert_logits, experts, embed, teacher_logits, class_maps) ->
      SyntheticSet` before the first step, on the host: from real images `[n, height, width, channels]` in network space
      and their labels `[n]`, `ipc` of each class, which `seed` decides. `expert_logits` are the last snapshots of some
      of the `experts` on some images, `embed` gives a teacher's features, `teacher_logits` and `class_maps` are those
      of `jdistill.synthetic.patches.Judges`; `None` where a run has no such teachers. Raises `UserError` where a class
      has fewer than `ipc` images, or fewer that all experts together get right.
    empty: `(ipc, num_classes, image_shape, width) -> SyntheticSet` of the same form without any image, for plans;
      `width` is that of a teacher's features.
    check: as `Feed.check`; refuses what needs experts where there are none, soft labels of noise, and hard ones that a
      method should learn.
    reals: how many real images go into each.
    candidates: `(labels [n], ipc, num_classes) -> None`, refuses real images that are too few to choose from.
    keeps: `(images per class) -> real images per class` that a method is given, where it is given chosen ones; `None`
      for methods that look at all.
    budget: `(images per class that are paid for, num_classes, teachers) -> Budget`. Raises `UserError` where nothing
      can be stored for so little.
  """

  make: Callable[..., SyntheticSet]
  empty: Callable[[int, int, tuple[int, ...]], SyntheticSet]
  check: Callable[[Mapping[str, Any], Mapping[str, Any] | None], None]
  reals: int = 1
  candidates: Callable[[np.ndarray, int, int], None] = lambda labels, ipc, num_classes: None
  keeps: Callable[[int], int] | None = None
  budget: Callable[[int, int, int], Budget] = lambda ipc, num_classes, teachers: Budget(ipc, ipc)


@validated("method")
def start(
  *,
  initial: Literal["correct", "real", "noise", "representative", "mosaic2", "mosaic3"] = "correct",
  clusters: Count | None = None,
  labels: Literal["soft", "hard"] = "soft",
  lr_init: Positive = 0.01,
) -> Start:
  """How a synthetic set starts.

  Args:
    initial: from `"correct"`, real images that an expert classifies correctly, `"real"`, any, `"noise"`, `N(0, 1)` in
      network space, `"representative"`, those nearest to the centres of clusters in the logits of the first expert, or
      `"mosaic2"` or `"mosaic3"`, images each made of four or nine real ones (`mosaics`), for the view of the same name.
    clusters: per class, for `"representative"`; a divisor of the images per class, or `None` for as many as these.
    labels: `"soft"`, the logits that experts give to these images, or `"hard"`, their classes.
    lr_init: learning rate for training on the set, before it is learned.
  """

  def check(method: Mapping[str, Any], teacher_train: Mapping[str, Any] | None) -> None:
    if teacher_train is None and (initial == "correct" or labels == "soft") and initial != "noise":
      key, value, other = ("initial", initial, "real") if initial == "correct" else ("labels", labels, "hard")
      raise UserError(f"method.{key}={value!r}: this method has no experts to ask; set method.{key}={other!r}")
    if initial == "noise" and labels == "soft":
      raise UserError("method.initial='noise': experts give no labels to noise; set method.labels='hard'")
    if method.get("learn_labels") and labels == "hard":
      raise UserError("method.learn_labels=True: hard labels cannot be learned; set method.labels='soft'")
    if method.get("teacher_label") and labels == "hard":
      raise UserError("method.teacher_label=True: gives soft labels; set method.labels='soft'")
    if method.get("teacher_label") and method.get("learn_labels"):
      raise UserError("method.teacher_label=True: replaces the labels in every step; set method.learn_labels=False")

  def empty(ipc: int, num_classes: int, image_shape: tuple[int, ...], width: int = 0) -> SyntheticSet:
    del width
    check_clusters(clusters, ipc)
    _check_tiles(_MOSAICS.get(initial, 1), image_shape)
    classes = np.repeat(np.arange(num_classes, dtype=np.int32), ipc)
    own = np.eye(num_classes, dtype=np.float32)[classes] if labels == "soft" else classes
    return SyntheticSet(np.zeros((len(classes), *image_shape), np.float32), own, np.float32(lr_init))

  def make(images, classes, *, ipc: int, num_classes: int, seed: int, expert_logits: ExpertLogits, experts: int, **_):
    rng = np.random.default_rng((seed, 2))
    if expert_logits is None and (initial in ("correct", "representative") or labels == "soft"):
      raise UserError(
        f"method.initial={initial!r}, method.labels={labels!r}: need experts, of methods that match trajectories; set "
        "'real' and 'hard'"
      )
    if initial == "noise":
      blank = empty(ipc, num_classes, images.shape[1:])
      return blank._replace(images=rng.normal(size=blank.images.shape).astype(np.float32))
    if initial in _MOSAICS:
      made, picked = mosaics(rng, images, classes, ipc, num_classes, _MOSAICS[initial])
      own = expert_label_logits(expert_logits(made, range(experts)), picked) if labels == "soft" else picked
      return SyntheticSet(made, own, np.float32(lr_init))
    if initial == "real":
      picked = random_real(rng, classes, ipc, num_classes)
    elif initial == "representative":
      picked = representative(rng, expert_logits(images, [0])[0], classes, ipc, num_classes, clusters)
    else:
      picked = _known(images, classes, ipc, num_classes, seed, expert_logits, experts)
    own = classes[picked]
    if labels == "soft":
      own = expert_label_logits(expert_logits(images[picked], range(experts)), own)
    return SyntheticSet(images[picked], own, np.float32(lr_init))

  return Start(make, empty, check, _MOSAICS.get(initial, 1) ** 2)


def _known(images, labels, ipc: int, num_classes: int, seed: int, expert_logits: ExpertLogits, experts: int):
  """`correctly_predicted` by as few experts as it takes."""
  logits, refused = [], None
  for expert in range(experts):  # nearly always the first one is enough
    logits.append(expert_logits(images, [expert])[0])
    try:
      return correctly_predicted(np.random.default_rng((seed, 2)), np.stack(logits), labels, ipc, num_classes)
    except UserError as error:
      refused = error
  raise refused
