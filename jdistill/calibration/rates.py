"""Learning rates of trajectory matching on a task: each is tried for a few steps before it is chosen."""

import numpy as np

from jdistill.calibration.lab import Book, Lab
from jdistill.calibration.probe import Matcher

_MOVE = 0.02  # the first image rate to try, as the first step's root mean square, in units of network space
_MOVES = (_MOVE, _MOVE / 5)  # at which inner rates are compared
_PILOT, _PILOTS = 10, 6  # steps to try a rate, and rates to try
_NEARLY = 0.2  # share of the best gain that a smaller image rate may miss: smaller ones keep images closer to real ones
_LABEL_MOVE = 0.002  # the same of labels, as a share of their own
_RATE_MOVE = 0.0002  # and of the learning rate
_OPTIONS = {"images": "image", "labels": "label", "lr": "lr"}  # what options of what is learned begin with


def inner_rate(book: Book, matcher: Matcher, tried: list[float], segments: list) -> float:
  """The inner learning rate: the one whose loss is least after a few steps of learning.

  Before them it would not do. Where images cannot lead networks along an expert yet, the least loss is that of a rate
  at which nothing moves.
  """
  lab, momenta, some = book.lab, _momenta(book.lab), _some(segments)
  before, after = {}, {}
  for rate in tried if lab.is_open("method/lr_init") else [lab.value("method/lr_init")]:
    scales = matcher.scales(rate, some)
    before[rate] = float(matcher.losses(matcher.learned(rate), some).mean())
    after[rate] = float("inf")
    if all(np.isfinite(one) for one in scales.values()):
      rates = _first_rates(matcher, rate, scales)
      for move in _MOVES:  # a rate is not to blame for images that move too fast at it
        rates["images"] = move / max(scales["images"], 1e-12)
        learned, _ = matcher.pilot(rate, rates, momenta, some, _PILOT)
        after[rate] = min(after[rate], float(np.nan_to_num(matcher.losses(learned, some).mean(), nan=np.inf)))
  best = min(after, key=after.get)
  shown = ", ".join(f"{rate:g}: {before[rate]:.2f} to {after[rate]:.2f}" for rate in after)
  book.choose("method/lr_init", best, f"the least matching loss after {_PILOT} steps ({shown})")
  if lab.value("method/threshold") is not None:
    # a set that does not fit yet must be allowed to begin
    threshold = max(1.0, _round(1.2 * before[best])) if np.isfinite(before[best]) else lab.value("method/threshold")
    book.choose("method/threshold", threshold, f"a loss of {before[best]:.2f} before anything is learned")
  return best


def _momenta(lab: Lab) -> dict[str, float]:
  return {name: lab.value(f"method/{option}_momentum") for name, option in _OPTIONS.items()}


def _some(segments: list) -> list:
  """At most four of them, from first to last."""
  return segments[:: max(1, len(segments) // 4)][:4]


def _first_rates(matcher: Matcher, alpha: float, scales: dict[str, float]) -> dict[str, float]:
  """Rates of the learning rate and, where they are learned, of labels."""
  rates = {"lr": _RATE_MOVE * alpha / max(scales["lr"], 1e-12)}
  if matcher.learn_labels:
    own = float(np.sqrt(np.mean(np.square(matcher.initial.labels))))
    rates["labels"] = _LABEL_MOVE * own / max(scales["labels"], 1e-12)
  return rates


def choose_rates(book: Book, matcher: Matcher, alpha: float, segments: list, seconds_left: float) -> None:
  """Rates of images, labels and learning rate, and how many steps the time allows."""
  lab = book.lab
  momenta = _momenta(lab)
  some = _some(segments)
  scales = matcher.scales(alpha, some)
  rates = _first_rates(matcher, alpha, scales)
  rate, seconds, reason = _image_rate(lab, matcher, alpha, rates, momenta, some, scales["images"])
  book.choose("method/image_lr", rate, reason)
  if matcher.learn_labels:
    book.choose("method/label_lr", _round(rates["labels"]), f"moves labels by {_LABEL_MOVE:.1%} of their size a step")
  book.choose("method/lr_lr", _round(rates["lr"]), f"moves the learning rate by {_RATE_MOVE:.2%} a step")
  steps = int(np.clip(seconds_left / max(seconds, 1e-9), 20, 5000))
  steps = book.choose("steps", _floor(steps), f"{seconds:.2f} s each, in {seconds_left:.0f} s")
  book.choose("snapshot_every", max(1, -(-steps // 4)), "four sets on its way to choose from")


def _image_rate(
  lab: Lab, matcher: Matcher, alpha: float, rates: dict, momenta: dict, segments: list, scale: float
) -> tuple[float, float, str]:
  """`(rate, seconds of a step, why)`: the least one that gains nearly as much as the best in a few steps."""
  own = None if lab.is_open("method/image_lr") else lab.value("method/image_lr") * scale
  scale = max(scale, 1e-12)  # a gradient that vanishes is told by the run itself
  found, seconds, move = {}, 0.0, own or _MOVE
  before = float(matcher.losses(matcher.learned(alpha), segments).mean())
  while len(found) < _PILOTS:
    rates["images"] = move / scale
    learned, seconds = matcher.pilot(alpha, rates, momenta, segments, _PILOT)
    losses = matcher.losses(learned, segments)
    found[move] = float(losses.mean()) if np.isfinite(losses).all() else float("inf")
    best = min(found.values())
    enough = [one for one, loss in found.items() if loss <= best + _NEARLY * max(0.0, before - best)]
    if own is not None:
      break
    if found[max(found)] == best:
      move = max(found) * 2
    elif min(enough) == min(found):
      move = min(found) / 2
    else:
      break
  shown = ", ".join(f"{move / scale:.3g}: {loss:.3f}" for move, loss in sorted(found.items()))
  reason = f"the least that gains {1 - _NEARLY:.0%} of the most in {_PILOT} steps from {before:.3f} ({shown})"
  return _round(min(enough) / scale), seconds, reason


def _round(value: float) -> float:
  return float(f"{value:.3g}")


def _floor(steps: int) -> int:
  return steps if steps < 100 else steps // 10 * 10
