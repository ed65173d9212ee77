"""The public network that a label projector starts from: weights of a file, or one trained here on another task."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import models, pretrained
from jdistill.base import Network, UserError, Variables
from jdistill.config import sections
from jdistill.config.common import TRAIN
from jdistill.data import preprocess
from jdistill.jobs import networks
from jdistill.jobs.networks import TeacherSpec
from jdistill.jobs.sections import check_train
from jdistill.jobs.weights import file_digest
from jdistill.ops.affine import resize
from jdistill.runs.run import Run
from jdistill.stages import teachers
from jdistill.teachers.frozen import nbytes
from jdistill.teachers.projector import HEAD, with_head

_SIDE = 224  # of the images that the networks with weights of other libraries were trained on

SECTIONS = {
  "encoder": sections.network("teacher"),
  "encoder_task": sections.task({"name": "rotations"}),
  "encoder_method": sections.method({"name": "ce"}, "students"),
  "encoder_train": TRAIN,
}


class Encoder(NamedTuple):
  """A public network.

  Attributes:
    network: with a head of the data's classes.
    body: its variables, with a head that means nothing.
    inputs: `(x in network space) -> its own input`; `None` where they are the same.
    name: for reports.
    hash: of all that determines it.
  """

  network: Network
  body: Variables
  inputs: Callable[[jax.Array], jax.Array] | None
  name: str
  hash: str

  @property
  def nbytes(self) -> int:
    """Bytes of what is public, without the head."""
    return nbytes({layer: leaf for layer, leaf in self.body.params.items() if layer != HEAD}) + nbytes(self.body.stats)


def spec(run: Run) -> TeacherSpec:
  """The training of a network on another task, as that of a teacher."""
  c = run.config
  own = {
    "teacher": c["encoder"],
    "teacher_method": c["encoder_method"],
    "teacher_train": c["encoder_train"],
    "teacher_data_policy": {"name": "shuffle"},
    "task": c["encoder_task"],
  }
  return TeacherSpec("encoder", own, 1, key="encoder")


def network(run: Run) -> Network:
  """The network with a head of the data's classes, for images of its own size."""
  c, task = run.config["projector"], run.task()
  if c["weights"] is not None:
    task = task._replace(input_shape=_shape(run))
  return run.network(run.config["encoder"], task)


def inputs(run: Run) -> Callable[[jax.Array], jax.Array] | None:
  """What turns inputs in network space into those of the encoder; `None` where they are the same."""
  c = run.config["projector"]
  if c["weights"] is None:
    return None
  own = run.task().preprocessing
  numbers = (tuple(float(value) for value in array) for array in own[1:4])
  return _adapted(own.kind, *numbers, c["preprocess"], _shape(run))


@functools.lru_cache(maxsize=8)
def _adapted(own: str, mean: tuple, scale: tuple, inverse: tuple, kind: str, shape: tuple[int, int, int]):
  """The same object, and so the same programs, for the same arguments."""
  arrays = (np.float32(values).reshape(-1) for values in (mean, scale, inverse))
  return adapted(preprocess.Preprocessing(own, *arrays), kind, shape)


def adapted(own: preprocess.Preprocessing, kind: str, shape: tuple[int, int, int]) -> Callable[[jax.Array], jax.Array]:
  """Inputs of a run as those of a network that was trained elsewhere.

  Args:
    own: the run's preprocessing, which is undone.
    kind: what the network was trained with, of `jdistill.pretrained.PREPROCESSING`.
    shape: `(height, width, channels)` that it sees; grey images are repeated.

  Returns:
    A differentiable function of `[n, h, w, channels]`.
  """
  mean, deviation = (np.array(values) for values in pretrained.PREPROCESSING[kind])

  def apply(x: jax.Array) -> jax.Array:
    pixels = preprocess.invert(own, x)
    pixels = jnp.broadcast_to(pixels, (*pixels.shape[:-1], shape[-1]))
    if pixels.shape[1:3] != shape[:2]:
      pixels = resize(pixels, shape[:2])
    own_mean, own_deviation = (value.reshape(1, 1, 1, -1).astype(pixels.dtype) for value in (mean, deviation))
    return (pixels - own_mean) / own_deviation

  return apply


