"""A distilled set opened for use: its images, labels and learned rate with everything that must be applied to them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from jdistill import data, export, models, schema
from jdistill.augment import cell_sides, of_protocol, view
from jdistill.base import Augmentation, Diverged, Network, UserError
from jdistill.data import checks, preprocess
from jdistill.evaluation import (
  FEATURES,
  LOSSES,
  OPTIMIZERS,
  SCHEDULES,
  Pretrained,
  Protocol,
  evaluate_seeds,
  examples_of,
  pretrained,
)
from jdistill.files import user_path


class _Protocol(NamedTuple):
  """The numbers of a set's protocol, as `Protocol` takes them."""

  epochs: schema.Count
  batch_size: schema.Count
  momentum: Annotated[float, schema.Range(0, 0.999)]
  weight_decay: schema.NonNegative
  augment: str
  loss: Annotated[str, schema.Choice((*LOSSES, FEATURES))] = "ce"
  optimizer: Annotated[str, schema.Choice(OPTIMIZERS)] = "sgd"
  view: str = "none"
  cells: schema.Count = 1
  crop_scale: Annotated[float, schema.Above(0), schema.Range(high=1)] | None = None
  flip: bool = False
  schedule: Annotated[str, schema.Choice(SCHEDULES)] = "step"
  decay_all: bool = True


class _Arguments(NamedTuple):
  """The numbers that `Distilled.evaluate` takes."""

  seeds: schema.Count
  epochs: schema.Count | None
  lr: schema.Positive | None
  seed: schema.Size


class _Subset(NamedTuple):
  """Which part of its data set a set is of."""

  train_size: schema.Count | None = None
  test_size: schema.Count | None = None
  seed: schema.Size = 0


def _checked(where: str, values: Mapping[str, Any], declared: type) -> dict[str, Any]:
  """The values that a `NamedTuple` declares, in their types."""
  fields = schema.fields(declared)
  # sets that older releases exported lack what has a default
  known = {name: field.default for name, field in fields.items() if field.default is not schema.REQUIRED} | dict(values)
  return {name: schema.checked(f"{where}.{name}", known.get(name), field) for name, field in fields.items()}


class Evaluation(NamedTuple):
  """Test accuracies of fresh networks trained on a distilled set.

  Attributes:
    model: the network's name.
    accuracies: one fraction per seed.
  """

  model: str
  accuracies: tuple[float, ...]

  @property
  def mean(self) -> float:
    """Mean accuracy."""
    return float(np.mean(self.accuracies))

  @property
  def std(self) -> float:
    """Sample standard deviation; 0 for one seed."""
    return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0

  def __str__(self) -> str:
    return f"{self.model}: {self.mean:.3f} ± {self.std:.3f} over {len(self.accuracies)} networks"


