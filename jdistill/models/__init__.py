"""Networks as pure functions: a zoo by name, flat parameters, and adapters for other libraries."""

from jdistill.models.adapters import from_equinox, from_function, from_linen, from_nnx
from jdistill.models.decoder import head_kernel, language_model
from jdistill.models.decoder_config import DecoderConfig
from jdistill.models.decoder_layers import Rows
from jdistill.models.decoder_slices import decoder_slice, smaller_config
from jdistill.models.flat import FlatNetwork, flatten
from jdistill.models.predict import predict
from jdistill.models.registry import build, describe, names, options
from jdistill.models.transplant import head_mask, with_head_of
from jdistill.models.weights import from_torch
from jdistill.ops.heads import head_arrays

__all__ = [
  "DecoderConfig",
  "FlatNetwork",
  "Rows",
  "build",
  "decoder_slice",
  "describe",
  "flatten",
  "from_equinox",
  "from_function",
  "from_linen",
  "from_nnx",
  "from_torch",
  "head_arrays",
  "head_kernel",
  "head_mask",
  "language_model",
  "names",
  "options",
  "predict",
  "smaller_config",
  "with_head_of",
]
