"""Parts of a set of conditions, each of which has a network of its own, and which network serves a condition."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.base import Key, PyTree
from jdistill.ops.checks import known

RULES = ("blocks", "kmeans_balanced", "random")
_PASSES = 25  # of balanced k-means, whose assignments have settled long before for few conditions


def partition_conditions(
  conditions: int,
  students: int,
  *,
  rule: Literal["blocks", "kmeans_balanced", "random"] = "blocks",
  key: Key | None = None,
  embeddings: jax.Array | None = None,
) -> jax.Array:
  """Divides conditions `0, ..., conditions - 1` into as many parts of equal size as there are students.

  Args:
    conditions: how many.
    students: how many; divides `conditions`.
    rule: `"blocks"`, consecutive ones; `"random"`; or `"kmeans_balanced"`, k-means of `embeddings` whose clusters have
      equal sizes: pairs of conditions and centres are taken in the order of their distance while there is room.
    key: of the last two rules.
    embeddings: `[conditions, D]`, of k-means.

  Returns:
    `[conditions]` int32, the student of each condition.

  Raises:
    ValueError: more students than conditions, parts of unequal size (with the sizes), or what a rule lacks.

  References:
    Song et al., "Multi-student Diffusion Distillation for Better One-step Generators" (arXiv 2410.23274): consecutive
    classes of ImageNet; k-means reached about the same.
  """
  check_parts(conditions, students)
  if rule not in RULES:
    raise ValueError(f"partition_conditions: rule {rule!r} is unknown; choose one of {', '.join(RULES)}")
  if rule != "blocks" and key is None:
    raise ValueError(f"partition_conditions: rule {rule!r} needs a key")
  block = jnp.arange(conditions, dtype=jnp.int32) // (conditions // students)
  if rule == "random":
    return jax.random.permutation(key, block)
  if rule == "blocks":
    return block
  if embeddings is None or embeddings.ndim != 2 or embeddings.shape[0] != conditions:
    shape = None if embeddings is None else embeddings.shape
    raise ValueError(f"partition_conditions: embeddings must be [{conditions}, D], got {shape}")
  return _balanced(key, embeddings, students)


def check_parts(conditions: int, students: int) -> None:
  """Raises `ValueError` unless there are conditions for so many students, equally many for each."""
  if not 1 <= students <= conditions:
    raise ValueError(f"students={students}: must be from 1 to the {conditions} conditions, of which each has a part")
  if conditions % students:
    less, more = divmod(conditions, students)
    sizes = ", ".join(str(less + (k < more)) for k in range(students))
    raise ValueError(
      f"students={students}: {conditions} conditions would be parts of {sizes}; choose a divisor, so that all are equal"
    )


def owned_conditions(assignment: jax.Array, students: int) -> jax.Array:
  """The conditions of each student: `[students, conditions / students]` int32, rising in each row.

  Args:
    assignment: `[conditions]`, from `partition_conditions`.
    students: how many.

  Raises:
    ValueError: parts that are not equal (with the sizes), or a condition that no student owns, where values are known.
  """
  check_parts(assignment.shape[0], students)
  if known(assignment):
    strange = [c for c, k in enumerate(assignment.tolist()) if not 0 <= k < students]
    if strange:
      raise ValueError(f"assignment: no student owns condition {strange[0]}; students are 0 to {students - 1}")
    sizes = [int(jnp.sum(assignment == k)) for k in range(students)]
    if len(set(sizes)) > 1:
      raise ValueError(f"assignment: parts of sizes {sizes}; all must be equal")
  return jnp.argsort(assignment, stable=True).astype(jnp.int32).reshape(students, -1)


def route(assignment: jax.Array, cond: jax.Array) -> jax.Array:
  """The student of each condition: `[n]` int32 for `cond` `[n]`."""
  return assignment[cond]


def by_owner(function: Callable[[jax.Array, PyTree], PyTree], students: int, owner: jax.Array, rows: PyTree) -> PyTree:
  """Has each row answered by its own network alone, whatever the shares of networks are.

  Rows are sorted by their networks and divided into blocks of `ceil(n / students)`, each of which belongs to one
  network; a loop goes over at most `2 students - 1` blocks. All networks on all rows would be `students` times `n`.

  Args:
    function: `(number of a network, rows [m, ...]) -> pytree of [m, ...]`.
    students: how many networks there are.
    owner: `[n]` int32 in `[0, students)`, which one answers a row.
    rows: pytree of `[n, ...]`.

  Returns:
    What `function` gives, `[n, ...]`.
  """
  n = owner.shape[0]
  size = -(-n // students)
  blocks = (n + min(students, n) * (size - 1)) // size  # where every network leaves a block with one row
  order = jnp.argsort(owner)
  counts = jnp.bincount(owner, length=students)
  filled = -(-counts // size) * size  # places of each network, whose blocks have no others
  place = (jnp.cumsum(filled) - filled - jnp.cumsum(counts) + counts)[owner[order]] + jnp.arange(n)
  held = jnp.zeros(blocks * size, order.dtype).at[place].set(order).reshape(blocks, size)
  number = jnp.searchsorted(jnp.cumsum(filled), jnp.arange(blocks) * size, side="right")
  number = jnp.minimum(number, students - 1).astype(jnp.int32)  # blocks that stay empty
  made = lax.map(lambda block: function(block[0], jax.tree.map(lambda leaf: leaf[block[1]], rows)), (number, held))
  found = jnp.zeros(n, place.dtype).at[order].set(place)
  return jax.tree.map(lambda leaf: leaf.reshape(blocks * size, *leaf.shape[2:])[found], made)


def sample_condition(key: Key, owned: jax.Array, size: int) -> jax.Array:
  """`[size]` int32 conditions of those in `owned` `[m]`, each as likely as any other."""
  return owned[jax.random.randint(key, (size,), 0, owned.shape[0])]


def _balanced(key: Key, points: jax.Array, students: int) -> jax.Array:
  """k-means in which every cluster has the same number of points."""
  first = points[jax.random.choice(key, points.shape[0], (students,), replace=False)]

  def body(_, carry):
    centres, _ = carry
    assignment = _with_room(jnp.sum(jnp.square(points[:, None] - centres[None]), axis=-1))
    member = jax.nn.one_hot(assignment, students, dtype=points.dtype)
    return member.T @ points / (points.shape[0] // students), assignment

  start = (first, jnp.zeros(points.shape[0], jnp.int32))
  return jax.lax.fori_loop(0, _PASSES, body, start)[1]


def _with_room(distance: jax.Array) -> jax.Array:
  """The cluster of each point, `[n]`, from distances `[n, K]`: nearest pairs first, `n / K` points for each."""
  count, students = distance.shape

  def take(carry, pair):
    assignment, room = carry
    point, cluster = pair // students, pair % students
    free = (assignment[point] < 0) & (room[cluster] > 0)
    assignment = assignment.at[point].set(jnp.where(free, cluster, assignment[point]))
    return (assignment, room.at[cluster].add(-free.astype(jnp.int32))), None

  start = (jnp.full(count, -1, jnp.int32), jnp.full(students, count // students, jnp.int32))
  return jax.lax.scan(take, start, jnp.argsort(distance.reshape(-1), stable=True).astype(jnp.int32))[0][0]
