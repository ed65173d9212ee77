"""One configuration for the decoder-only transformers of Llama, SmolLM2 and Qwen2, and of GPT-2."""

import dataclasses
import math
import numbers

import jax.numpy as jnp

from jdistill.base import UserError
from jdistill.models.transformer_layers import check_heads

_CHOICES = {
  "positions": ("rope", "learned"),
  "norm": ("rms", "layer"),
  "mlp": ("swiglu", "gelu"),
  "bias": ("none", "qkv", "all"),
  "dtype": ("params", "float32", "bfloat16"),
}
_SIZES = {
  **dict.fromkeys(("num_classes", "width", "depth", "heads", "context"), 1),
  **dict.fromkeys(("kv_heads", "head_size", "hidden"), 0),
}


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Sizes and variants of a `Decoder`. The defaults are Llama's architecture at a toy's size.

  With the values of `GPT2` it is GPT-2's; Qwen2 has `bias="qkv"`.

  Attributes:
    num_classes: number of different tokens, with padded rows of a checkpoint's embedding.
    width: length of a token.
    depth: number of blocks.
    heads: heads of the queries; each reads `head_size` channels.
    kv_heads: heads of keys and values, a divisor of `heads`; 0 for `heads`.
    head_size: channels of a head, even with `"rope"`; 0 for `width / heads`.
    hidden: hidden units; 0 for `4 width` with `"gelu"` and two thirds of it, rounded up to a multiple of 8, with
      `"swiglu"`, which has as many parameters.
    context: the most tokens of a row.
    positions: `"rope"` rotates queries and keys, in halves of a head; `"learned"` adds a vector per position.
    theta: base of the rotary frequencies.
    norm: `"rms"` or `"layer"`.
    epsilon: of the norms.
    mlp: `"swiglu"`, `down(silu(gate(x)) * up(x))` (arXiv 2002.05202), or `"gelu"`, `down(gelu(up(x)))` with the tanh
      formula.
    bias: which affine maps have biases: `"none"`, `"qkv"` (query, key and value) or `"all"` but the head.
    fused: one kernel for query, key and value, side by side, in the place of three.
    tied: the head is the transposed embedding.
    dtype: of the products; `"params"` is that of the parameters. Norms, softmax and logits are float32 in any case.
    remat: a gradient computes the inside of each block anew where it would otherwise be kept: a third more work, and
      memory for one block at a time.

  Raises:
    UserError: sizes that do not fit each other, or an unknown variant.
  """

  num_classes: int
  width: int = 64
  depth: int = 2
  heads: int = 4
  kv_heads: int = 0
  head_size: int = 0
  hidden: int = 0
  context: int = 1024
  positions: str = "rope"
  theta: float = 10_000.0
  norm: str = "rms"
  epsilon: float = 1e-5
  mlp: str = "swiglu"
  bias: str = "none"
  fused: bool = False
  tied: bool = True
  dtype: str = "params"
  remat: bool = False

  def __post_init__(self):
    for name, choices in _CHOICES.items():
      if getattr(self, name) not in choices:
        raise UserError(f"{name}: {getattr(self, name)!r} is unknown; choose one of {', '.join(choices)}")
    for name, least in _SIZES.items():
      value = getattr(self, name)
      if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= value < 2**31:
        raise UserError(f"{name}: {value!r} is not a whole number: give one from {least} to {2**31 - 1}")
    for name in ("theta", "epsilon"):
      value = getattr(self, name)
      if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < math.inf:
        raise UserError(f"{name}: {value!r} is no positive number; give one such as {getattr(type(self), name)}")
    for name in ("fused", "tied", "remat"):
      if not isinstance(getattr(self, name), bool):
        raise UserError(f"{name}: {getattr(self, name)!r} is neither True nor False; give one of them")
    if not self.head_size:
      check_heads(self.width, self.heads, ("width", "heads"))
    check_heads(self.heads, self.groups, ("heads", "kv_heads"))
    if self.positions == "rope" and self.size % 2:
      raise UserError(f"head_size: {self.size} is odd, and rotary positions turn pairs; give an even one")

  @property
  def groups(self) -> int:
    """Heads of keys and values."""
    return self.kv_heads or self.heads

  @property
  def size(self) -> int:
    """Channels of a head."""
    return self.head_size or self.width // self.heads

  @property
  def units(self) -> int:
    """Hidden units of a block's network."""
    return self.hidden or (4 * self.width if self.mlp == "gelu" else -(-self.width // 3) * 8)

  @property
  def cache_type(self):
    """Of the keys and values in a cache."""
    return jnp.bfloat16 if self.dtype == "bfloat16" else jnp.float32


GPT2 = {"positions": "learned", "norm": "layer", "mlp": "gelu", "bias": "all", "fused": True}
