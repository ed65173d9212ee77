"""What the stages of knowledge distillation share beyond every run's context."""

import functools
import json
from collections.abc import Mapping
from typing import Any

import jax

from jdistill import augment, catalog, models
from jdistill.base import Augmentation, Network
from jdistill.stages import context
from jdistill.tasks.task import Request, Task, fingerprint
from jdistill.training import distributed, parallel

_BASIC = {"crop_flip": lambda: augment.flip_crop(4)}


class Context(context.Context):
  """A run of knowledge distillation."""

  left = {"students": ("stages/results.json",), "tune": ("stages/tuned.json",)}

  def _read(self) -> None:
    for arm in self.config["arms"].values():
      self.task(arm["task"])

  def check_family(self) -> None:
    """Refuses devices, networks and augmentations that cannot work, and students that fit no data."""
    c = self.config
    parallel.check_sizes(c["parallel"]["pool"] or 1, c["parallel"]["data"] or 1)
    for arm in c["arms"].values():
      task = self.task(arm["task"])
      for section in ("student", "teacher"):
        self.network(arm[section], task)
      for section in ("train", "teacher_train", "start_train"):
        self.augmentation(arm[section].get("augment", "none"))
      task.members(0)

  def task(self, section: Mapping[str, Any]) -> Task:
    """The data and score of a section `task`; read once."""
    return self._tasks(json.dumps(dict(section), sort_keys=True))

  @functools.cached_property
  def _tasks(self):
    @functools.lru_cache(maxsize=8)
    def build(text: str) -> Task:
      c, section = self.config, json.loads(text)
      names = ("dataset", "data_dir", "train_size", "test_size", "preprocessing", "validation_size", "seed")
      return catalog.task(section.pop("name"))(Request(*(c[name] for name in names)), **section)

    return build

  @functools.cached_property
  def fixed(self) -> set[str]:
    """Arms whose method decides in Python about the numbers that are searched, so that each needs a program."""
    return set()

  @functools.cached_property
  def _fingerprints(self) -> dict[int, str]:
    return {}

  def fingerprint(self, data) -> str:
    """The fingerprint of some examples; computed once."""
    if id(data.x) not in self._fingerprints:
      self._fingerprints[id(data.x)] = fingerprint(data)
    return self._fingerprints[id(data.x)]

  def network(self, section: Mapping[str, Any], task: Task) -> Network:
    """The network of a section `teacher` or `student`, checked against the inputs."""
    choices = {key: tuple(value) if isinstance(value, list) else value for key, value in section.items()}
    network = models.build(choices.pop("name"), num_classes=task.num_classes, image_shape=task.input_shape, **choices)
    if task.kind == "images":
      models.describe(network, task.input_shape)
    return network

  def augmentation(self, strategy: str) -> Augmentation:
    """`"crop_flip"` (pad 4, crop, mirror), or a strategy of differentiable augmentation; `"none"` for none."""
    return _BASIC[strategy]() if strategy in _BASIC else super().augmentation(strategy)

  def devices(self, axis: str) -> int:
    """How many devices train seeds, where it is open as many as there are seeds; and, of `"data"`, share a batch."""
    size = self.config["parallel"][axis]
    if axis != "pool":
      return size or 1
    if size is not None:
      return size
    most = min(len(jax.devices()), self.config["seeds"])
    return most if distributed.count() == 1 else most // distributed.count() * distributed.count() or 1
