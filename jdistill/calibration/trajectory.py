"""Values for trajectory matching on a task that nobody tuned it for, measured on its training images alone.

In order: the network's width and the experts' rate and length from short trainings; augmentation from what an expert
makes of mirrored images; then, from the loss of matching an expert's segments before anything is learned, the inner
learning rate and steps, and the range of start epochs; at last the rates of images and labels from the scale of their
gradients, checked by a few steps of each.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jdistill.augment import named
from jdistill.calibration.lab import Book, Calibration, Choice, Lab
from jdistill.calibration.probe import Curve, Learner, Matcher
from jdistill.calibration.rates import choose_rates, inner_rate
from jdistill.data.subset import balanced_indices
from jdistill.synthetic import SyntheticSet

# what share of the time limit each part of a run may take; the rest is for reading data and for compilation
_SHARES = {"teachers": 0.12, "warm_up": 0.13, "distill": 0.29, "evaluate": 0.22}
_WIDTHS = (128, 64, 32, 16)
_EPOCH = 25  # steps of experts between two snapshots
_BATCH = 64  # images of an expert's step
_EPOCHS = 40  # the longest experts
RATES = (0.1, 0.05, 0.02, 0.01, 0.003, 0.001)  # of experts, and of inner steps
_INNER = (20, 40, 10)
_SPAN = 2  # epochs of a segment
_WANTED = 400  # outer steps that a set needs at least to become worth something
_HELD = 1000


def trajectory(lab: Lab) -> list[Choice]:
  """Chooses what is open of `datm` and `mtt`; see the module.

  The choices depend on the data, the seed, and, where a time limit is to be kept, on the speed of the machine; a run
  keeps those that it made.
  """
  book = Book(lab)
  learner, curve, lr = _experts(lab, book)
  matcher, alpha, segments = _matching(lab, book, learner, curve, lr)
  choose_rates(book, matcher, alpha, segments, lab.seconds * _SHARES["distill"])
  _warm_up(lab, book, curve)
  _evaluation(lab, book, curve)
  return book.choices


def _split(lab: Lab) -> tuple[np.ndarray, np.ndarray]:
  """Positions of images to learn from, and of held-out ones, equally many of each class."""
  least = int(np.bincount(lab.y, minlength=lab.num_classes).min())
  count = min(_HELD, max(1, least // 5) * lab.num_classes)
  held = balanced_indices(lab.y, count, lab.num_classes, seed=lab.seed, key="calibration")
  return np.setdiff1d(np.arange(len(lab.y)), held), held


def epoch_of(size: int) -> tuple[int, int]:
  """`(batch size, steps)` of an expert's epoch: 25 steps of at most 64 images, fewer where there are fewer images."""
  batch = int(np.clip(size // _EPOCH, min(8, size), _BATCH))
  return batch, int(np.clip(size // batch, 1, _EPOCH))


# -- experts ----------------------------------------------------------------------------------------------------------


def _experts(lab: Lab, book: Book) -> tuple[Learner, Curve, float]:
  free, held = _split(lab)
  parts = (lab.x[free], lab.y[free], lab.x[held], lab.y[held])
  key, options = jax.random.fold_in(jax.random.key(lab.seed), 17), {}

  def learner(augment: str) -> Learner:
    batch, steps = epoch_of(len(lab.y))
    return Learner(lab.network(options), *parts, steps=steps, batch_size=batch, augment=named(augment))

  if lab.is_open("model/depth"):
    options["depth"] = _depth(book, lab.x.shape[1:3])
  one = learner("none")
  first = one.train(key, RATES[1], 2)
  if lab.is_open("model/width"):
    wanted, reason = _width(lab, lab.value("model/width"), first.seconds_per_image)
    options["width"] = book.choose("model/width", wanted, reason)
    if wanted != lab.value("model/width"):
      one = learner("none")
  tried = {rate: one.train(key, rate, 3).loss for rate in RATES}
  shown = ", ".join(f"{rate:g}: {loss:.3f}" for rate, loss in tried.items())
  reason = f"half of the rate with the lowest held-out loss after 3 epochs ({shown}), for smooth experts"
  lr = book.choose("teacher_train/lr", min(tried, key=tried.get) / 2, reason)
  limit = lab.seconds * _SHARES["teachers"]
  curve = one.train(key, lr, _EPOCHS, seconds=limit)
  augment = _augment(book, one, curve)
  if augment != "none":
    one = learner(augment)
    curve = one.train(key, lr, _EPOCHS, seconds=limit)
  epochs, reason = _length(curve)
  epochs = book.choose("teacher_train/epochs", epochs, reason)
  _data_of_experts(lab, book)
  count = int(np.clip(limit / (epochs * one.steps * one.batch_size * curve.seconds_per_image), 2, 10))
  book.choose("teachers/count", count, f"as many as {_SHARES['teachers']:.0%} of the time allows, at most 10")
  return one, curve, lr


def _depth(book: Book, sides: tuple[int, ...]) -> int:
  """Blocks that halve the maps down to about four pixels."""
  depth = int(np.clip(round(float(np.log2(min(sides) / 4))), 1, 6))
  return book.choose("model/depth", depth, f"images of {sides[0]}x{sides[1]}, halved to about 4x4")


def _width(lab: Lab, width: int, seconds_per_image: float) -> tuple[int, str]:
  """The widest network with which enough outer steps fit into the time."""
  size = min(lab.ipc * lab.num_classes, max(lab.num_classes, 30))
  for wanted in _WIDTHS:
    needed = _WANTED * _INNER[0] * size * 4 * seconds_per_image * (wanted / width) ** 1.6
    if needed < lab.seconds * _SHARES["distill"]:
      return wanted, f"the widest with which {_WANTED} outer steps take less than {_SHARES['distill']:.0%} of the time"
  return _WIDTHS[-1], f"the least; {_WANTED} outer steps need about {needed:.0f} s"


def _augment(book: Book, learner: Learner, curve: Curve) -> str:
  """Mirroring where an expert that never saw mirrored images knows them as well."""
  plain = curve.accuracy[-1]
  mirrored = learner.accuracy(curve.trajectory[-1], learner.held[0][:, :, ::-1])
  fits = mirrored > plain - 0.02
  reason = f"an expert gets {plain:.3f} of held-out images right and {mirrored:.3f} of their mirror images"
  found = "flip" if fits else "none"
  for path in ("teacher_train/augment", "eval/augment"):
    book.choose(path, found, reason)
  return book.choose("method/augment", found, reason)


def _length(curve: Curve) -> tuple[int, str]:
  """Where an expert stops getting better: 98 % of the way from its start to its best."""
  accuracy = np.asarray(curve.accuracy)
  wanted = accuracy[0] + 0.98 * (accuracy.max() - accuracy[0])
  reached = int(np.argmax(accuracy >= wanted))
  epochs = min(len(accuracy) - 1, reached + 2 * _SPAN)
  best = f"{accuracy[reached]:.3f} after {reached} epochs, and {accuracy.max():.3f} at best"
  return max(epochs, 2 * _SPAN), f"an expert reaches {best}"


def _data_of_experts(lab: Lab, book: Book) -> None:
  """Short epochs, so that trajectories have snapshots where experts change fast."""
  batch, steps = epoch_of(len(lab.y))
  batch = book.choose("teacher_train/batch_size", batch, f"for epochs of {steps} steps")
  fraction = steps * batch / len(lab.y)
  if fraction < 0.8 and lab.is_open("teacher_data_policy/name"):
    reason = f"an epoch is {steps} steps on fresh images of {len(lab.y):,}"
    book.choose("teacher_data_policy/name", "rs2", reason)
    book.choose("teacher_data_policy/fraction", round(fraction, 6), reason)


# -- matching ---------------------------------------------------------------------------------------------------------


def initial_set(lab: Lab, book: Book, learner: Learner, theta: np.ndarray) -> SyntheticSet:
  """The set before the first step, with the labels of one expert; any real images where it knows too few of a class."""
  options = {"ipc": lab.ipc, "num_classes": lab.num_classes, "seed": lab.seed, "experts": 1}
  options["expert_logits"] = lambda images, experts: learner.logits(theta, images)[None]
  start = {}
  if lab.is_open("method/initial") and lab.value("method/initial") == "correct":
    right = learner.logits(theta, lab.x).argmax(-1) == lab.y
    known, size = (np.bincount(lab.y[rows], minlength=lab.num_classes) for rows in (right, slice(None)))
    worst = int(np.argmin(known / size))
    if known[worst] < max(2 * lab.ipc, 0.3 * size[worst]):  # other experts may know still fewer
      reason = f"an expert knows {known[worst]} of {size[worst]} images of class {worst}"
      start["initial"] = book.choose("method/initial", "real", reason)
  return lab.start(**start).make(lab.x, lab.y, **options)


def _matching(lab: Lab, book: Book, learner: Learner, curve: Curve, lr: float) -> tuple[Matcher, float, list]:
  momentum = lab.value("method/inner_momentum")
  options = {"augment": learner_augment(lab, book), "learn_labels": lab.value("method/learn_labels")}
  options["momentum"] = momentum
  chosen = {choice.path: choice.value for choice in book.choices}
  epochs = min(len(curve.trajectory) - 1, chosen.get("teacher_train/epochs", lab.value("teacher_train/epochs")))
  initial = initial_set(lab, book, learner, curve.trajectory[epochs])
  starts = [t for t in (0, 1, 2, 3, 4, 6, 8, 10, 13, 16, 20, 25, 30, 35) if t + _SPAN <= epochs]
  segments = [(curve.trajectory[t], curve.trajectory[t + _SPAN]) for t in starts]
  batch = _inner_batch(lab, book, len(initial.images), curve)
  tables = {}
  lr *= 1 - momentum  # with which steps are as long as without
  useful = [rate for rate in RATES if lr / 6 < rate <= lr] or [lr]  # smaller ones hardly move, larger ones are unstable
  for steps in _INNER if lab.is_open("method/inner_steps") else (lab.value("method/inner_steps"),):
    matcher = Matcher(learner.network, initial, inner_steps=steps, batch_size=batch, **options)
    tables[steps] = np.array([matcher.losses(matcher.learned(rate), segments) for rate in useful])
    if steps == _INNER[0] and np.nanmin(tables[steps][:, 0]) < 0.9:
      break  # the first start can be followed; more steps would only cost
  best = {steps: float(np.nan_to_num(table[:, :3].mean(1), nan=np.inf).min()) for steps, table in tables.items()}
  inner = min(best, key=best.get)
  shown = ", ".join(f"{steps} steps: {value:.2f}" for steps, value in best.items())
  inner = book.choose("method/inner_steps", inner, f"the initial matching loss of early segments ({shown})")
  table = tables.get(inner, next(iter(tables.values())))
  lowest, highest, reason = _range(starts, table)
  lowest = book.choose("method/min_start_epoch", lowest, reason)
  highest = book.choose("method/max_start_epoch", highest, reason)
  book.choose("method/expert_epochs", _SPAN, f"{_SPAN} epochs of an expert are matched by {inner} steps")
  inside = [i for i, t in enumerate(starts) if lowest <= t < highest] or [0]
  matcher = Matcher(learner.network, initial, inner_steps=inner, batch_size=batch, **options)
  segments = [segments[i] for i in inside]
  return matcher, inner_rate(book, matcher, useful, segments), segments


def learner_augment(lab: Lab, book: Book):
  """The augmentation of inner steps, as it was chosen."""
  chosen: Mapping[str, Any] = {choice.path: choice.value for choice in book.choices}
  return named(chosen.get("method/augment", lab.value("method/augment")))


def _inner_batch(lab: Lab, book: Book, size: int, curve: Curve) -> int | None:
  """As many synthetic images per inner step as leave time for enough steps."""
  affordable = lab.seconds * _SHARES["distill"] / (_WANTED * _INNER[0] * 4 * curve.seconds_per_image)
  batch = int(np.clip(affordable, min(size, lab.num_classes), size))
  return book.choose("method/batch_size", batch, f"of {size} images, for {_WANTED} outer steps in the time")


def _range(starts: list[int], table: np.ndarray) -> tuple[int, int, str]:
  """Start epochs that are neither matched already nor out of reach, from losses `[rates, starts]`."""
  least = np.nan_to_num(table, nan=np.inf).min(0)
  beyond = np.flatnonzero(least >= 0.9)  # later ones that happen to be reachable do not count
  last = starts[-1] if not len(beyond) else starts[max(0, int(beyond[0]) - 1)]
  harder = [t for t, loss in zip(starts, least, strict=True) if loss > 0.5]
  first = min(harder[0] if harder else starts[-1], max(0, last - 2))
  highest = max(last, first + 2) + 1
  highest = min(highest, starts[-1] + 1)
  shown = ", ".join(f"{t}: {loss:.2f}" for t, loss in zip(starts, least, strict=True))
  return min(first, highest - 1), highest, f"the least initial matching loss by start epoch ({shown})"


def _warm_up(lab: Lab, book: Book, curve: Curve) -> None:
  """How far another method moves the images first."""
  chosen: Mapping[str, Any] = {choice.path: choice.value for choice in book.choices}
  mirrored = chosen.get("method/augment", lab.value("method/augment")) == "flip"
  augment = "color_crop_cutout_flip_scale_rotate" if mirrored else "color_crop_cutout_scale_rotate"
  book.choose("warm_up/augment", augment, "with mirroring" if mirrored else "without mirroring, as for the rest")
  reason = f"an image's gradient is 1/{lab.ipc} of that of its class's mean, and there are few steps"
  book.choose("warm_up/image_lr", max(1.0, 0.5 * lab.ipc), reason)
  real = min(lab.value("warm_up/batch_real"), len(lab.y) // lab.num_classes)
  images = lab.num_classes * (real / 2 + lab.ipc)  # real ones are not differentiated
  seconds = lab.seconds * _SHARES["warm_up"]
  steps = int(np.clip(seconds / (images * curve.seconds_per_image), 20, 2000))
  reason = f"{images:.0f} images each, in {seconds:.0f} s"
  book.choose("warm_up_steps", steps if steps < 100 else steps // 10 * 10, reason)


def _evaluation(lab: Lab, book: Book, curve: Curve) -> None:
  """As long trainings on the sets as the time allows; full data only where they fit."""
  size, seeds = lab.ipc * lab.num_classes, lab.value("eval/seeds")
  seconds = lab.seconds * _SHARES["evaluate"]
  rates = 2 * len(lab.value("eval/control_lrs"))
  trainings = 4 * (seeds + rates)  # to choose rates, too
  trainings += 2 * rates + 20 if lab.value("keep") == "best" else 0  # six sets, the first and last at all rates
  epochs = int(np.clip(0.7 * seconds / (trainings * size * curve.seconds_per_image), 120, 400))
  book.choose("eval/epochs", epochs, f"{trainings} trainings on {size} images in {seconds:.0f} s")
  affordable = 0.4 * seconds / (seeds * len(lab.y) * curve.seconds_per_image)
  batch, steps = epoch_of(len(lab.y))
  needed = (len(curve.accuracy) - 1) * steps * batch / len(lab.y)
  if affordable < needed:
    reason = (
      f"{seeds} networks on full data need {0.4 * seconds * needed / affordable:.0f} s; teachers are as good a measure"
    )
    book.choose("eval/sets", ["distilled", "random_hard", "random_soft", "initial"], reason)
  book.choose(
    "eval/full_epochs", max(1, round(needed)), f"as many steps as an expert's {len(curve.accuracy) - 1} epochs"
  )


CALIBRATION = Calibration(
  (
    *(f"model/{key}" for key in ("depth", "width")),
    "teachers/count",
    *(f"teacher_train/{key}" for key in ("lr", "epochs", "batch_size", "augment")),
    *(f"teacher_data_policy/{key}" for key in ("name", "fraction")),
    *(
      f"method/{key}"
      for key in ("inner_steps", "expert_epochs", "batch_size", "augment", "initial", "threshold", "lr_init")
    ),
    *(f"method/{key}" for key in ("min_start_epoch", "max_start_epoch", "image_lr", "label_lr", "lr_lr")),
    *(f"warm_up/{key}" for key in ("augment", "image_lr")),
    "warm_up_steps",
    "steps",
    "snapshot_every",
    *(f"eval/{key}" for key in ("epochs", "augment", "sets", "full_epochs")),
  ),
  trajectory,
)
