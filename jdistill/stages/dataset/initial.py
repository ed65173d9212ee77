"""How a run's synthetic set starts, and the soft labels that experts give to real images."""

import functools
from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np

from jdistill import models
from jdistill.base import UserError, Variables
from jdistill.evaluation import predict
from jdistill.stages.dataset.context import Context
from jdistill.synthetic import SyntheticSet, correctly_predicted, expert_label_logits, random_real
from jdistill.teachers import ExpertBuffer


def expert_logits(ctx: Context, buffer: ExpertBuffer, images: np.ndarray, experts: Iterable[int]) -> np.ndarray:
  """Logits `[experts, n, classes]` of the given experts' last snapshots on images in network space."""
  network = ctx.network()
  unravel = models.flatten(network).unravel
  return np.stack(
    [predict(network, Variables(unravel(jnp.asarray(buffer.snapshot(index, -1)))), images) for index in experts]
  )


def pick_images(ctx: Context, buffer: ExpertBuffer) -> np.ndarray:
  """Positions of the real images that the synthetic set starts from."""
  labels, classes, ipc = ctx.dataset.train_y, ctx.dataset.num_classes, ctx.config["ipc"]
  make_rng = functools.partial(np.random.default_rng, (ctx.config["seed"], 2))
  if ctx.config["method"]["initial"] == "real":
    return random_real(make_rng(), labels, ipc, classes)
  logits = []
  for expert in range(ctx.config["experts"]["count"]):  # nearly always the first one is enough
    logits.append(expert_logits(ctx, buffer, ctx.train_x, [expert])[0])
    try:
      return correctly_predicted(make_rng(), np.stack(logits), labels, ipc, classes)
    except UserError as error:
      refused = error
  raise refused


def soft_labels(ctx: Context, buffer: ExpertBuffer, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Label logits `[m, classes]` of real images, as DATM starts from them."""
  return expert_label_logits(expert_logits(ctx, buffer, images, range(ctx.config["experts"]["count"])), labels)


def initial_set(ctx: Context, buffer: ExpertBuffer) -> SyntheticSet:
  """The synthetic set before the first step, on the host."""
  picked = pick_images(ctx, buffer)
  images, labels = ctx.train_x[picked], ctx.dataset.train_y[picked]
  if ctx.config["method"]["labels"] == "soft":
    labels = soft_labels(ctx, buffer, images, labels)
  return SyntheticSet(images, labels, np.float32(ctx.config["method"]["lr_init"]))
