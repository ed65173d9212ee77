"""Networks as pure functions: a zoo by name, flat parameters, and adapters for other libraries."""

from jdistill.models.adapters import from_equinox, from_function, from_linen, from_nnx
from jdistill.models.flat import FlatNetwork, flatten
from jdistill.models.predict import predict
from jdistill.models.registry import build, describe, names, options
from jdistill.models.transplant import head_mask, with_head_of
from jdistill.models.weights import from_torch

__all__ = [
  "FlatNetwork",
  "build",
  "describe",
  "flatten",
  "from_equinox",
  "from_function",
  "from_linen",
  "from_nnx",
  "from_torch",
  "head_mask",
  "names",
  "options",
  "predict",
  "with_head_of",
]
