"""Distillation of data sets, networks, language models and samplers, as pure functions in JAX.

`from jdistill import losses, bilevel, augment, data, models` gives the building blocks; `jdistill.load(path)` opens a
distilled set; `python -m jdistill.run --help` runs whole experiments. Rooms are imported on first use, so importing
the package costs nothing beyond Python itself.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = (
  "augment",
  "base",
  "bilevel",
  "catalog",
  "data",
  "diffusion",
  "evaluation",
  "export",
  "federated",
  "language",
  "losses",
  "methods",
  "models",
  "ops",
  "reporting",
  "selection",
  "synthetic",
  "teachers",
  "training",
)
_FUNCTIONS = {"load": "jdistill.distilled", "citation": "jdistill.catalog", "UserError": "jdistill.base"}

__all__ = ["__version__", *_ROOMS, *_FUNCTIONS]


def __getattr__(name: str) -> Any:
  if name in _ROOMS:
    return importlib.import_module(f"jdistill.{name}")
  if name in _FUNCTIONS:
    return getattr(importlib.import_module(_FUNCTIONS[name]), name)
  raise AttributeError(f"module 'jdistill' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted(__all__)
