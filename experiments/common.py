"""Fragments that experiments share: open sections, the digits defaults, and the tiny variants for tests.

A configuration starts from `jdistill.stages.template`, in which every key is open; an experiment sets what differs.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from jdistill import catalog, schema, stages, tasks
from jdistill.config import sections
from jdistill.config.common import Train
from jdistill.schema import Field


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


def base(name: str, own: Mapping[str, Any], **values: Any) -> ml_collections.ConfigDict:
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


def tiny(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Cuts data-set distillation down to seconds: few digits, a small MLP, two steps. The figures mean nothing."""
  config.update({"dataset": "digits", "ipc": 1, "train_size": 200, "test_size": 100, "preprocessing": "standardize"})
  config.update({"steps": 2, "log_every": 1, "snapshot_every": 1})
  config.model = network("mlp", widths=(16,))
  config.eval.update({"seeds": 2, "epochs": 5, "batch_size": 50, "augment": "none", "models": ("mlp",)})
  config.eval.update({"control_lrs": (0.05,), "full_epochs": 2, "full_lr": 0.05, "full_batch_size": 50})
  return config
