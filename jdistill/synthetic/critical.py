"""Where NRR-DD starts: crops that hold what matters in a real image, and of which a trained network is least sure."""

from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np

from jdistill.base import UserError
from jdistill.ops.cam import KINDS
from jdistill.schema import Above, Count, Positive, Range, validated
from jdistill.synthetic.initialise import Start
from jdistill.synthetic.patches import (
  DIFFICULTY,
  ClassCrops,
  Judges,
  mean_cross_entropies,
  select_tiles,
  start_from_crops,
)


def window_mass(maps: np.ndarray, boxes: np.ndarray, *, mass: str = "share") -> np.ndarray:
  """How much of a map lies in windows of it.

  Args:
    maps: `[n, height, width]`, none negative.
    boxes: `[n, m, 4]`, windows `(top, left, height, width)` of whole pixels, as shares of the sides.
    mass: `"share"`, the window's sum over that of the whole map (0 for a map of zeros), or `"mean"`, its mean.

  Returns:
    `[n, m]` float64.
  """
  sides = np.tile(maps.shape[1:], 2)
  top, left, height, width = np.moveaxis(np.rint(boxes * sides).astype(int), -1, 0)
  sums = np.pad(np.asarray(maps, np.float64).cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))  # up to and without a place
  rows = np.arange(len(maps))[:, None]
  at = lambda y, x: sums[rows, y, x]  # noqa: E731
  inside = at(top + height, left + width) - at(top, left + width) - at(top + height, left) + at(top, left)
  if mass == "mean":
    return inside / (height * width)
  whole = sums[:, -1:, -1]
  return inside / np.where(whole > 0, whole, 1.0)


@validated("method")
def critical_start(
  *,
  initial: Literal["critical", "real", "noise"] = "critical",
  difficulty: Literal[DIFFICULTY] = "hard",
  mipc: Count = 300,
  num_crop: Count = 5,
  top_crops: Count = 1,
  crop_mass: Literal["share", "mean"] = "share",
  class_map: Literal[KINDS] = "cam",
  factor: Count = 1,
  patch_scale: Annotated[float, Above(0), Range(high=1)] = 0.08,
  lr_init: Positive = 0.01,
) -> Start:
  """How NRR-DD's set starts (CIDD, critical-based initial data discovery), with hard labels.

  Of each of `mipc` real images of a class the `top_crops` random crops with most of its class map are candidates; those
  with the greatest cross entropy, a mean over the teachers, are the tiles of the images. RDED takes the opposite.

  Args:
    initial: `"critical"`, or for comparison `"real"`, whole real images, or `"noise"`, `N(0, 1)` in network space.
    difficulty: which candidates: `"hard"`, those that the teachers are least sure of, `"medium"` or `"easy"`.
    mipc: real images per class to choose from (unverified, as are the three below).
    num_crop: random crops of each.
    top_crops: t, candidates of an image; at most `num_crop`.
    crop_mass: what "most" is (`window_mass`): the share of the map's sum, or the mean in the window, which favours
      small ones.
    class_map: of the first teacher for the image's class: `"cam"`, `"grad_cam"` or `"grad_cam_pp"`.
    factor: beta = `factor^2` tiles make an image: 2 on ImageNet, 1 on images of 32 pixels (as in RDED; unverified).
    patch_scale: smallest share of the area of a crop.
    lr_init: learning rate for training on the set.

  Raises:
    UserError: more candidates than crops; from `make`, too few real images.

  References:
    Tran et al., "Enhancing Dataset Distillation via Non-Critical Region Refinement" (arXiv 2503.18267), sec. 3.2.
  """
  if top_crops > num_crop:
    raise UserError(f"method.top_crops={top_crops}: of each image there are method.num_crop={num_crop} crops; lower it")

  def pick(found: ClassCrops, judges: Judges, count: int) -> np.ndarray:
    if judges.class_maps is None:
      raise UserError("method.initial='critical': needs a teacher for class maps; set method.initial='real'")
    labels = np.full(len(found.images), found.label, np.int32)
    mass = window_mass(judges.class_maps(found.images, labels, class_map), found.boxes, mass=crop_mass)
    rows, best = np.arange(len(mass))[:, None], np.argsort(-mass, 1, kind="stable")[:, :top_crops]
    crops = found.crops[rows, best]
    scores = mean_cross_entropies(judges, found._replace(crops=crops)).reshape(-1)
    return crops.reshape(-1, *crops.shape[2:])[np.asarray(select_tiles(jnp.asarray(scores), count, difficulty))]

  sizes = {"mipc": mipc, "num_crop": num_crop, "factor": factor, "patch_scale": patch_scale}
  return start_from_crops(pick, "critical", initial, lr_init=lr_init, **sizes)
