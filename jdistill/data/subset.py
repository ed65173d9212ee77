"""Class-balanced random subsets and stratified splits, as index makers on the host."""

import numpy as np

from jdistill.base import UserError


def largest_balanced(sizes: np.ndarray) -> int:
  """The largest subset that can still be balanced, `C * m + r`.

  `m` is the size of the smallest class and `r` the number of leading classes that can give one image more.

  Args:
    sizes: `[classes]`, images per class.

  Returns:
    The number of images of that subset.
  """
  smallest = int(sizes.min())
  return len(sizes) * smallest + int(np.argmin(sizes))  # argmin is the first smallest class


def balanced_indices(labels: np.ndarray, count: int, num_classes: int, *, seed: int, key: str) -> np.ndarray:
  """Draws a class-balanced subset without replacement from `np.random.default_rng(seed)`.

  Class `c` gives `count // C` images, and one more if `c < count % C`.

  Args:
    labels: `[n]` class indices.
    count: the size of the subset.
    num_classes: the number of classes `C`.
    seed: what decides which images are drawn.
    key: the setting that asked for it, named in messages.

  Returns:
    `[count]` int64 positions, ascending.

  Raises:
    UserError: `count` is not a whole number, below `C`, or above what the classes can give evenly; `seed` is not a
      whole number from 0 up.
  """
  if isinstance(count, bool) or not isinstance(count, int | np.integer):
    raise UserError(f"{key}={count!r}: must be a whole number of images, or None for all of them")
  if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
    raise UserError(f"seed={seed!r}: must be a whole number from 0 up")
  if count < num_classes:
    raise UserError(
      f"{key}={count}: fewer than one image for each of the {num_classes} classes; use at least {num_classes}"
    )
  sizes = np.bincount(labels, minlength=num_classes)
  limit = largest_balanced(sizes)
  if count > limit:
    raise UserError(
      f"{key}={count}: a class-balanced subset of these {len(labels)} images has at most {limit} (smallest class:"
      f" {sizes.min()}); lower {key}, or leave it unset to use all"
    )
  rng = np.random.default_rng(seed)
  share, extra = divmod(int(count), num_classes)
  chosen = [rng.permutation(np.flatnonzero(labels == c))[: share + (c < extra)] for c in range(num_classes)]
  return np.sort(np.concatenate(chosen))


def stratified_split(labels: np.ndarray, test_count: int) -> tuple[np.ndarray, np.ndarray]:
  """Splits positions into train and test with the class shares of the whole; always the same split.

  Class `c` gives `floor(test_count * n_c / n)` test images, and the classes with the largest remainders one more. The
  images of a class are shuffled by `np.random.RandomState(0)`, whose stream NumPy has frozen, so the split depends on
  neither a seed nor the NumPy version.

  Args:
    labels: `[n]` class indices.
    test_count: the size of the test part.

  Returns:
    `(train, test)` int64 positions, ascending.
  """
  sizes = np.bincount(labels)
  exact = test_count * sizes / len(labels)
  quota = np.floor(exact).astype(np.int64)
  by_remainder = np.argsort(-(exact - quota), kind="stable")
  quota[by_remainder[: test_count - quota.sum()]] += 1
  rng = np.random.RandomState(0)
  test = np.sort(np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:take] for c, take in enumerate(quota)]))
  return np.setdiff1d(np.arange(len(labels)), test), test
