"""How the examples of one set are divided among clients; on the host."""

import numpy as np


def dirichlet_partition(
  labels: np.ndarray, clients: int, num_classes: int, *, alpha: float | None = None, least: int = 1, seed: int = 0
) -> list[np.ndarray]:
  """Divides examples among clients whose shares of each class are drawn from a Dirichlet distribution.

  Every client gets `least` examples of every class; of the others of class `c`, client `k` gets the share `p_ck` with
  `p_c ~ Dirichlet(alpha, ..., alpha)`. Small `alpha` gives clients that know few classes well.

  Args:
    labels: `[n]` integers in `[0, num_classes)`.
    clients: how many.
    num_classes: number of classes.
    alpha: concentration, > 0; `None` for equal shares.
    least: examples of every class that each client gets in any case; with 0, classes may be missing.
    seed: decides all.

  Returns:
    Positions of each client, ascending int64; together they are all positions.

  Raises:
    ValueError: fewer than `least * clients` examples of a class, a client left without any example, or numbers out of
      range.

  References:
    Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution" (arXiv 1909.06335), sec. 2.
  """
  if clients < 1 or least < 0 or (alpha is not None and not alpha > 0):
    raise ValueError(
      f"dirichlet_partition: clients={clients}, least={least}, alpha={alpha}: give at least 1, 0, above 0"
    )
  labels, rng = np.asarray(labels), np.random.default_rng((seed, 31))
  own: list[list[np.ndarray]] = [[] for _ in range(clients)]
  for c in range(num_classes):
    members = rng.permutation(np.flatnonzero(labels == c))
    if len(members) < least * clients:
      raise ValueError(
        f"dirichlet_partition: class {c} has {len(members)} examples, fewer than least={least} for each of {clients} "
        "clients"
      )
    sure, rest = np.split(members, [least * clients])
    share = np.full(clients, 1 / clients) if alpha is None else rng.dirichlet(np.full(clients, alpha))
    ends = np.round(np.cumsum(share)[:-1] * len(rest)).astype(np.int64)
    for k, part in enumerate(np.split(rest, ends)):
      own[k] += [sure[k * least : (k + 1) * least], part]
  found = [np.sort(np.concatenate(parts)).astype(np.int64) for parts in own]
  if empty := [k for k, part in enumerate(found) if not len(part)]:
    raise ValueError(f"dirichlet_partition: client {empty[0]} has no example; raise alpha={alpha} or least={least}")
  return found


def missing_classes(labels: np.ndarray, num_classes: int) -> list[int]:
  """The classes in `[0, num_classes)` of which there is no label."""
  return np.setdiff1d(np.arange(num_classes), labels).tolist()
