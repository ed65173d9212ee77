"""One run: its configuration, work directory, artefacts, tasks, networks, devices and random keys."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jdistill import data, models, tasks
from jdistill.base import Batch, Network, UserError
from jdistill.data import preprocess
from jdistill.files import read_npz, sha256_arrays, write_npz
from jdistill.reporting import duration
from jdistill.runs import locked, whitening
from jdistill.runs.workdir import WorkDirectory, on_first
from jdistill.tasks import Request, Task, fingerprint
from jdistill.training import distributed, parallel

_FORMAT = 3  # raised when the meaning of stored artefacts changes
_REQUESTED = ("dataset", "data_dir", "train_size", "test_size", "preprocessing", "validation_size", "seed")


class Run(WorkDirectory):
  """What the stages of a run share.

  Attributes:
    artefacts: where teachers and fitted preprocessing lie, shared by runs.
    load, fit: read a data set and fit its preprocessing; planning replaces them where a set is known by its name.
  """

  def __init__(self, config: Mapping[str, Any], workdir: Path, artefacts: Path, stream=None):
    super().__init__(config, workdir, stream)
    self.artefacts = Path(artefacts)
    self.load: Callable[..., data.Dataset] = data.load
    self.fit = self._fit
    self._fingerprints: dict[int, str] = {}
    self._tasks: dict[str, Task] = {}
    self._last: tuple[tuple, Any] = ((), None)

  def within(self, name: str, config: Mapping[str, Any]) -> "Run":
    """A run in the directory `name` of this one's, of another configuration with the same data, log and stop."""
    other = Run(config, self.workdir / name, self.artefacts, self.stream)
    other.load, other.fit, other._tasks, other._asked = self.load, self.fit, self._tasks, self._asked
    return other

  # -- data and networks ----------------------------------------------------------------------------------------------

  def task(self, section: Mapping[str, Any] | None = None) -> Task:
    """The data and score of a section `task`, the run's own if not given; read once."""
    section = dict(self.config["task"] if section is None else section)
    name = json.dumps(section, sort_keys=True)
    if name not in self._tasks:
      request = Request(*(self.config[key] for key in _REQUESTED), load=self.load, fit=self.fit)
      self._tasks[name] = tasks.builder(section.pop("name"))(request, **section)
    return self._tasks[name]

  def read(self) -> None:
    """Reads the data of all arms; process 0 first, which may have to download or to fit."""

    def read():
      for section in self.sections():
        self.task(section)

    on_first(read)
    read()

  def sections(self) -> list[Mapping[str, Any]]:
    """The sections `task` of the run and of its arms."""
    return [self.config["task"], *(arm["task"] for arm in self.config.get("arms", {}).values())]

  def _fit(self, kind: str, pixels: np.ndarray) -> preprocess.Preprocessing:
    """Preprocessing fitted on training images; ZCA, which can take long, is kept among the artefacts."""
    if kind != "zca":
      return preprocess.fit(kind, pixels)
    path = self.artefact("zca", data=sha256_arrays({"pixels": pixels})).with_suffix(".npz")
    if path.exists():
      try:
        return preprocess.from_arrays(read_npz(path))
      except UserError:
        self.log(f"whitening: {path} is damaged; it is made again")
        path.unlink()
    lock = locked.wait_for(self, path.parent)
    try:
      if not path.exists():  # another run may have made it meanwhile
        begin = time.monotonic()
        self.log(f"whitening: {whitening.cost(pixels.shape)}")
        fitted = preprocess.fit(kind, pixels)
        write_npz(path, preprocess.to_arrays(fitted))
        self.log(f"whitening: {fitted.vectors.shape[1]:,} directions in {duration(time.monotonic() - begin)}")
    finally:
      lock.release()
    return preprocess.from_arrays(read_npz(path))

  def network(self, section: Mapping[str, Any] | str | None = None, task: Task | None = None) -> Network:
    """A network that fits a task: of a section, or by name with its default options; that of `model` if not given."""
    task = task or self.task()
    own = self.config.get("model", {})
    if section is None or section == own.get("name"):
      section = own
    choices = {"name": section} if isinstance(section, str) else dict(section)
    choices = {key: tuple(value) if isinstance(value, list) else value for key, value in choices.items()}
    try:
      network = models.build(choices.pop("name"), num_classes=task.num_classes, image_shape=task.input_shape, **choices)
      if task.kind == "images":
        models.describe(network, task.input_shape)
    except UserError as error:
      joint = "." if str(error).partition(":")[0] in choices else ": "
      raise UserError(f"{self._key_of(section)}{joint}{error}") from error
    return network

  def _key_of(self, section: Mapping[str, Any] | str) -> str:
    """What the user calls the section of a network."""
    if isinstance(section, str):
      return "eval.models"
    found = [name for name in ("model", "teacher", "student", "encoder") if self.config.get(name) == section]
    arms = self.config.get("arms", {}).items()
    found += [f"arms.{label}: {name}" for label, arm in arms for name in ("teacher", "student") if arm[name] == section]
    return found[0] if found else "network"

  def fingerprint(self, batch: Batch) -> str:
    """The fingerprint of some examples; computed once."""
    if id(batch.x) not in self._fingerprints:
      self._fingerprints[id(batch.x)] = fingerprint(batch)
    return self._fingerprints[id(batch.x)]

  def once(self, name: tuple, make: Callable[[], Any]) -> Any:
    """What `make` gives, made once; only the last is kept."""
    if self._last[0] != name:
      self._last = name, make()
    return self._last[1]

  # -- names ----------------------------------------------------------------------------------------------------------

  @property
  def subject(self) -> str:
    """What the run is about, and the label of its own arm: its method, unless the experiment names another subject."""
    return self.config.get("subject") or self.config["method"]["name"]

  def artefact(self, kind: str, **identity: Any) -> Path:
    """Where an artefact lies, named by a hash of all that determines it."""
    return self.artefacts / kind / self.key_of(**identity)

  def key_of(self, **parts: Any) -> str:
    """A hash of what determines something."""
    text = json.dumps({"format": _FORMAT, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  def key(self, name: str) -> jax.Array:
    """A random key for one purpose: streams of different names are independent."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    return jax.random.fold_in(jax.random.key(self.config["seed"]), np.uint32(number))

  # -- devices --------------------------------------------------------------------------------------------------------

  def devices(self, axis: str, wanted: int = 1) -> int:
    """How many devices serve an axis of the section `parallel`.

    Args:
      axis: `"pool"` for independent networks, `"data"` for the rows of a batch.
      wanted: how many have something to do; taken where the configuration leaves the number open.
    """
    size = self.config["parallel"][axis]
    if size is not None:
      return size
    processes = distributed.count()
    most = min(len(jax.devices()), wanted)
    return most // processes * processes or 1

  def mesh(self, axis: str, wanted: int = 1) -> Mesh | None:
    """The devices of one axis; `None` for one device, and where process 0 works alone."""
    if distributed.is_alone() or (size := self.devices(axis, wanted)) == 1:
      return None
    return parallel.make_mesh(**{axis: size}, devices=parallel.process_devices(size))

  def together(self, mesh: Mesh | None, work: Callable[[], None]) -> None:
    """Does something on all processes if they share devices, else on process 0 while the others wait."""
    if mesh is not None:
      work()
    else:
      on_first(work)
