"""What the stages of data-set distillation share beyond every run's context."""

import jax

from jdistill import config as config_lib
from jdistill import data, models
from jdistill.base import Network, UserError
from jdistill.stages import context
from jdistill.training import distributed, parallel


class Context(context.Context):
  """A run of data-set distillation."""

  left = {
    "distill": ("stages/initial.npz", "stages/distilled.npz"),
    "evaluate": ("stages/evaluations.json",),
    "export": ("result/checksums.json",),
  }

  def check_family(self) -> None:
    """Refuses devices, networks and augmentations that cannot work."""
    self._check_parallel()
    for name in (None, *self.config["eval"]["models"]):
      models.describe(self.network(name), self.dataset.image_shape)
    for section in ("experts", "eval", "method"):
      self.augmentation(self.config[section]["augment"])

  def _check_parallel(self) -> None:
    """Refuses devices that are not there or cannot share the work."""
    c, how = self.config, self.config["parallel"]
    parallel.check_sizes(how["pool"] or 1, how["data"] or 1)
    if "distill" not in c["stages"]:
      return
    data, (_, batch), chunk = self.devices("data"), self.rows(), c["method"]["chunk_size"]
    if how["route"] == "pmap" and data > 1 and distributed.count() > 1:
      raise UserError("parallel.route='pmap': is for one process; use 'shard_map' or 'jit'")
    if data > 1:
      parallel.check_rows(batch, self.mesh("data"))
    if chunk is not None and chunk < batch // data and batch // data % chunk:
      raise UserError(
        f"method.chunk_size={chunk}: does not divide the {batch // data} images of an inner step"
        f"{f' on each of {data} devices' if data > 1 else ''}; use a divisor, or None"
      )

  def rows(self) -> tuple[int, int]:
    """How many synthetic images there are, and how many of them an inner step sees."""
    count = self.config["ipc"] * self.dataset.num_classes
    return count, min(self.config["method"]["batch_size"] or count, count)

  def devices(self, axis: str) -> int:
    """How many devices serve an axis of the section `parallel`; where it is open, as many as have something to do."""
    c = self.config
    size = c["parallel"][axis]
    if size is not None:
      return size
    processes, there = distributed.count(), len(jax.devices())
    if axis == "pool":
      most = min(there, c["experts"]["count"], c["eval"]["seeds"])
      return most // processes * processes or 1
    if c["parallel"]["route"] == "pmap" and processes > 1:
      return 1
    if c["parallel"]["route"] != "jit" and c["method"]["gradient"] in ("full", "remat"):
      return 1
    return parallel.suggest_data(self.rows()[1], there, processes)

  def network(self, name: str | None = None) -> Network:
    """The network of the configuration, or another of the zoo with its default options."""
    model = dict(self.config["model"])
    own = model.pop("name")
    options = model if name in (None, own) else {}
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return models.build(
      name or own, num_classes=self.dataset.num_classes, image_shape=self.dataset.image_shape, **options
    )

  def check_data(self, loaded: data.Dataset) -> None:
    """Too few images for `ipc`, batches larger than the set."""
    config_lib.check_against_data(self.config, loaded)

  def step_of(self, stage: str) -> str:
    """`"step N of "`, from the newest checkpoint of stage `distill`."""
    if stage != "distill":
      return ""
    saved = [int(path.stem) for path in (self.workdir / "checkpoints").glob("*.json") if path.stem.isdigit()]
    return f"step {max(saved, default=0)} of "
