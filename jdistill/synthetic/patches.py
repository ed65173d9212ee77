"""Sets made of crops of real images that a trained network is sure of, or not: RDED's selection, CV-DD's start."""

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.augment import resized_crop
from jdistill.base import Apply, Augmentation, UserError, Variables
from jdistill.losses import cross_entropy
from jdistill.schema import Above, Count, Positive, Range, validated
from jdistill.synthetic.initialise import Start, start
from jdistill.synthetic.set import SyntheticSet

DIFFICULTY = ("easy", "medium", "hard")


class ClassCrops(NamedTuple):
  """Random crops of real images of one class, on the host.

  Attributes:
    label: the class.
    images: `[n, height, width, channels]`.
    crops: `[n, m, h, w, channels]`, m of each image, in the size of a tile.
    boxes: `[n, m, 4]`, their windows `(top, left, height, width)` as shares of the image's sides.
  """

  label: int
  images: np.ndarray
  crops: np.ndarray
  boxes: np.ndarray


class Judges(NamedTuple):
  """What the teachers of a run say, on the host.

  Attributes:
    logits: `(images) -> [teachers, n, classes]`.
    class_maps: `(images, labels [n], kind) -> [n, height, width]` in [0, 1] by the first teacher
      (`jdistill.ops.cam.class_maps`); `None` where a run has none.
  """

  logits: Callable[[np.ndarray], np.ndarray]
  class_maps: Callable[[np.ndarray, np.ndarray, str], np.ndarray] | None


Pick = Callable[[ClassCrops, Judges, int], np.ndarray]  # the tiles `[count, h, w, channels]` of a class


