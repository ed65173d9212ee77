"""Clusters of examples, and the examples in their middle."""

import numpy as np

from jdistill.base import UserError

_AT_ONCE = 2**22  # numbers of differences that are held at once


def kmeans(
  rng: np.random.Generator, points: np.ndarray, clusters: int, *, restarts: int = 10, iterations: int = 100
) -> np.ndarray:
  """Centres of k-means: Lloyd's iterations from k-means++ starts, the best of several by the sum of squared distances.

  Args:
    rng: decides the starts.
    points: `[n, d]`, at least as many as clusters.
    clusters: how many.
    restarts: how many starts are tried.
    iterations: the most of each; it ends before where no point changes its cluster.

  Returns:
    `[clusters, d]` float64.
  """
  points = np.asarray(points, np.float64)
  found = [_lloyd(points, _spread(rng, points, clusters), iterations) for _ in range(restarts)]
  return min(found, key=lambda centres: squared_distances(points, centres).min(1).sum())


def squared_distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
  """`[n, k]` squared Euclidean distances, exactly 0 for equal rows."""
  rows = max(1, _AT_ONCE // max(centres.size, 1))
  parts = [points[begin : begin + rows] for begin in range(0, max(len(points), 1), rows)]
  return np.concatenate([np.square(part[:, None] - centres[None]).sum(-1) for part in parts])


def _spread(rng: np.random.Generator, points: np.ndarray, clusters: int) -> np.ndarray:
  """k-means++: every centre is a point, drawn in proportion to its squared distance from those before it."""
  centres = points[rng.integers(len(points))][None]
  far = squared_distances(points, centres)[:, 0]
  while len(centres) < clusters:
    share = far / far.sum() if far.sum() > 0 else None  # all points are centres already
    centres = np.concatenate([centres, points[rng.choice(len(points), p=share)][None]])
    far = np.minimum(far, squared_distances(points, centres[-1:])[:, 0])
  return centres


def _lloyd(points: np.ndarray, centres: np.ndarray, iterations: int) -> np.ndarray:
  """Moves every centre to the mean of the points nearest to it; one without any stays."""
  own = None
  for _ in range(iterations):
    nearest = squared_distances(points, centres).argmin(1)
    if own is not None and (nearest == own).all():
      break
    own = nearest
    members = np.eye(len(centres))[own]  # [n, k]
    count = members.sum(0)[:, None]
    centres = np.where(count > 0, members.T @ points / np.maximum(count, 1), centres)
  return centres


def representative(
  rng: np.random.Generator,
  logits: np.ndarray,
  labels: np.ndarray,
  ipc: int,
  num_classes: int,
  clusters: int | None = None,
) -> np.ndarray:
  """Positions `[num_classes * ipc]` of real images in the middle of clusters of their class's logits.

  The logits of each class are clustered by `kmeans`, and each centre in turn takes the `ipc / clusters` nearest images
  that no other has taken.

  Args:
    rng: decides the clusters.
    logits: `[n, classes]` of one expert's last snapshot on all real images.
    labels: `[n]`.
    ipc: images per class.
    num_classes: number of classes.
    clusters: per class; `None` for `ipc`, one image each.

  Raises:
    UserError: `clusters` does not divide `ipc`, or a class has fewer than `ipc` images.

  References:
    Shen et al. (AST, arXiv 2310.10541), representative initialisation. The released code has ten clusters at any `ipc`.
  """
  clusters = check_clusters(clusters, ipc)
  picked = []
  for label in range(num_classes):
    own = np.flatnonzero(labels == label)
    if len(own) < ipc:
      raise UserError(f"ipc={ipc}: class {label} has only {len(own)} images; lower ipc")
    far = squared_distances(np.asarray(logits[own], np.float64), kmeans(rng, logits[own], clusters))
    free = np.ones(len(own), bool)
    for centre in range(clusters):
      near = [place for place in far[:, centre].argsort(kind="stable") if free[place]][: ipc // clusters]
      free[near] = False
      picked.append(own[near])
  return np.concatenate(picked)


def check_clusters(clusters: int | None, ipc: int) -> int:
  """How many clusters a class has.

  Raises:
    UserError: their number does not divide `ipc`.
  """
  if clusters is not None and ipc % clusters:
    raise UserError(
      f"method.clusters={clusters}: does not divide ipc={ipc}; set a divisor, or None for one cluster per image"
    )
  return clusters or ipc
