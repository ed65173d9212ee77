"""XLA's instruction that calls a convolution of the oneDNN inside jaxlib (`__onednn$convolution`).

Why: jaxlib's builds for x86 carry oneDNN, but the pass that would insert the instruction is not compiled in.
Checked for: jaxlib 0.10.2. XLA does not promise to keep the instruction or the layout of its options.
Without it: `is_known` is `False` in other releases, and a build without the instruction raises when a program is
compiled, which `jdistill.ops.onednn.usable` tries first. Convolutions are XLA's own then.
"""

import json
from collections.abc import Mapping
from typing import Any

import jax
import jaxlib

TARGET = "__onednn$convolution"
RELEASES = ("0.10.2",)
_LEGACY_API = 2  # of custom calls: options as text


def is_known() -> bool:
  """Whether the instruction was checked in the installed release of jaxlib."""
  return jaxlib.__version__ in RELEASES


def convolution(x: jax.Array, k: jax.Array, out: jax.ShapeDtypeStruct, options: Mapping[str, Any]) -> jax.Array:
  """The instruction.

  Args:
    x: images.
    k: kernel.
    out: shape and type of the result.
    options: the fields of XLA's `OneDnnConvolutionConfig`.
  """
  call = jax.ffi.ffi_call(
    TARGET,
    out,
    custom_call_api_version=_LEGACY_API,
    legacy_backend_config=json.dumps({"onednn_conv_config": options}),
  )
  return call(x, k)