class Distilled:
  """A distilled set with its preprocessing, labels, learned rate and protocol; made by `jdistill.load`."""

  def __init__(self, stored: export.DistilledSet):
    self._stored = export.whole(stored)
    self._preprocessing = preprocess.from_arrays(stored.preprocessing)
    self._protocol = _checked("protocol", stored.protocol, _Protocol)
    _augmentation(self._protocol)
    cell_sides(self.images.shape[1:3], self._protocol["cells"], key="protocol.cells")
    view(self._protocol["view"], key="protocol.view", image_shape=self.images.shape[1:])

  @property
  def images(self) -> np.ndarray:
    """`[m, height, width, channels]` float32 in network space: what to train on."""
    return self._stored.images

  @property
  def labels(self) -> np.ndarray:
    """`[m, classes]` float32 label logits (take their softmax), or `[m]` int32 classes.

    Where the protocol's loss is `"mse"`, logits are what a network's outputs regress to; where it is `"features"`, they
    are feature targets `[m, width]`, which belong to no classes."""
    return self._stored.labels

  @property
  def learned_lr(self) -> float:
    """The SGD learning rate that was learned with the set."""
    return self._stored.learned_lr

  @property
  def class_names(self) -> tuple[str, ...]:
    """Names of the classes, in the order of the labels."""
    return self._stored.class_names

  @property
  def provenance(self) -> dict[str, Any]:
    """Method, paper, data set, configuration and its hash."""
    return self._stored.provenance

  @property
  def pixels(self) -> np.ndarray:
    """The images to look at: preprocessing undone, clipped to [0, 1]."""
    return np.clip(preprocess.invert(self._preprocessing, self._stored.images), 0.0, 1.0)

  def preprocess(self, x: np.ndarray) -> np.ndarray:
    """Takes real images to the space of `images`: test images need it too.

    Args:
      x: `[n, height, width, channels]`, uint8 in 0..255 or floats in [0, 1].

    Raises:
      UserError: another shape than the set's, or values that are no pixels.
    """
    return self._preprocessed(x, "images")

  def _preprocessed(self, x: np.ndarray, name: str) -> np.ndarray:
    pixels = checks.checked_pixels(x, name)
    checks.require_same_shape(self.images.shape[1:], pixels.shape[1:], name, ("distilled", "these"))
    return np.asarray(preprocess.transform(self._preprocessing, pixels), np.float32)

  def test_set(self, data_dir: str | os.PathLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The test images of the data set it came from, in [0, 1], and their labels.

    Args:
      data_dir: where TFDS keeps its sets; `None` for its default.

    Raises:
      UserError: the data set is not there, or is not the one the set was distilled from.
    """
    known = self.provenance.get("dataset")
    if not isinstance(known, Mapping) or not all(isinstance(known.get(name), str) for name in ("name", "fingerprint")):
      raise UserError(f"provenance.dataset={known!r}: names no data set; pass test=(images, labels)")
    source = data.load(
      known["name"],
      data_dir=data_dir,
      **_checked("provenance.dataset", known, _Subset),
    )
    if source.fingerprint != known["fingerprint"]:
      raise UserError(
        f"dataset {known['name']!r}: its content differs from the one this set was distilled from (fingerprint "
        f"{source.fingerprint[:12]}, not {known['fingerprint'][:12]}); pass test=(images, labels) to use it anyway"
      )
    return source.test_x, source.test_y

  def evaluate(
    self,
    model: str | None = None,
    *,
    seeds: int = 5,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    data_dir: str | os.PathLike | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    **options: Any,
  ) -> Evaluation:
    """Trains fresh networks on the set under its own protocol and tests them.

    Soft labels, learned rate, preprocessing of the test images, augmentation and view are applied as they were meant.

    Args:
      model: a network of `jdistill.models.names()`; the one the set was distilled with if `None`.
      seeds: how many networks.
      test: test images, floats in [0, 1] or uint8 in 0..255, and integer labels `[n]` or `[n, 1]`; the data set's own
        test images if `None`.
      data_dir: where TFDS keeps its sets; only used if `test` is `None`.
      epochs: instead of the protocol's.
      lr: instead of the learned rate.
      seed: decides initialisations, orders and augmentations.
      **options: options of the network, such as `width=64`.

    Returns:
      `Evaluation`; print it.

    Raises:
      UserError: an unknown network or option, a number out of its bounds, no test images, or some that do not fit.
    """
    given = _checked("evaluate", {"seeds": seeds, "epochs": epochs, "lr": lr, "seed": seed}, _Arguments)
    protocol = self._protocol
    if protocol["loss"] == FEATURES:
      raise UserError("evaluate: this set has feature targets and trains no classifier; use pretrain()")
    name, network = self._network(model, len(self.class_names), options)
    test_x, test_y = self._test(self.test_set(data_dir) if test is None else test)
    rules = _rules(protocol, epochs=given["epochs"])
    classes = len(self.class_names) if protocol["loss"] == "mse" else None
    shown = view(protocol["view"]).view
    accuracies = evaluate_seeds(
      network,
      rules,
      examples_of(self.images, self.labels, num_classes=classes, loss=protocol["loss"], view=shown),
      given["lr"] or self.learned_lr,
      test_x,
      test_y,
      key=jax.random.key(given["seed"]),
      seeds=given["seeds"],
    )
    if not np.isfinite(accuracies).all():
      rate = given["lr"] or self.learned_lr
      raise Diverged(f"evaluate.lr={rate:.3g}: training on the set diverges; give a lower one")
    return Evaluation(name, tuple(accuracies))

  def pretrain(
    self,
    model: str | None = None,
    *,
    seeds: int = 1,
    epochs: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    **options: Any,
  ) -> list[Pretrained]:
    """Trains fresh networks on a set with feature targets, under its own protocol.

    Args:
      model: a network of `jdistill.models.names()`; the one the set was distilled with if `None`.
      seeds: how many networks.
      epochs, lr: instead of the protocol's.
      seed: decides initialisations and orders.
      **options: options of the network, such as `width=64`.

    Returns:
      One `Pretrained` per seed.

    Raises:
      UserError: the set has labels of classes; an unknown network or option, or a number out of its bounds.
    """
    given = _checked("pretrain", {"seeds": seeds, "epochs": epochs, "lr": lr, "seed": seed}, _Arguments)
    protocol = self._protocol
    if protocol["loss"] != FEATURES:
      raise UserError("pretrain: this set has labels of classes and no feature targets; use evaluate()")
    _, network = self._network(model, self.labels.shape[1], options)
    rules = _rules(protocol, epochs=given["epochs"])
    examples, rate = examples_of(self.images, self.labels, loss=FEATURES), given["lr"] or self.learned_lr
    found = pretrained(network, rules, examples, rate, self.preprocess, seed=given["seed"], seeds=given["seeds"])
    if found is None:
      raise Diverged(f"pretrain.lr={rate:.3g}: training on the set diverges; give a lower one")
    return found

  def _network(self, model: str | None, outputs: int, options: dict[str, Any]) -> tuple[str, Network]:
    """The name and the network that a user asks for, with the set's own options where it is the set's own."""
    own = self._stored.protocol.get("model", {})
    if not isinstance(own, Mapping) or not isinstance(own.get("name", ""), str):
      raise UserError(f"protocol.model={own!r}: is no network; export the set again")
    if not isinstance(model, str | None):
      raise UserError(f"model={model!r}: must be the name of a network; choose one of {', '.join(models.names())}")
    own = dict(own)
    name = own.pop("name", "convnet")
    if model in (None, name):
      options = {key: tuple(value) if isinstance(value, list) else value for key, value in own.items()} | options
    shape = self.images.shape[1:]
    try:
      network = models.build(model or name, num_classes=outputs, image_shape=shape, **options)
    except UserError as error:
      raise UserError(f"model {model or name!r}: {error}") from error
    return model or name, network

  def to_png_folder(self, directory: str | os.PathLike) -> list[Path]:
    """`jdistill.export.to_png_folder` of this set: one PNG per image, lossy."""
    return export.to_png_folder(directory, self.pixels, self.labels, self.class_names)

  def to_torch(self, path: str | os.PathLike) -> None:
    """`jdistill.export.to_torch` of this set: one `.pt` file with everything."""
    export.to_torch(path, self._stored)

  def to_mtt(self, directory: str | os.PathLike) -> list[Path]:
    """`jdistill.export.to_mtt` of this set: the three `.pt` files that MTT's and DATM's evaluators load."""
    return export.to_mtt(directory, self._stored)

  def _test(self, test: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Test images in network space and their classes, checked like those of a data set."""
    try:
      images, labels = test
    except (TypeError, ValueError) as error:
      raise UserError("test: give a pair (images, labels)") from error
    images = self._preprocessed(images, "test images")
    labels = checks.checked_labels(labels, len(images), "test")
    checks.require_known_labels(labels, len(self.class_names), "test")
    return images, labels

  def __repr__(self) -> str:
    labels = "soft labels" if self.labels.ndim == 2 else "hard labels"
    labels = "feature targets" if self._protocol["loss"] == FEATURES else labels
    return f"Distilled({self.images.shape[0]} images {self.images.shape[1:]}, {labels}, lr {self.learned_lr:.4g})"


def _augmentation(stored: Mapping[str, Any]) -> Augmentation:
  """What a set's protocol does to its images."""
  own = {"cells": stored["cells"], "crop_scale": stored["crop_scale"], "mirror": stored["flip"]}
  return of_protocol(stored["augment"], **own, key="protocol.augment")


def _rules(stored: Mapping[str, Any], *, epochs: int | None) -> Protocol:
  """A set's protocol, perhaps with other epochs; its view is a matter of the examples."""
  known = {name: value for name, value in stored.items() if name in Protocol._fields}
  return Protocol(**known | {"epochs": epochs or stored["epochs"], "augment": _augmentation(stored)})


def load(path: str | os.PathLike) -> Distilled:
  """Opens a distilled set: a run's `result` directory, or its `.npz` alone.

  Args:
    path: the directory or file.

  Returns:
    `Distilled`.

  Raises:
    UserError: it is missing, damaged (checksums), or not a distilled set.
  """
  path = user_path(path, "set")
  if (path / "result").is_dir():  # the whole work directory was given
    path = path / "result"
  return Distilled(export.load(path))
