"""Every method of the catalog at toy size. A new row needs a toy here; all contract tests then run over it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import catalog, losses, models
from jdistill.base import Method, Network, Outputs, PyTree, Variables
from jdistill.methods import knowledge
from jdistill.methods.dataset import Segment
from jdistill.methods.optimizers import make_optimizer
from jdistill.synthetic import SyntheticSet
from jdistill.teachers.frozen import ask, committee


class Toy(NamedTuple):
  """A method that runs in milliseconds.

  Attributes:
    method: built by the row's builder.
    stream: `step -> batch` on the host, a function of the step.
    objective: the metric that must fall, by at least a tenth, when `stream(0)` is given for 30 steps.
  """

  method: Method
  stream: Callable[[int], PyTree]
  objective: str


def make(name: str, **extra) -> Toy:
  """The toy of a method of the catalog; `extra` goes to `student_method`."""
  kind = TOYS[name]
  return kind.make(catalog.row(name), kind.objective, options=kind.options, **(kind.extra | extra))


def options(name: str) -> dict:
  """The options that a toy gives to its builder."""
  return TOYS[name].options


def _trajectory(row: catalog.Row, objective: str, *, options: dict) -> Toy:
  """Eight images of 2x2 pixels and three classes; experts that really trained, so that there is something to match."""
  network = models.flatten(models.build("mlp", num_classes=3, image_shape=(2, 2, 1), widths=(6,)))
  rng = np.random.default_rng(0)
  x, y = jnp.float32(rng.normal(size=(30, 2, 2, 1))), jnp.asarray(rng.integers(0, 3, 30), jnp.int32)
  gradient = jax.jit(jax.grad(lambda theta: jnp.mean(losses.cross_entropy(network.apply(theta, x).logits, y))))

  def segment(step: int) -> Segment:
    theta = start = jnp.float32(np.random.default_rng(step).normal(size=network.size) * 0.5)
    for _ in range(8):
      theta = theta - 0.2 * gradient(theta)
    return Segment(*jax.device_get((start, theta)))

  labels = rng.normal(size=(8, 3)) if row.options()["labels"] == "soft" else np.arange(8, dtype=np.int32) % 3
  labels = labels.astype(np.float32) if labels.ndim == 2 else labels
  initial = SyntheticSet(x[:8], labels, np.float32(0.2))
  own = {key: value for key, value in row.values.items() if key in catalog.builder_options(row.build())}
  sizes = {"inner_steps": 4, "batch_size": 4, "image_lr": 0.5, "label_lr": 0.5, "lr_lr": 1e-3}
  method = row.build()(network.apply, initial, **(own | sizes))
  segments = [segment(step) for step in range(6)]
  return Toy(method, lambda step: segments[step % len(segments)], objective)


MLPS = ({"name": "mlp", "widths": (8,)}, {"name": "mlp", "widths": (8, 6)})
CONVS = ({"name": "convnet", "width": 4, "depth": 1, "norm": "none", "act": "leaky_relu", "pooling": "none"},) * 2
MEANS = tuple({"name": "convnet_bn", "width": width, "depth": 1} for width in (8, 4))  # heads on a global mean


def _updates(data: knowledge.Batch, **options) -> Callable[[int], knowledge.StudentInput]:
  """Two updates per epoch, on six examples each."""

  def update(step: int) -> knowledge.StudentInput:
    rows = jnp.arange(6, dtype=jnp.int32) + 6 * (step % 2)
    batch = jax.tree.map(lambda leaf: leaf[rows], data)
    return knowledge.StudentInput(batch, jnp.int32(step), jnp.float32(step / 2), rows, **options)

  return update


def _student(row: catalog.Row, objective: str, *, options: dict, networks=MLPS, **extra) -> Toy:
  """Twelve images of 2x2 pixels and three classes, taught by a fixed random network."""
  network, teacher = (models.build(num_classes=3, image_shape=(2, 2, 1), **one) for one in networks)
  rng = np.random.default_rng(0)
  x, y = jnp.float32(rng.normal(size=(12, 2, 2, 1))), jnp.asarray(rng.integers(0, 3, 12), jnp.int32)
  data = knowledge.Batch(x, y, jnp.arange(12, dtype=jnp.int32))
  recipe = row.build()(**options)
  frozen = committee([teacher], [teacher.init(jax.random.key(5))])
  method = knowledge.student_method(
    network, recipe, optimizer=make_optimizer("sgd", 0.2), targets=frozen.targets, num_examples=12, **extra
  )
  constants = ()
  if recipe.prepare is not None:
    constants = recipe.prepare(ask(frozen, x, data.ids), y, frozen.arrays)
  held_out = data if recipe.outer is not None else None
  return Toy(method, _updates(data, targets=frozen.arrays, constants=constants, held_out=held_out), objective)


def _maps(row: catalog.Row, objective: str, *, options: dict, **extra) -> Toy:
  """Twelve images of 3x3 pixels with three classes per pixel and an empty label channel; networks see single pixels."""

  def init(key):
    return Variables({"w": jax.random.normal(key, (3, 3)), "b": jnp.zeros(3)})

  def apply(params, x, **_):
    return Outputs(x @ params["w"] + jnp.broadcast_to(params["b"], (*x.shape[:-1], 3)), x.mean((1, 2)))

  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(12, 3, 3, 3)), jnp.asarray(rng.integers(-1, 3, (12, 3, 3)), jnp.int32)
  x[..., -1] = 0
  data = knowledge.Batch(jnp.float32(x), y, jnp.arange(12, dtype=jnp.int32), extra={"present": jnp.ones((12, 3), bool)})
  network = Network(init, apply)
  frozen = committee([network], [init(jax.random.key(5))])
  method = knowledge.student_method(
    network, row.build()(**options), optimizer=make_optimizer("sgd", 0.2), targets=frozen.targets, **extra
  )
  return Toy(method, _updates(data, targets=frozen.arrays), objective)


def _tokens(row: catalog.Row, objective: str, *, options: dict, **extra) -> Toy:
  """Twelve sequences that count up to five, one position of each private."""
  network, teacher = (models.build("gru", num_classes=5, image_shape=(4,), width=width) for width in (6, 8))
  x = (np.arange(12)[:, None] + np.arange(4)) % 5
  marks = {"private": jnp.float32(np.eye(4)[np.arange(12) % 4]), "mask": jnp.ones((12, 4), bool).at[3, 2:].set(False)}
  data = knowledge.Batch(jnp.int32(x), jnp.int32((x + 1) % 5), jnp.arange(12, dtype=jnp.int32), extra=marks)
  frozen = committee([teacher], [teacher.init(jax.random.key(5))])
  method = knowledge.student_method(
    network, row.build()(**options), optimizer=make_optimizer("sgd", 0.5), targets=frozen.targets, **extra
  )
  return Toy(method, _updates(data, targets=frozen.arrays), objective)


class Kind(NamedTuple):
  """How a row's toy is made: by whom, the metric that must fall, what else the maker is told, the builder's options."""

  make: Callable[..., Toy]
  objective: str
  extra: dict = {}
  options: dict = {}


TOYS: dict[str, Kind] = {
  "datm": Kind(_trajectory, "match/loss"),
  "mtt": Kind(_trajectory, "match/loss"),
  "ce": Kind(_student, "loss/ce"),
  "kd": Kind(_student, "loss/kd"),
  "dkd": Kind(_student, "loss/ce", {}, {"warmup_epochs": 0.0}),
  "dist": Kind(_student, "loss/dist", {}, {"temperature": 1.0, "beta": 0.5, "gamma": 0.5, "ce_weight": 0.0}),
  "pld": Kind(_student, "loss/pld"),
  "fitnets": Kind(_student, "loss/hint", {}, {"tap": "block0", "hint_weight": 1.0}),
  "at": Kind(_student, "loss/at", {"networks": CONVS}, {"taps": "all", "at_weight": 5.0}),
  "rkd": Kind(_student, "loss/distance", {}, {"distance_weight": 5.0, "angle_weight": 5.0}),
  "crd": Kind(_student, "loss/crd", {}, {"features": 4, "negatives": 6}),
  "crd_inbatch": Kind(_student, "loss/contrast", {}, {"features": 4}),
  "reviewkd": Kind(_student, "loss/review", {}, {"taps": "block0", "review_weight": 1.0, "warmup_epochs": 0.0}),
  "nd": Kind(_student, "loss/nd", {}, {"dropout": 0.0}),
  "sinkd": Kind(_student, "loss/sinkhorn", {}, {"ce_weight": 0.0, "kd_weight": 0.0, "sd_weight": 1.0}),
  "ofa": Kind(_student, "loss/exits", {}, {"stages": "block0", "targets": "labels", "exit_weight": 0.3}),
  "trg": Kind(_student, "loss/global", {}, {"level": "instance", "tokens": 1, "neighbours": 2, "kd_weight": 0.0}),
  "kd3": Kind(_student, "loss/feature", {"networks": MEANS}, {"contrast_size": 4}),
  "cwd": Kind(_maps, "loss/cwd"),
  "lad": Kind(_maps, "loss/cwd"),
  "tgeo_kd": Kind(_student, "loss/fused"),
  "swing": Kind(_tokens, "loss/ce", {}, {"ce_weight": 1.0}),
  "meal_v2": Kind(_student, "loss/ce", {}, {"hard_weight": 0.5}),
  "ssld": Kind(_student, "loss/divergence"),
}
