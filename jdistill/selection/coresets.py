"""Real images of a class that stand for all of it: the baselines that distilled sets are measured against.

Every choice is made among points `[n, d]`, such as flattened images or a network's features, and returns positions.
"""

from typing import Literal

import numpy as np

from jdistill.base import UserError
from jdistill.selection import embeddings
from jdistill.selection.clusters import kmeans, squared_distances
from jdistill.selection.greedy import maximise
from jdistill.selection.objectives import farthest, nearest


def herding(rng: np.random.Generator, points: np.ndarray, count: int) -> np.ndarray:
  """Greedy choice whose running mean stays nearest to the mean of all points.

      i_k = argmin_i || mean(points) - (sum_{j < k} points[i_j] + points[i]) / k ||

  Args:
    rng: not used, as nothing is drawn; there so that all choices have one signature.
    points: `[n, d]`.
    count: how many, at most `n`.

  Returns:
    `[count]` positions in the order of their choice, none twice.

  References:
    Welling, Herding Dynamical Weights to Learn (ICML 2009); the form of iCaRL (arXiv 1611.07725, algorithm 4), as in
    the experiments of dataset condensation (arXiv 2006.05929). DeepCore's code (arXiv 2204.08499) takes the largest of
    these distances under its default metric, which is the opposite.
  """
  del rng
  points = np.asarray(points, np.float64)
  mean, total, picked = points.mean(0), np.zeros(points.shape[1]), []
  free, square = np.ones(len(points), bool), np.einsum("nd,nd->n", points, points)
  for number in range(1, count + 1):
    # |mean - (total + p) / k|^2 without an [n, d] temporary for every step: |p|^2 / k^2 - 2 p.(mean - total / k) / k
    far = square / number**2 - 2 * points @ (mean - total / number) / number
    far[~free] = np.inf
    picked.append(int(far.argmin()))
    free[picked[-1]] = False
    total += points[picked[-1]]
  return np.asarray(picked, np.int64)


def k_center(
  rng: np.random.Generator,
  points: np.ndarray,
  count: int,
  *,
  start: Literal["mean", "random"] = "mean",
  metric: Literal["euclidean", "cosine"] = "euclidean",
  init: np.ndarray | None = None,
) -> np.ndarray:
  """Greedy k-center: first the point nearest to the mean, then always the one farthest from all that were chosen.

  Args:
    rng: draws a random start.
    points: `[n, d]`.
    count: how many, at most `n`.
    start: the first point: the one nearest to the mean, or any, as in DeepCore (arXiv 2204.08499).
    metric: `"cosine"` compares directions only.
    init: `[k, d]` points that count as chosen already, such as those with a label. Without any (`None`, or `k = 0`) the
      first choice is `start`.

  Returns:
    `[count]` positions in the order of their choice, none twice.

  Raises:
    UserError: fewer points than are to be chosen, or `init` of another width.

  References:
    Sener & Savarese (arXiv 1708.00489), algorithm 1; the start at the mean is that of dataset condensation's
    experiments. On predicted probabilities, with those of labelled examples chosen: PCoreSet (arXiv 2506.00910).
  """
  points = embeddings.points(points).outer
  if count > len(points):
    raise UserError(f"k_center: {count} of {len(points)} points; choose at most all of them")
  given = init is not None and len(init) > 0
  if given and (np.ndim(init) != 2 or np.shape(init)[1] != points.shape[1]):
    raise UserError(f"k_center: init of shape {np.shape(init)} beside points of width {points.shape[1]}; use one space")
  centres = np.asarray(init, np.float64) if given else points[:0]
  if metric == "cosine":
    points, centres = _directions(points), _directions(centres)
  if given:
    return maximise(farthest(points, centres), count).index
  if start == "random":
    first = int(rng.integers(len(points)))
  else:
    first = int(nearest(points, points.mean(0, keepdims=True, dtype=np.float64)).argmin())
  return maximise(farthest(points), count, picked=[first]).index


def _directions(points: np.ndarray) -> np.ndarray:
  length = np.linalg.norm(points, axis=1, keepdims=True)
  return points / np.where(length > 0, length, 1)


def k_means(rng: np.random.Generator, points: np.ndarray, count: int, *, restarts: int = 10) -> np.ndarray:
  """The points nearest to the centres of `count` clusters.

  Args:
    rng: decides the starts of `kmeans`.
    points: `[n, d]`.
    count: how many, at most `n`.
    restarts: of `kmeans`; fewer for many points and clusters.

  Returns:
    `[count]` positions, none twice: a centre whose nearest point is taken gets the next one.
  """
  centres = kmeans(rng, points, count, restarts=restarts)
  far, picked = squared_distances(np.asarray(points, np.float64), centres), []
  for centre in range(count):
    far[picked, centre] = np.inf
    picked.append(int(far[:, centre].argmin()))
  return np.asarray(picked, np.int64)


def random(rng: np.random.Generator, points: np.ndarray, count: int) -> np.ndarray:
  """Any `count` points, none twice."""
  return rng.permutation(len(points))[:count]
