"""What the stages of one run share: configuration, data, network, directories, and how to stop."""

import contextlib
import functools
import hashlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdistill import config as config_lib
from jdistill import data, models
from jdistill.augment import dsa
from jdistill.base import Augmentation, Network, UserError
from jdistill.data import preprocess
from jdistill.files import read_json, read_npz, remove_leftovers, write_json, write_npz
from jdistill.reporting import environment, peak_memory_bytes

# what a finished stage must have left for others
_LEFT = {
  "distill": ("stages/initial.npz", "stages/distilled.npz"),
  "evaluate": ("stages/evaluations.json",),
  "export": ("result/checksums.json",),
}
_FORMAT = 1  # raised when the meaning of stored experts or preprocessing changes


class Interrupted(Exception):
  """The user asked the run to stop; what was done is saved."""


class Context:
  """One run: a resolved configuration, its work directory and the artefacts it shares with other runs."""

  def __init__(self, config: Mapping[str, Any], workdir: Path, artefacts: Path, stream=None):
    self.config = config
    self.workdir = Path(workdir)
    self.artefacts = Path(artefacts)
    self.stream = stream if stream is not None else sys.stderr
    self.stop_requested = False
    self.hash = config_lib.config_hash(config)

  def say(self, line: str) -> None:
    """Prints one line about what happens."""
    print(line, file=self.stream, flush=True)

  def check_workdir(self) -> None:
    """Refuses a work directory that is not this run's; writes nothing.

    Raises:
      UserError: it belongs to another configuration, or is a file or a directory with other things in it.
    """
    path = self.workdir / "config.json"
    if self.workdir.exists() and not self.workdir.is_dir():
      raise UserError(f"--workdir={self.workdir} is a file; choose another")
    if not path.exists():
      if self.workdir.exists() and any(self.workdir.iterdir()):
        raise UserError(f"--workdir={self.workdir} is not empty and not a work directory; choose another")
      return
    try:
      found = read_json(path)
    except UserError as error:
      raise UserError(f"{path} is damaged, so --workdir={self.workdir} cannot be told; choose another") from error
    differing = config_lib.difference(found if isinstance(found, dict) else {}, self.config)
    if differing:
      raise UserError(
        f"--workdir={self.workdir} belongs to another configuration: {'; '.join(differing[:3])}"
        f"{f' and {len(differing) - 3} more' if len(differing) > 3 else ''}; choose another --workdir"
      )

  def check(self) -> None:
    """Refuses what cannot work, as far as it can be known before any work: directories, data, networks, augmentation.

    Raises:
      UserError: the first thing that does not fit. Nothing was written into the work directory.
    """
    self.check_workdir()
    _ = self.preprocessing  # reads and checks the data
    for name in (None, *self.config["eval"]["models"]):
      models.describe(self.network(name), self.dataset.image_shape)
    for section in ("experts", "eval", "method"):
      self.augmentation(self.config[section]["augment"])

  def open_workdir(self) -> None:
    """Claims the work directory for this configuration and clears what a killed run left; after `check`."""
    remove_leftovers(self.workdir)
    write_json(self.workdir / "config.json", self.config)
    write_json(self.workdir / "environment.json", environment())
    self.say(f"work directory: {self.workdir} (config {self.hash})")

  @functools.cached_property
  def dataset(self) -> data.Dataset:
    """The data set, with the subsets taken; pixels in [0, 1]."""
    c = self.config
    loaded = data.load(
      c["dataset"], data_dir=c["data_dir"], train_size=c["train_size"], test_size=c["test_size"], seed=c["seed"]
    )
    config_lib.check_against_data(c, loaded)
    return loaded

  def key_of(self, **parts: Any) -> str:
    """The name of an artefact: a hash of all that determines it."""
    text = json.dumps({"format": _FORMAT, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  @functools.cached_property
  def preprocessing(self) -> preprocess.Preprocessing:
    """Fitted on the training images; ZCA, which takes long, is kept among the artefacts."""
    kind = self.config["preprocessing"]
    if kind != "zca":
      return preprocess.fit(kind, self.dataset.train_x)
    path = self.artefacts / "zca" / f"{self.key_of(data=self.dataset.fingerprint, kind=kind)}.npz"
    if path.exists():
      return preprocess.from_arrays(read_npz(path))
    self.say(f"fitting ZCA on {len(self.dataset.train_x)} images")
    fitted = preprocess.fit(kind, self.dataset.train_x)
    write_npz(path, preprocess.to_arrays(fitted))
    return fitted

  @functools.cached_property
  def train_x(self) -> np.ndarray:
    """Training images in network space."""
    return np.asarray(preprocess.transform(self.preprocessing, self.dataset.train_x), np.float32)

  @functools.cached_property
  def test_x(self) -> np.ndarray:
    """Test images in network space."""
    return np.asarray(preprocess.transform(self.preprocessing, self.dataset.test_x), np.float32)

  def network(self, name: str | None = None) -> Network:
    """The network of the configuration, or another of the zoo with its default options."""
    model = dict(self.config["model"])
    own = model.pop("name")
    options = model if name in (None, own) else {}
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return models.build(
      name or own, num_classes=self.dataset.num_classes, image_shape=self.dataset.image_shape, **options
    )

  def augmentation(self, strategy: str) -> Augmentation:
    """Differentiable augmentation by strategy name; `"none"` for none."""
    return _augmentation(strategy)

  def key(self, name: str) -> jax.Array:
    """A random key for one purpose: streams of different names are independent."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    return jax.random.fold_in(jax.random.key(self.config["seed"]), np.uint32(number))

  # -- stages that are done -------------------------------------------------------------------------------------------

  def finished(self, stage: str) -> dict[str, Any] | None:
    """What a finished stage left, or `None`; a stage whose files were removed is not finished."""
    path = self.workdir / "stages" / f"{stage}.json"
    whole = path.exists() and all((self.workdir / name).exists() for name in _LEFT.get(stage, ()))
    return read_json(path) if whole else None

  def finish(self, stage: str, begin: float, **record: Any) -> None:
    """Marks a stage as finished, with the seconds it took and what later stages want to know."""
    spent = time.monotonic() - begin + self.spent(stage)
    figures = {"seconds": spent, "peak_memory_bytes": peak_memory_bytes(), **record}
    write_json(self.workdir / "stages" / f"{stage}.json", figures)

  def spent(self, stage: str) -> float:
    """Seconds that earlier, interrupted attempts at a stage took."""
    path = self.workdir / "stages" / f"{stage}.partial.json"
    return float(read_json(path)["seconds"]) if path.exists() else 0.0

  def interrupt(self, stage: str, begin: float, what: str) -> None:
    """Notes the time spent and raises `Interrupted`."""
    spent = time.monotonic() - begin + self.spent(stage)
    write_json(self.workdir / "stages" / f"{stage}.partial.json", {"seconds": spent})
    raise Interrupted(what)

  @contextlib.contextmanager
  def catch_signals(self) -> Iterator[None]:
    """Makes Ctrl-C and a termination request stop at the next safe point; a second one stops at once."""

    def handler(number, frame):
      del number, frame
      if self.stop_requested:
        raise KeyboardInterrupt
      self.stop_requested = True
      self.say("\nstopping at the next safe point; press Ctrl-C again to stop at once")

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
      yield
    finally:
      for number, former in before.items():
        signal.signal(number, former)


@functools.lru_cache(maxsize=16)
def _augmentation(strategy: str) -> Augmentation:
  return dsa(strategy)
