"""Images of which students see only some patches, with something else in the place of the others: an artefact."""

import functools
import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import schema
from jdistill.base import Network, PyTree, UserError, Variables
from jdistill.config import Plain
from jdistill.files import read_npz, write_npz
from jdistill.jobs import networks, subset
from jdistill.models import mae
from jdistill.models.predict import predict
from jdistill.ops import cam, patch_masks
from jdistill.runs import artefacts
from jdistill.runs.run import Run
from jdistill.runs.workdir import on_first
from jdistill.schema import Count, Share

_RECORD, _ARRAYS = "images.json", "images.npz"
_MAPS = {"cam": cam.cam, "grad_cam": cam.grad_cam, "grad_cam_pp": cam.grad_cam_plus_plus}
_FILLS = {"mean": patch_masks.mean_of_kept, "zero": patch_masks.zeros}


class Patches(NamedTuple):
  """Which patches of the students' images are left out, and what stands there instead."""

  theta: Share = 0.0
  by: Literal["grad_cam_pp", "grad_cam", "cam", "random"] = "grad_cam_pp"
  side: Count = 16
  fill: Literal["decoder", "mean", "zero"] = "decoder"
  decoder: str = "decoder"


SECTION = Plain(schema.fields(Patches))


class Found(NamedTuple):
  """Images of an arm's students.

  Attributes:
    x: all examples of the arm, `[n, h, w, c]`.
    about: figures for reports.
  """

  x: np.ndarray
  about: Mapping[str, Any]


def is_patched(arm: Mapping[str, Any]) -> bool:
  """Whether students of an arm see images of which patches were left out."""
  return arm["patches"]["theta"] > 0


def check_section(prefix: str, arm: Mapping[str, Any], committee: Mapping[str, Any]) -> None:
  """Refuses what does not go together, as far as the configuration tells.

  Raises:
    UserError: a share of 1, stored targets, which are of whole images, or a decoder that is not in the committee.
  """
  own = arm["patches"]
  if not is_patched(arm):
    return
  if own["theta"] >= 1:
    raise UserError(f"{prefix}patches.theta={own['theta']}: must be at least 0 and below 1")
  if (source := arm["targets"]["source"]) != "online":
    raise UserError(f"{prefix}targets.source={source!r}: stored targets are of images with all patches; use 'online'")
  if own["fill"] == "decoder" and own["decoder"] not in committee:
    raise UserError(
      f"{prefix}patches.decoder={own['decoder']!r}: no network of that name in committee; name one there that decodes, "
      "or choose another patches.fill"
    )


def check(run: Run, label: str, arm: Mapping[str, Any]) -> None:
  """Refuses patches that the data do not have, and networks that give no importance or do not decode.

  Raises:
    UserError: the first thing that does not fit.
  """
  task, own = run.task(arm["task"]), arm["patches"]
  x = task.data.x
  if task.kind != "images" or np.ndim(x) != 4:
    raise UserError(f"patches.theta={own['theta']}: task.name={arm['task']['name']!r} has no images; set it to 0")
  height, width = x.shape[1:3]
  if height % own["side"] or width % own["side"]:
    raise UserError(f"patches.side={own['side']}: does not divide images of {height}x{width}; give a divisor")
  grid = _grid(arm, x)
  try:
    patch_masks.patches_kept(grid[0] * grid[1], own["theta"])
  except ValueError as error:
    raise UserError(f"patches.{error}") from error
  few = jax.ShapeDtypeStruct((2, *x.shape[1:]), jnp.float32)
  for role, one in networks.helpers_of(run, label, arm).items():
    network = run.network(networks.model_of(one), task)
    variables = jax.eval_shape(network.init, jax.random.key(0))
    try:
      if role == "judge":
        jax.eval_shape(_importance(network, own["by"], grid), variables, few)
      else:
        mask = jax.ShapeDtypeStruct((2, grid[0] * grid[1]), bool)
        jax.eval_shape(_filled(network), variables, (few, mask))
    except ValueError as error:
      key = "patches.by" if role == "judge" else "patches.decoder"
      value = own["by"] if role == "judge" else own["decoder"]
      raise UserError(f"{key}={value!r}: {error}") from error


def _grid(arm: Mapping[str, Any], x: np.ndarray) -> tuple[int, int]:
  side = arm["patches"]["side"]
  return x.shape[1] // side, x.shape[2] // side


@functools.lru_cache(maxsize=8)
def _importance(network: Network, by: str, grid: tuple[int, int]):
  """`(variables, x) -> [n, *grid]` in [0, 1]: how much patches speak for the class that the network predicts."""

  def ask(variables: Variables, x: jax.Array) -> jax.Array:
    return cam.resized_maps(cam.unit_range(_MAPS[by](network.apply, variables, x)), grid)

  return ask


