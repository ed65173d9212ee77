"""What every configuration has, and the sections that several stages share."""

from typing import Annotated, Literal, NamedTuple

from jdistill import schema
from jdistill.config import sections
from jdistill.config.sections import Declared, Plain
from jdistill.data.preprocess import KINDS
from jdistill.methods.knowledge.forward import PRECISIONS
from jdistill.methods.optimizers import OPTIMIZERS, SCHEDULES
from jdistill.schema import Above, Choice, FileName, Positive, Range, Share


class Run(NamedTuple):
  """Keys at the top."""

  name: Annotated[str, FileName]
  stages: tuple[str, ...]
  seed: Annotated[int, Range(0, 2**31 - 1)] = 0
  dataset: str = "digits"
  data_dir: str | None = None
  train_size: Annotated[int, Range(1)] | None = None
  test_size: Annotated[int, Range(1)] | None = None
  validation_size: Annotated[int, Range(0)] = 0
  preprocessing: Annotated[str, Choice(KINDS)] = "standardize"
  log_every: Annotated[int, Range(1)] = 10
  checkpoint_seconds: Annotated[float, Range(0)] = 60.0
  tensorboard: bool = False
  memory_limit: str | None = None


class Parallel(NamedTuple):
  """On which devices a run is carried out, and by which route."""

  route: Literal["shard_map", "jit", "pmap"] = "shard_map"
  pool: Annotated[int, Range(1)] | None = None
  data: Annotated[int, Range(1)] | None = None


class Train(NamedTuple):
  """How a network is trained."""

  epochs: Annotated[int, Range(1)] = 300
  batch_size: Annotated[int, Range(1)] = 128
  optimizer: Annotated[str, Choice(OPTIMIZERS)] = "adam"
  lr: Annotated[float, Above(0)] = 0.01
  momentum: Annotated[float, Range(0, 0.9999)] = 0.9
  nesterov: bool = False
  weight_decay: Annotated[float, Range(0)] = 0.0
  decay_all: bool = True
  clip: Annotated[float, Above(0)] | None = None
  schedule: Annotated[str, Choice(SCHEDULES)] = "cosine"
  warmup_epochs: Annotated[float, Range(0)] = 0.0
  milestones: tuple[Positive, ...] = ()
  factor: Share = 0.1
  restart: tuple[Positive, ...] = ()
  final_lr: Annotated[float, Range(0)] = 0.0
  ema_decay: Annotated[float, Range(0, 1)] | None = None
  precision: Annotated[str, Choice(tuple(PRECISIONS))] = "float32"
  augment: str = "none"
  rho: Annotated[float, Range(0)] = 0.0
  alpha: Annotated[float, Range(0)] = 0.3
  adaptive: bool = True


TRAIN = Plain(schema.fields(Train))
RUN = Declared(
  schema.fields(Run),
  {
    "method": sections.method(),
    "task": sections.task({"name": "supervised"}),
    "parallel": Plain(schema.fields(Parallel)),
  },
  ("published",),
)
