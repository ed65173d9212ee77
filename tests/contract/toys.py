"""Every method of the catalog at toy size. A new row needs a toy here; all contract tests then run over it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import catalog, losses, models
from jdistill.base import Method, PyTree
from jdistill.methods import knowledge
from jdistill.methods.dataset import Segment
from jdistill.methods.optimizers import make_optimizer
from jdistill.synthetic import SyntheticSet
from jdistill.teachers.frozen import committee


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


def make(name: str) -> Toy:
  """The toy of a method of the catalog."""
  return TOYS[name](catalog.row(name))


def _trajectory(row: catalog.Row) -> Toy:
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
  return Toy(method, lambda step: segments[step % len(segments)], "match/loss")


def _student(row: catalog.Row, objective: str, **options) -> Toy:
  """Two steps per epoch over twelve images of 2x2 pixels and three classes, taught by a fixed random network."""
  shape = {"num_classes": 3, "image_shape": (2, 2, 1)}
  network, teacher = (models.build("mlp", widths=widths, **shape) for widths in ((8,), (8, 6)))
  rng = np.random.default_rng(0)
  x, y = jnp.float32(rng.normal(size=(12, 2, 2, 1))), jnp.asarray(rng.integers(0, 3, 12), jnp.int32)
  data = knowledge.Data(x, y, jnp.arange(12, dtype=jnp.int32))
  recipe = row.build()(**options)
  frozen = committee([teacher], [teacher.init(jax.random.key(5))])
  method = knowledge.student_method(
    network, recipe, optimizer=make_optimizer("sgd", 0.2), batch_size=6, teacher=frozen.outputs
  )
  constants = ()
  if recipe.prepare is not None:
    constants = recipe.prepare(frozen.outputs(frozen.arrays, x, data.ids), y, frozen.arrays)
  held_out = data if recipe.outer is not None else None

  def epoch(step: int) -> knowledge.Epoch:
    return knowledge.Epoch(jnp.int32(step), data, data.ids, frozen.arrays, constants, held_out)

  return Toy(method, epoch, objective)


TOYS: dict[str, Callable[[catalog.Row], Toy]] = {
  "datm": _trajectory,
  "mtt": _trajectory,
  "ce": lambda row: _student(row, "loss/ce"),
  "kd": lambda row: _student(row, "loss/kd"),
  "dkd": lambda row: _student(row, "loss/ce", warmup_epochs=0.0),
  "dist": lambda row: _student(row, "loss/dist", temperature=1.0, beta=0.5, gamma=0.5, ce_weight=0.0),
  "pld": lambda row: _student(row, "loss/pld"),
  "sinkd": lambda row: _student(row, "loss/sinkhorn", ce_weight=0.0, kd_weight=0.0, sd_weight=1.0),
}