@functools.lru_cache(maxsize=8)
def _filled(network: Network | None, fill: str = "decoder"):
  """`(variables, (x, mask)) -> images`, the patches left out filled."""

  def ask(variables: PyTree, given: tuple[jax.Array, jax.Array]) -> jax.Array:
    x, mask = given
    decode = _FILLS[fill] if network is None else mae.decoder(network, variables)
    return patch_masks.reconstruct(x, mask, decode)

  return ask


def _identity(run: Run, label: str, arm: Mapping[str, Any]) -> dict[str, Any]:
  task, helpers = run.task(arm["task"]), networks.helpers_of(run, label, arm)
  return {
    "data": run.fingerprint(task.data),
    "patches": {key: value for key, value in arm["patches"].items() if key != "decoder"},
    "networks": {role: networks.identity(run, one) for role, one in helpers.items()},
    "seed": run.config["seed"],
  }


def ready(run: Run, label: str, arm: Mapping[str, Any], stage: str) -> Found | None:
  """The images of an arm's students, made first where they are missing; `None` where these see whole images.

  Args:
    run: the run.
    label: of the arm, for messages.
    arm: its sections.
    stage: that asks, for messages.
  """
  if not is_patched(arm):
    return None
  identity = _identity(run, label, arm)
  path = run.artefact("patches", **identity)
  make = lambda: on_first(lambda: _make(run, label, arm, stage, path, identity))  # noqa: E731
  record = artefacts.ready(run, "patches", path, _RECORD, identity, make)
  return Found(read_npz(path / _ARRAYS)["x"], record["about"])


def verify(run: Run, label: str, arm: Mapping[str, Any]) -> None:
  """Looks at the images of an arm.

  Raises:
    Damaged: a file is missing or is not as it was written.
  """
  identity = _identity(run, label, arm)
  artefacts.checked(run.artefact("patches", **identity), _RECORD, identity)


def _make(run: Run, label: str, arm: Mapping[str, Any], stage: str, path, identity: Mapping[str, Any]) -> None:
  begin, own = time.monotonic(), arm["patches"]
  x = np.asarray(run.task(arm["task"]).data.x, np.float32)
  grid, found = _grid(arm, x), networks.helpers_of(run, label, arm)
  count, helpers = grid[0] * grid[1], {}
  for role, one in found.items():
    teachers = networks.trained(run, one)
    helpers[role] = teachers.networks[0], teachers.variables[0]
  if "judge" in helpers:
    network, variables = helpers["judge"]
    maps = predict(_importance(network, own["by"], grid), variables, x)
    mask = np.asarray(patch_masks.patch_mask_from_cam(jnp.asarray(maps), own["theta"]))
  else:
    mask = np.asarray(patch_masks.random_patch_mask(run.key("patches"), len(x), count, own["theta"]))
  network, variables = helpers.get("decoder", (None, ()))
  new = predict(_filled(network, own["fill"]), variables, (x, mask))
  pixels = np.broadcast_to(np.asarray(patch_masks.pixel_mask(jnp.asarray(mask), x.shape[1:3])), x.shape)
  seconds = time.monotonic() - begin
  about = {
    "patches": count,
    "kept": patch_masks.patches_kept(count, own["theta"]),
    "squared_error": float(np.mean(np.square(new - x)[pixels])),
    "seconds": seconds,
  }
  write_npz(path / _ARRAYS, {"x": new, "mask": np.packbits(mask, axis=1)})
  artefacts.write(path, _RECORD, identity, (_ARRAYS,), about=about)
  run.log(
    f"{stage}: {label}: {about['kept']} of {count} patches of {len(x):,} images kept by {own['by']}, the others from "
    f"{own['fill']}: squared error {about['squared_error']:.4f}, {seconds:.2f} s"
  )


def stored(run: Run, arm: Mapping[str, Any], kept: int, about: Mapping[str, Any] | None) -> dict[str, Any]:
  """What of its images must be stored for a student, for reports; empty for arms that keep everything.

  `image_share` is the share of the pixels of all its images: that of the images times that of their patches.
  `image_bytes` are these pixels at 8 bits for each value and, where patches were left out, one bit per patch.

  Args:
    run: the run.
    arm: its sections.
    kept: how many images the student has.
    about: of `ready`.
  """
  task = run.task(arm["task"])
  if np.ndim(task.data.x) != 4 or not (subset.is_selected(arm) or about):
    return {}
  share, bits = (about["kept"] / about["patches"], about["patches"]) if about else (1.0, 0)
  size = int(np.prod(task.data.x.shape[1:]))
  return {
    "image_share": kept / len(task.members(0)) * share,
    "image_bytes": kept * (round(size * share) + -(-bits // 8)),
  }