def _shape(run: Run) -> tuple[int, int, int]:
  c, shape = run.config["projector"], run.task().input_shape
  side = c["side"] or shape[0]
  return (side, side, len(pretrained.PREPROCESSING[c["preprocess"]][0]))


def identity(run: Run) -> Mapping[str, Any]:
  """All that determines the encoder."""
  c, own = run.config["projector"], {"model": run.config["encoder"], "backbone": run.config["projector"]["backbone"]}
  if c["backbone"] == "random":
    return own | {"seed": run.config["seed"]} | {key: c[key] for key in ("preprocess", "side") if c["weights"]}
  if c["weights"] is not None:
    return own | {"weights": _digest(c["weights"])} | {key: c[key] for key in ("preprocess", "side")}
  return own | networks.identity(run, spec(run))


def ready(run: Run) -> Encoder:
  """The encoder; one of another task is trained first where it is missing."""
  c, name, key = run.config["projector"], run.config["encoder"]["name"], run.key_of(**identity(run))
  own = network(run)
  if c["backbone"] == "random":
    return Encoder(own, own.init(run.key("random encoder")), inputs(run), f"{name} with random weights", key)
  if c["weights"] is not None:
    return Encoder(own, _from_file(c["weights"], own), inputs(run), name, key)
  one = spec(run)
  teachers.made(run, one)
  found = networks.read(run, one).variables[0]
  width = found.params[HEAD]["kernel"].shape[0]
  found = with_head(found, jnp.zeros((width, run.task().num_classes)))  # the other task's has other classes
  return Encoder(own, found, None, f"{name} of task {run.config['encoder_task']['name']}", key)


def _digest(path: str) -> str:
  return file_digest(path, "projector.weights", ".safetensors, .npz or .pth")


@functools.lru_cache(maxsize=2)
def _from_file(path: str, own: Network) -> Variables:
  arrays = pretrained.read_weights(path)
  return models.from_torch(own, arrays, source=f"projector.weights={path!r}", head=False)


def check(run: Run) -> None:
  """Refuses an encoder that cannot see these images, or that cannot be trained."""
  c, task, section = run.config["projector"], run.task(), run.config["encoder"]
  if c["weights"] is None:
    if c["side"] is not None:
      raise UserError(f"projector.side={c['side']}: is for an encoder with projector.weights; leave it out")
    network(run)
    if c["backbone"] == "pretrained":
      check_train("encoder_train", run.config["encoder_train"])
      run.task(run.config["encoder_task"])
    return
  if task.preprocessing is None or task.preprocessing.kind == "zca":
    raise UserError("preprocessing='zca': the encoder of projector.weights sees pixels; use 'channel'")
  _check_size(c, task.input_shape, section["name"])
  found, _ = network(run), _digest(c["weights"])
  if c["backbone"] == "pretrained":
    _from_file(c["weights"], found)


def _check_size(c: Mapping[str, Any], shape: tuple[int, ...], name: str) -> None:
  """Refuses images of another size than an encoder with frozen statistics was trained on, unless asked for."""
  wanted = len(pretrained.PREPROCESSING[c["preprocess"]][0])
  if shape[-1] not in (1, wanted):
    raise UserError(
      f"projector.weights={c['weights']!r}: is for images of {wanted} channels, and these have {shape[-1]}"
    )
  if c["side"] is None and shape[:2] != (_SIDE, _SIDE):
    raise UserError(
      f"projector.weights={c['weights']!r}: {name} with its statistics is for images of {_SIDE} x {_SIDE} pixels, and "
      f"these have {shape[0]} x {shape[1]}; set projector.side={_SIDE} to resize them, or a smaller one that is faster"
    )