def patch_crop(sides: tuple[int, int], factor: int, scale: float) -> Augmentation:
  """Random square windows of images, resized to a tile `[height / factor, width / factor]`.

  Args:
    sides: `(height, width)` of the images.
    factor: tiles along an axis.
    scale: the least share of the area that a window takes; the most is all.

  Raises:
    UserError: sides that `factor` does not divide.
  """
  check_tiles(sides, factor)
  return resized_crop((scale, 1.0), (1.0, 1.0), size=(sides[0] // factor, sides[1] // factor))


def check_tiles(sides: tuple[int, int], factor: int) -> None:
  """Raises `UserError` unless images of these sides can be made of `factor x factor` equal tiles."""
  if any(side % factor for side in sides):
    raise UserError(
      f"method.factor={factor}: images of {sides[0]} x {sides[1]} pixels cannot be made of {factor} x {factor} equal "
      "tiles; give a divisor"
    )


def hard_classes(labels: np.ndarray) -> tuple[int, int]:
  """How many classes a set has, and images per class.

  Raises:
    ValueError: soft labels.
  """
  labels = np.asarray(labels)
  if labels.ndim == 2:
    raise ValueError(
      "initial: has soft labels, and images are made class by class of real ones; set method.labels='hard'"
    )
  classes = len(np.unique(labels))
  return classes, len(labels) // classes


def check_candidates(labels: np.ndarray, mipc: int, ipc: int, factor: int, num_classes: int) -> None:
  """Raises `UserError` where there are too few real images to choose from, in a class or in `mipc`."""
  if mipc < ipc * factor**2:
    raise UserError(
      f"method.mipc={mipc}: ipc={ipc} images of {factor**2} tiles need {ipc * factor**2} candidates per class; raise "
      "it, or lower ipc"
    )
  counts = np.bincount(labels, minlength=num_classes)
  if counts.min() < mipc:
    c = int(counts.argmin())
    raise UserError(f"method.mipc={mipc}: class {c} has only {counts[c]} images; lower it to at most that")


def pad_tiles(tiles: jax.Array, sides: tuple[int, int]) -> jax.Array:
  """Tiles `[n, h, w, channels]` in the middle of images `[n, height, width, channels]` of zeros."""
  room = [(side - own) for side, own in zip(sides, tiles.shape[1:3], strict=True)]
  return jnp.pad(tiles, ((0, 0), *((gap // 2, gap - gap // 2) for gap in room), (0, 0)))


def score_crops(
  apply: Apply, variables: Variables, crops: jax.Array, y: jax.Array, sides: tuple[int, int]
) -> jax.Array:
  """Cross entropy of a network in evaluation mode on crops, put back into images of zeros.

  Args:
    apply, variables: the network.
    crops: `[n, m, h, w, channels]`, m of each image.
    y: `[n]` integer labels.
    sides: `(height, width)` that the network takes.

  Returns:
    `[n, m]` in nats.
  """
  n, m = crops.shape[:2]
  flat = pad_tiles(crops.reshape(n * m, *crops.shape[2:]), sides)
  logits = apply(variables.params, flat, stats=variables.stats).logits
  return cross_entropy(logits, jnp.repeat(y, m)).reshape(n, m)


def select_tiles(scores: jax.Array, count: int, difficulty: str = "easy") -> jax.Array:
  """Positions `[count]` of the tiles with the lowest scores, those in the middle of the order, or the highest.

  Args:
    scores: `[n]`, lower is easier.
    count: at most `n`.
    difficulty: `"easy"`, `"medium"` or `"hard"`.

  Raises:
    ValueError: more than there are, or an unknown difficulty.
  """
  n = scores.shape[0]
  if not 1 <= count <= n or difficulty not in DIFFICULTY:
    raise ValueError(f"select_tiles: count={count}, difficulty={difficulty!r}; give 1..{n} and one of {DIFFICULTY}")
  begin = {"easy": 0, "medium": (n - count) // 2, "hard": n - count}[difficulty]
  return jnp.argsort(scores, stable=True)[begin : begin + count]


def tile_grid(tiles: jax.Array, factor: int) -> jax.Array:
  """Images of `factor x factor` tiles, row by row: image `i` of `n` has tiles `i, n + i, 2 n + i, ...`.

  Args:
    tiles: `[n * factor^2, h, w, channels]`; in the order of their scores every image gets easier and harder ones.
    factor: tiles along an axis.

  Returns:
    `[n, factor * h, factor * w, channels]`.
  """
  h, w, channels = tiles.shape[1:]
  grid = tiles.reshape(factor, factor, -1, h, w, channels)
  return grid.transpose(2, 0, 3, 1, 4, 5).reshape(-1, factor * h, factor * w, channels)


def mean_cross_entropies(judges: Judges, found: ClassCrops) -> np.ndarray:
  """`[n, m]` in nats of crops, put back into images of zeros, with their class: the mean over the teachers."""
  n, m = found.crops.shape[:2]
  flat = found.crops.reshape(n * m, *found.crops.shape[2:])
  logits = judges.logits(np.asarray(pad_tiles(jnp.asarray(flat), found.images.shape[1:3])))
  own = jnp.full(n * m, found.label, jnp.int32)
  return np.mean([cross_entropy(one, own) for one in logits], 0).reshape(n, m)


def surest_crops(judges: Judges, found: ClassCrops, count: int, difficulty: str) -> tuple[np.ndarray, np.ndarray]:
  """`(images [count], crops [count])`: which images, and of each the crop with the lowest cross entropy.

  Args:
    judges, found: see `Pick`.
    count: how many.
    difficulty: see `select_tiles`.
  """
  scores = mean_cross_entropies(judges, found)
  rows = np.asarray(select_tiles(jnp.asarray(scores.min(1)), count, difficulty))
  return rows, scores.argmin(1)[rows]


@functools.lru_cache(maxsize=8)
def _cutter(sides: tuple[int, int], factor: int, scale: float) -> Callable:
  """`(key, x) -> (boxes, crops)` of `patch_crop`, compiled."""
  crop = patch_crop(sides, factor, scale)
  return jax.jit(lambda key, x: ((record := crop.sample(key, x.shape)).box, crop.apply(record, x)))


def picked_crops(
  pick: Pick,
  judges: Judges,
  images: np.ndarray,
  classes: np.ndarray,
  *,
  count: int,
  num_classes: int,
  seed: int,
  mipc: int,
  num_crop: int,
  factor: int,
  patch_scale: float,
) -> list[np.ndarray]:
  """What is picked of the crops of each class, `num_crop` of each of `mipc` random real images.

  Args:
    pick: makes the choice of a class.
    judges: what it may ask.
    images, classes: `[n, height, width, channels]` and `[n]`, the real images.
    count: how many are picked of each class.
    num_classes: C.
    seed: decides candidates and windows.
    mipc, num_crop, factor, patch_scale: see `patch_start`.
  """
  rng, made = np.random.default_rng((seed, 2)), []
  cut = _cutter(images.shape[1:3], factor, patch_scale)
  for c in range(num_classes):
    own = images[rng.permutation(np.flatnonzero(classes == c))[:mipc]]
    key = jax.random.fold_in(jax.random.key(seed), c)
    parts = jax.device_get(cut(key, jnp.asarray(np.repeat(own, num_crop, 0))))
    boxes, crops = (part.reshape(len(own), num_crop, *part.shape[1:]) for part in parts)
    made.append(pick(ClassCrops(c, own, crops, boxes), judges, count))
  return made


def start_from_crops(
  pick: Pick,
  name: str,
  initial: str,
  *,
  mipc: int,
  num_crop: int,
  factor: int,
  patch_scale: float,
  lr_init: float,
) -> Start:
  """A start whose images are tiles of crops, of `mipc` random real images of each class, with hard labels.

  Args:
    pick: chooses the tiles of a class.
    name: how the option `initial` calls this start.
    initial: its value; anything but `name` is for `jdistill.synthetic.start`.
    mipc, num_crop, factor, patch_scale, lr_init: see `patch_start`.
  """
  plain = start(initial="real" if initial == name else initial, labels="hard", lr_init=lr_init)

  def check(method: Mapping[str, Any], teacher_train: Mapping[str, Any] | None) -> None:
    del method, teacher_train

  def empty(ipc: int, num_classes: int, image_shape: tuple[int, ...], width: int = 0) -> SyntheticSet:
    if initial == name:
      check_tiles(image_shape[:2], factor)
    return plain.empty(ipc, num_classes, image_shape, width)

  def make(images, classes, *, ipc: int, num_classes: int, seed: int, teacher_logits, class_maps=None, **others):
    if initial != name:
      return plain.make(images, classes, ipc=ipc, num_classes=num_classes, seed=seed, **others)
    if teacher_logits is None:
      raise UserError(f"method.initial={name!r}: needs teachers that look at crops; set method.initial='real'")
    check_candidates(classes, mipc, ipc, factor, num_classes)
    sizes = {"mipc": mipc, "num_crop": num_crop, "factor": factor, "patch_scale": patch_scale, "seed": seed}
    judges = Judges(teacher_logits, class_maps)
    tiles = picked_crops(pick, judges, images, classes, count=ipc * factor**2, num_classes=num_classes, **sizes)
    made = [np.asarray(tile_grid(jnp.asarray(one), factor)) for one in tiles]
    own = np.repeat(np.arange(num_classes, dtype=np.int32), ipc)
    return SyntheticSet(np.concatenate(made), own, np.float32(lr_init))

  def candidates(labels: np.ndarray, ipc: int, num_classes: int) -> None:
    if initial == name:
      check_candidates(labels, mipc, ipc, factor, num_classes)

  return Start(make, empty, check, candidates=candidates)


@validated("method")
def patch_start(
  *,
  initial: Literal["patches", "real", "noise"] = "patches",
  difficulty: Literal[DIFFICULTY] = "medium",
  mipc: Count = 300,
  num_crop: Count = 5,
  factor: Count = 1,
  patch_scale: Annotated[float, Above(0), Range(high=1)] = 0.08,
  lr_init: Positive = 0.01,
) -> Start:
  """How a set of real patches with hard labels starts, as in CV-DD.

  Of each of `mipc` real images of a class the crop with the lowest cross entropy is kept, a mean over the teachers; of
  these, tiles of the wanted difficulty make the images.

  Args:
    initial: `"patches"`, or for comparison `"real"`, whole real images, or `"noise"`, `N(0, 1)` in network space.
    difficulty: which of the kept crops: those with the lowest cross entropy, those around its median, or those with the
      highest. "Medium" in CV-DD; that it means the middle of this order is not confirmed.
    mipc: real images per class to choose from.
    num_crop: random crops of each.
    factor: tiles along an axis of an image.
    patch_scale: smallest share of the area of a crop.
    lr_init: learning rate for training on the set.

  References:
    Cui et al., "Dataset Distillation via Committee Voting" (arXiv 2501.07575); Sun et al. (arXiv 2312.03526).
  """

  def pick(found: ClassCrops, judges: Judges, count: int) -> np.ndarray:
    return found.crops[surest_crops(judges, found, count, difficulty)]

  sizes = {"mipc": mipc, "num_crop": num_crop, "factor": factor, "patch_scale": patch_scale}
  return start_from_crops(pick, "patches", initial, lr_init=lr_init, **sizes)
