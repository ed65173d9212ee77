"""Fragments that experiments share: open sections, the digits defaults, and the tiny variants for tests.

A configuration starts from `jdistill.stages.template`, in which every key is open; an experiment sets what differs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict, config_dict

from jdistill import catalog, schema, stages, tasks
from jdistill.config import sections
from jdistill.config.common import Train
from jdistill.schema import Field

DSA = "color_crop_cutout_flip_scale_rotate"

# what published rows of data-set distillation share: ConvNets, their evaluation, and where a set starts
CONVNET = {
  "model/width": 128,
  "model/depth": 3,
  "model/norm": "instance",
  "eval/epochs": 1000,
  "eval/augment": DSA,
  "eval/full_epochs": 100,
  "eval/full_lr": 0.01,
  "method/augment": DSA,
  "method/lr_init": 0.01,
}
# the same on scikit-learn digits, 8x8, without augmentation: a mirrored digit is another sign
CONVNET_DIGITS = {
  "preprocessing": "standardize",
  "snapshot_every": 100,
  "model/width": 32,
  "model/depth": 2,
  "model/norm": "instance",
  "eval/epochs": 400,
  "eval/batch_size": 128,
  "eval/full_epochs": 40,
  "eval/full_lr": 0.01,
  "eval/full_batch_size": 64,
  "method/augment": "none",
  "method/lr_init": 0.05,
}
# methods whose labels are regressed to (KIP, FRePo, RCIG): all sets are evaluated by Adam on the squared error
_ADAM_MSE = {
  "eval/loss": "mse",
  "eval/optimizer": "adam",
  "eval/weight_decay": 0.0,
  "eval/control_lrs": (0.0003, 0.001, 0.003, 0.01),
}
_NOT_THEIRS = ("method/augment",)
REGRESSION = {key: value for key, value in CONVNET.items() if key not in _NOT_THEIRS} | _ADAM_MSE
REGRESSION |= {"method/lr_init": 0.0003, "eval/full_lr": 0.0003, "eval/batch_size": 500}
REGRESSION_DIGITS = {key: value for key, value in CONVNET_DIGITS.items() if key not in _NOT_THEIRS} | _ADAM_MSE
REGRESSION_DIGITS |= {"method/lr_init": 0.0003, "eval/full_lr": 0.003}


def check_preset(preset: str, known: Sequence[str]) -> None:
  """Refuses what is not among an experiment's presets.

  Raises:
    ValueError: with the names of all.
  """
  if preset not in known:
    raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(known)}")


def opened(fields: Mapping[str, Field], values: Mapping[str, Any]) -> dict[str, Any]:
  """A section in which these values are set and all else is open, so that the command line can set it."""
  return {key: config_dict.placeholder(field.kind) for key, field in fields.items()} | dict(values)


def network(name: str, **options: Any) -> dict[str, Any]:
  """A section `model`, `teacher` or `student`."""
  return {"name": name} | opened(sections.network().shown(name), options)


def schedule(**values: Any) -> dict[str, Any]:
  """A section `train`, `teacher_train` or `start_train`."""
  return opened(schema.fields(Train), values)


def method(name: str, **options: Any) -> dict[str, Any]:
  """A section `method`, `teacher_method` or `start_method`."""
  return {"name": name} | opened(catalog.row(name).fields(), options)


def task(name: str, **options: Any) -> dict[str, Any]:
  """A section `task`."""
  return {"name": name} | opened(schema.fields(tasks.builder(name)), options)


def policy(name: str, **options: Any) -> dict[str, Any]:
  """A section `data_policy`, `teacher_data_policy` or `start_data_policy`."""
  return {"name": name} | opened(sections.data_policy().shown(name), options)


def base(name: str, own: Mapping[str, Any], **values: Any) -> ConfigDict:
  """An experiment in which everything is open but its method.

  Args:
    name: of the experiment, used for the work directory.
    own: the section `method`: a name and options.
    **values: keys and sections.
  """
  config = stages.template(own["name"])
  config.name, config.method = name, method(**own)
  config.update(values)
  return config


def tiny(config: ConfigDict) -> ConfigDict:
  """Cuts data-set distillation down to seconds: few digits, a small MLP, two steps. The figures mean nothing."""
  config.update({"dataset": "digits", "ipc": 1, "train_size": 200, "test_size": 100, "preprocessing": "standardize"})
  config.update({"steps": 2, "log_every": 1, "snapshot_every": 1})
  config.model = network("mlp", widths=(16,))
  config.eval.update({"seeds": 2, "epochs": 5, "batch_size": 50, "augment": "none", "models": ("mlp",)})
  config.eval.update({"control_lrs": (0.05,), "full_epochs": 2, "full_lr": 0.05, "full_batch_size": 50})
  return config


def tiny_recovery(config: ConfigDict) -> None:
  """Seconds for an experiment with a teacher, recovered or chosen images, and stored labels; figures mean nothing."""
  config.update({"ipc": 1, "train_size": 200, "test_size": 100, "validation_size": 40, "log_every": 1})
  for section in (config.teacher, config.model):
    section.width, section.depth = 4, 1
  config.teacher_train.update({"epochs": 8, "batch_size": 20, "lr": 0.02})
  config.relabel.update({"epochs": 2, "batch_size": 10})
  config.eval.update({"seeds": 2, "epochs": 2, "full_epochs": 1, "control_lrs": (0.05,)})
