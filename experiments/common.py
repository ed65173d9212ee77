"""Fragments that experiments share: every key with its neutral value, and the tiny variant for tests."""

import ml_collections
from ml_collections import config_dict


def base(name: str, method: dict) -> ml_collections.ConfigDict:
  """A configuration with all keys. `None` means: the tested value for the data set and ipc from `config.auto`.

  Args:
    name: the experiment's name, used for the work directory.
    method: the method's section; must contain `name`.
  """
  integer, number, text = (lambda kind=kind: config_dict.placeholder(kind) for kind in (int, float, str))
  config = ml_collections.ConfigDict()
  config.name = name
  config.seed = 0
  config.dataset = "digits"
  config.data_dir = text()
  config.train_size = integer()
  config.test_size = integer()
  config.preprocessing = text()
  config.ipc = 1
  config.steps = integer()
  config.log_every = 10
  config.snapshot_every = integer()
  config.checkpoint_seconds = 60.0
  config.tensorboard = False
  config.stages = ("experts", "distill", "evaluate", "export", "report")
  config.model = {
    "name": "convnet",
    "width": integer(),
    "depth": integer(),
    "widths": config_dict.placeholder(tuple),
    "norm": text(),
    "groups": integer(),
    "act": text(),
    "pooling": text(),
    "init": "torch",
  }
  config.experts = {
    "count": integer(),
    "epochs": integer(),
    "batch_size": integer(),
    "lr": number(),
    "momentum": 0.0,
    "weight_decay": 0.0,
    "rho": number(),
    "alpha": 0.3,
    "adaptive": True,
    "augment": text(),
  }
  config.eval = {
    "seeds": 5,
    "epochs": integer(),
    "batch_size": integer(),
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "augment": text(),
    "models": ("convnet",),
    "sets": ("distilled", "random_hard", "random_soft", "initial", "full_data"),
    "control_lrs": (0.003, 0.01, 0.03, 0.1),
    "full_epochs": integer(),
    "full_lr": number(),
    "full_batch_size": integer(),
  }
  config.memory_limit = text()
  config.parallel = {"route": "shard_map", "pool": integer(), "data": integer()}
  config.method = method
  return config


def trajectory(name: str) -> dict:
  """The method section of trajectory matching, everything open."""
  integer, number, text = (lambda kind=kind: config_dict.placeholder(kind) for kind in (int, float, str))
  return {
    "name": name,
    "inner_steps": integer(),
    "batch_size": integer(),
    "learn_labels": config_dict.placeholder(bool),
    "labels": text(),
    "initial": text(),
    "threshold": number(),
    "image_lr": number(),
    "image_momentum": number(),
    "label_lr": number(),
    "label_momentum": number(),
    "lr_lr": number(),
    "lr_momentum": number(),
    "lr_init": number(),
    "ema_decay": number(),
    "gradient": "mixed",
    "window": integer(),
    "chunk_size": integer(),
    "expert_epochs": integer(),
    "min_start_epoch": integer(),
    "current_start_epoch": integer(),
    "max_start_epoch": integer(),
    "schedule_steps": integer(),
    "augment": text(),
  }


def tiny(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Cuts an experiment down to seconds: few digits, a small MLP, two outer steps. The figures mean nothing."""
  config.dataset = "digits"
  config.ipc = 1
  config.train_size, config.test_size = 200, 100
  config.preprocessing = "standardize"
  config.steps, config.log_every, config.snapshot_every = 2, 1, 1
  config.model.update({"name": "mlp", "widths": (16,)})
  config.experts.update({"count": 2, "epochs": 4, "batch_size": 50, "lr": 0.05, "rho": 0.0, "augment": "none"})
  config.eval.update(
    {
      "seeds": 2,
      "epochs": 5,
      "batch_size": 50,
      "augment": "none",
      "models": ("mlp",),
      "control_lrs": (0.05,),
      "full_epochs": 2,
      "full_lr": 0.05,
      "full_batch_size": 50,
    }
  )
  config.method.update(
    {
      "inner_steps": 3,
      "image_lr": 1.0,
      "lr_init": 0.05,
      "min_start_epoch": 0,
      "max_start_epoch": 2,
      "expert_epochs": 2,
      "initial": "real",
      "augment": "none",
    }
  )
  return config
