"""What the stages of one run share: configuration, data, network, directories, and how to stop."""

import contextlib
import functools
import hashlib
import io
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jdistill import config as config_lib
from jdistill import data
from jdistill.augment import dsa
from jdistill.base import Augmentation, Pool, UserError
from jdistill.data import preprocess
from jdistill.files import read_json, read_npz, remove_leftovers, write_json, write_npz
from jdistill.reporting import environment, peak_memory_bytes
from jdistill.training import distributed, parallel

_FORMAT = 1  # raised when the meaning of stored experts or preprocessing changes


class Interrupted(Exception):
  """The user asked the run to stop; what was done is saved."""


class _Silence(io.TextIOBase):
  """Where processes print that do not write."""

  def write(self, text: str) -> int:
    return len(text)


def lead(work: Callable[[], Any]) -> Any:
  """`distributed.lead` for stages: process 0 does something and the others wait for it, its refusals included."""
  return distributed.lead(work, (UserError, Interrupted))


class Context:
  """One run: a resolved configuration, its work directory and the artefacts it shares with other runs.

  Every family of methods has a subclass that knows what its configurations say.

  Attributes:
    left: what a finished stage must have left for others, by stage.
  """

  left: Mapping[str, tuple[str, ...]] = {}

  def __init__(self, config: Mapping[str, Any], workdir: Path, artefacts: Path, stream=None):
    self.config = config
    self.workdir = Path(workdir)
    self.artefacts = Path(artefacts)
    self.stream = stream if stream is not None else sys.stderr
    if not distributed.is_writer():
      self.stream = _Silence()
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
    found = found if isinstance(found, dict) else {}
    differing = config_lib.difference(config_lib.what(found), config_lib.what(self.config))
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
    self._check_alike()
    lead(self.check_workdir)
    lead(self._read)  # first process 0, which may have to download or to fit; then the others
    self._read()
    self.check_family()

  def check_family(self) -> None:
    """What a family of methods refuses beyond that."""

  def goes_on(self) -> str:
    """Where the same command will take the run up again: `"the run goes on from ..."`."""
    for stage in self.config["stages"]:
      if not (self.workdir / "stages" / f"{stage}.json").exists():
        return f"the run goes on from {self.step_of(stage)}stage {stage}"
    return "the run is nearly finished"

  def check_data(self, loaded: data.Dataset) -> None:
    """Refuses what only the data can refute."""

  def step_of(self, stage: str) -> str:
    """`"step N of "` where a stage is saved step by step."""
    del stage
    return ""

  def _check_alike(self) -> None:
    """Refuses a process that was started with another configuration than process 0."""
    differing = config_lib.difference(lead(lambda: self.config), self.config)
    if differing:
      there = differing[0].replace("(there)", "(process 0)").replace("(now)", "(this process)")
      raise UserError(f"{there}: give all processes of a run the same flags, but for --process_id")

  def _read(self) -> None:
    """Reads and checks the data, and fits their preprocessing."""
    _ = self.preprocessing

  def devices(self, axis: str) -> int:
    """How many devices serve an axis of the section `parallel`; where it is open, as many as have something to do."""
    raise AttributeError(axis)

  def mesh(self, axis: str) -> Mesh | None:
    """The devices of one axis of the section `parallel`; `None` for one device, and where process 0 works alone."""
    if distributed.is_alone() or (size := self.devices(axis)) == 1:
      return None
    return parallel.make_mesh(**{axis: size}, devices=parallel.process_devices(size))

  def together(self, axis: str, work: Callable[[], None]) -> None:
    """Runs a stage on all processes if it shares devices, else on process 0 while the others wait."""
    if self.mesh(axis) is not None:
      work()
    else:
      lead(work)

  def pool(self) -> Pool | None:
    """What trains independent networks at once; `None` for one device."""
    mesh = self.mesh("pool")
    return None if mesh is None else parallel.make_pool(mesh)

  def open_workdir(self) -> None:
    """Claims the work directory for this configuration and clears what a killed run left; after `check`."""

    def write():
      remove_leftovers(self.workdir)
      write_json(self.workdir / "config.json", self.config)
      write_json(self.workdir / "environment.json", environment())

    lead(write)
    if not (self.workdir / "config.json").is_file():
      raise UserError(
        f"--workdir={self.workdir}: process 0 wrote into it and this process cannot see it; all processes need it, and "
        "--artefacts, on a filesystem that they share"
      )
    self.say(f"work directory: {self.workdir} (config {self.hash})")

  @functools.cached_property
  def dataset(self) -> data.Dataset:
    """The data set, with the subsets taken; pixels in [0, 1]."""
    c = self.config
    loaded = data.load(
      c["dataset"], data_dir=c["data_dir"], train_size=c["train_size"], test_size=c["test_size"], seed=c["seed"]
    )
    self.check_data(loaded)
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

  def augmentation(self, strategy: str) -> Augmentation:
    """Differentiable augmentation by strategy name; `"none"` for none."""
    return _augmentation(strategy)

  def key(self, name: str) -> jax.Array:
    """A random key for one purpose: streams of different names are independent."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    return jax.random.fold_in(jax.random.key(self.config["seed"]), np.uint32(number))

  # -- stages that are done -------------------------------------------------------------------------------------------

  def stops(self) -> bool:
    """Whether to stop now; the same on all processes."""
    return distributed.stop_requested(self.stop_requested)

  def finished(self, stage: str) -> dict[str, Any] | None:
    """What a finished stage left, or `None`; a stage whose files were removed is not finished."""
    path = self.workdir / "stages" / f"{stage}.json"
    whole = path.exists() and all((self.workdir / name).exists() for name in self.left.get(stage, ()))
    return read_json(path) if whole else None

  def finish(self, stage: str, begin: float, **record: Any) -> None:
    """Marks a stage as finished, with the seconds it took and what later stages want to know."""

    def write():
      spent = time.monotonic() - begin + self.spent(stage)
      figures = {"seconds": spent, "peak_memory_bytes": peak_memory_bytes(), **record}
      write_json(self.workdir / "stages" / f"{stage}.json", figures)

    lead(write)

  def spent(self, stage: str) -> float:
    """Seconds that earlier, interrupted attempts at a stage took."""
    path = self.workdir / "stages" / f"{stage}.partial.json"
    return float(read_json(path)["seconds"]) if path.exists() else 0.0

  def interrupt(self, stage: str, begin: float, what: str) -> None:
    """Notes the time spent and raises `Interrupted`."""

    def write():
      spent = time.monotonic() - begin + self.spent(stage)
      write_json(self.workdir / "stages" / f"{stage}.partial.json", {"seconds": spent})

    lead(write)
    raise Interrupted(what)

  @contextlib.contextmanager
  def catch_signals(self) -> Iterator[None]:
    """Makes Ctrl-C and a termination request stop all processes at the next safe point; a second one stops at once."""

    def handler(number, frame):
      del number, frame
      if self.stop_requested:
        raise KeyboardInterrupt
      self.stop_requested = True
      print(
        "\nstopping at the next safe point; press Ctrl-C again to stop at once",
        file=self.stream if distributed.is_writer() else sys.stderr,
        flush=True,
      )
      distributed.request_stop()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
      yield
    finally:
      for number, former in before.items():
        signal.signal(number, former)


@functools.lru_cache(maxsize=16)
def _augmentation(strategy: str) -> Augmentation:
  return dsa(strategy)
