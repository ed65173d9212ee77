"""Decoder-only transformers: Llama, SmolLM2 and Qwen, and GPT-2, by one configuration."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.base import UserError
from jdistill.models.decoder_layers import Affine, Rows, TokenNorm, attend, rotate, visible
from jdistill.models.layers import Recorder, drawn_later

_CHOICES = {
  "positions": ("rope", "learned"),
  "norm": ("rms", "layer"),
  "mlp": ("swiglu", "gelu"),
  "bias": ("none", "qkv", "all"),
  "dtype": ("params", "float32", "bfloat16"),
}


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Sizes and variants of a `Decoder`. The defaults are Llama's architecture at a toy's size.

  GPT-2 is `positions="learned", norm="layer", mlp="gelu", bias="all", fused=True`; Qwen2 has `bias="qkv"`.

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

  def __post_init__(self):
    for name, choices in _CHOICES.items():
      if getattr(self, name) not in choices:
        raise UserError(f"{name}: {getattr(self, name)!r} is unknown; choose one of {', '.join(choices)}")

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
    return self.hidden or (4 * self.width if self.mlp == "gelu" else -(-8 * self.width // 3) // 8 * 8)
