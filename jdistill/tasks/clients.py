"""Images that lie with several clients, who see classes in different shares and in styles of their own."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jdistill.base import Batch, UserError
from jdistill.data import Dataset, preprocess
from jdistill.data.subset import balanced_indices
from jdistill.federated import dirichlet_partition
from jdistill.schema import NonNegative, Positive, Size, near_matches, validated
from jdistill.tasks import images
from jdistill.tasks.shifts import rotate
from jdistill.tasks.task import Predict, Request, Task, numbered

STYLES = ("plain", "inverted", "rotated", "noisy")


class _Part(NamedTuple):
  """What one client has, pixels in [0, 1] and labels: `(x, y)` of each split."""

  train: tuple[np.ndarray, np.ndarray]
  validation: tuple[np.ndarray, np.ndarray]
  test: tuple[np.ndarray, np.ndarray]


@validated("task")
def clients(
  request: Request,
  *,
  styles: tuple[str, ...] = ("inverted", "rotated", "noisy"),
  alpha: Positive | None = None,
  least: Size = 1,
  angle: float = 45.0,
  noise: NonNegative = 0.3,
  more: tuple[str, ...] = (),
  side: Size = 0,
) -> Task:
  """Labelled images of several clients, with `client` `[n]` among `extra`.

  Either one data set is divided among as many clients as there are styles, or every client has a data set of its own:
  `dataset` and those in `more`. Held-out and test images of a divided set are shown to every client, in its style.

  The score is `accuracy`, the mean over clients of the accuracy on their test images; `pooled`, that on all images
  together; and `worst`, the least of the clients'.

  Args:
    request: which images; sizes are those of each data set. Preprocessing is fitted on the training images of all.
    styles: of each client, `"plain"`, `"inverted"`, `"rotated"` or `"noisy"`. With `more`, none for plain ones.
    alpha: concentration of the Dirichlet distribution by which a class is divided, small for clients that differ much
      in their classes; `None` for equal shares.
    least: training images of each class that every client has in any case.
    angle: in degrees, of `"rotated"`.
    noise: standard deviation of `"noisy"` in pixel values; results are clipped to [0, 1].
    more: data sets of the second client and those after it.
    side: height and width to which all images are resized; 0 leaves them as they are.
  """
  for style in styles:
    if style not in STYLES:
      raise UserError(f"task.styles={list(styles)!r}: unknown style {style!r}{near_matches(style, STYLES)}")
  parts, names = _own_sets(request, styles, more, side) if more else _divided(request, styles, alpha, least, side)
  parts = [_styled(part, style, angle, noise, (request.seed, 37, k)) for k, (part, style) in enumerate(parts)]
  fitted = request.fit(request.preprocessing, np.concatenate([part.train[0] for part in parts]))
  transform = lambda pixels: np.asarray(preprocess.transform(fitted, pixels), np.float32)  # noqa: E731
  train, validation, test = (_together([part[i] for part in parts], transform) for i in range(3))
  counts = ", ".join(str(len(part.train[1])) for part in parts)
  source = {"name": request.dataset, "more": list(more), "styles": list(styles), "seed": request.seed}
  return Task(
    data=train,
    members=lambda seed: np.arange(len(train.y)),
    teacher=train,
    validation=validation,
    test=test,
    num_classes=len(names),
    input_shape=train.x.shape[1:],
    score=_scores,
    notes=(
      f"{len(parts)} clients with {counts} training images; {len(validation.y)} held-out and {len(test.y)} test images "
      "of all together",
    ),
    class_names=names,
    preprocessing=fitted,
    source=source,
  )


def client_scores(right: Mapping[int, int], count: Mapping[int, int]) -> dict[str, float]:
  """The mean of the clients' accuracies, that of all examples together, and the least of the clients'.

  Args:
    right: correctly classified examples by client.
    count: examples by client, at least 1 each.
  """
  own = [right[k] / count[k] for k in right]
  pooled = sum(right.values()) / sum(count[k] for k in right)
  return {"accuracy": float(np.mean(own)), "pooled": pooled, "worst": min(own)}


def _scores(predict: Predict, data: Batch) -> dict[str, float]:
  hits, owner = np.argmax(predict(data.x), axis=-1) == data.y, data.extra["client"]
  members = np.unique(owner).tolist()
  return client_scores({k: int(hits[owner == k].sum()) for k in members}, {k: int((owner == k).sum()) for k in members})


def _held_out(request: Request, found: Dataset) -> np.ndarray:
  """Positions of held-out training images."""
  if not request.validation_size:
    return np.zeros(0, np.int64)
  return balanced_indices(
    found.train_y, request.validation_size, found.num_classes, seed=request.seed, key="validation_size"
  )


def _divided(request: Request, styles: Sequence[str], alpha, least: int, side: int):
  """Parts of one data set with their styles, and the names of the classes."""
  if len(styles) < 2:
    raise UserError(
      f"task.styles={list(styles)!r}: gives one style per client; name at least two, or sets in task.more"
    )
  found = images.load(request)
  held = _held_out(request, found)
  rest = np.setdiff1d(np.arange(len(found.train_y)), held)
  try:
    own = dirichlet_partition(
      found.train_y[rest], len(styles), found.num_classes, alpha=alpha, least=least, seed=request.seed
    )
  except ValueError as error:
    what = str(error).removeprefix("dirichlet_partition: ")
    raise UserError(f"task.styles={list(styles)!r}: {what}; take fewer clients, or more images") from error
  x, y = found.train_x, found.train_y
  shared = ((x[held], y[held]), (found.test_x, found.test_y))
  parts = [_Part((x[rest[mine]], y[rest[mine]]), *shared) for mine in own]
  return [(_sized(part, side, False), style) for part, style in zip(parts, styles, strict=True)], found.class_names


def _own_sets(request: Request, styles: Sequence[str], more: Sequence[str], side: int):
  """One data set per client with their styles, and the names of the classes."""
  names = (request.dataset, *more)
  if styles and len(styles) != len(names):
    raise UserError(
      f"task.styles={list(styles)!r}: {len(styles)} for {len(names)} clients of task.more; give one for each, or ()"
    )
  found = [images.load(request._replace(dataset=name)) for name in names]
  for name, one in zip(names, found, strict=True):
    if one.class_names != found[0].class_names:
      raise UserError(
        f"task.more={list(more)!r}: {name} has the classes {_shown(one.class_names)}, {names[0]} has "
        f"{_shown(found[0].class_names)}; all clients need the same ones in the same order"
      )
  colour = any(one.image_shape[-1] == 3 for one in found)
  parts = []
  for one in found:
    held = _held_out(request, one)
    rest = np.setdiff1d(np.arange(len(one.train_y)), held)
    x, y = one.train_x, one.train_y
    parts.append(_sized(_Part((x[rest], y[rest]), (x[held], y[held]), (one.test_x, one.test_y)), side, colour))
  shapes = [part.train[0].shape[1:] for part in parts]
  for name, shape in zip(names, shapes, strict=True):
    if shape != shapes[0]:
      raise UserError(
        f"task.more={list(more)!r}: images of {name} are {shape}, of {names[0]} {shapes[0]}; set task.side, such as 32"
      )
  return [(part, style) for part, style in zip(parts, styles or ["plain"] * len(parts), strict=True)], found[
    0
  ].class_names


def _shown(names: Sequence[str]) -> str:
  return f"({', '.join(names[:4])}{', ...' if len(names) > 4 else ''}; {len(names)} in all)"


def _sized(part: _Part, side: int, colour: bool) -> _Part:
  def one(split: tuple[np.ndarray, np.ndarray]):
    x, y = split
    x = np.repeat(x, 3, axis=-1) if colour and x.shape[-1] == 1 else x
    return (resized(x, side) if side else x), y

  return _Part(*(one(split) for split in part))


def resized(x: np.ndarray, side: int) -> np.ndarray:
  """Images `[n, height, width, channels]` as `[n, side, side, channels]`, by linear interpolation between pixels."""

  def weights(size: int) -> np.ndarray:
    place = np.clip((np.arange(side) + 0.5) * size / side - 0.5, 0, size - 1)  # centres of the new pixels
    return np.maximum(1 - np.abs(place[:, None] - np.arange(size)[None]), 0).astype(np.float32)

  return np.einsum("ih,jw,nhwc->nijc", weights(x.shape[1]), weights(x.shape[2]), x, optimize=True).astype(np.float32)


def _styled(part: _Part, style: str, angle: float, noise: float, seed: tuple[int, ...]) -> _Part:
  def one(split: tuple[np.ndarray, np.ndarray], number: int):
    x, y = split
    if style == "inverted":
      x = 1 - x
    if style == "rotated" and len(x):
      x = np.clip(rotate(x, np.full(len(x), angle)), 0, 1)
    if style == "noisy":
      x = np.clip(x + noise * np.random.default_rng((*seed, number)).normal(size=x.shape), 0, 1)
    return x.astype(np.float32), y

  return _Part(*(one(split, number) for number, split in enumerate(part)))


def _together(splits: Sequence[tuple[np.ndarray, np.ndarray]], transform: Callable[[np.ndarray], np.ndarray]) -> Batch:
  """Examples of all clients, in their order."""
  owner = np.concatenate([np.full(len(y), k, np.int32) for k, (_, y) in enumerate(splits)])
  x = np.concatenate([x for x, _ in splits])
  y = np.concatenate([y for _, y in splits]).astype(np.int32)
  return numbered(transform(x) if len(x) else x, y, client=owner)
