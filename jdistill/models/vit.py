"""A small vision transformer for 32x32 images."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.models.layers import Dense, Recorder
from jdistill.models.transformer_layers import ClassToken, LayerNorm, Positions, block, check_heads, patches

READOUTS = ("token", "mean")


class ViT(nn.Module):
  """Patches, learned positions, `depth` pre-norm blocks, a last layer norm and a dense layer.

  A block is `x + attention(norm(x))`, then `x + network(norm(x))` with 4 * `dim` hidden units and GELU. Taps `block0`
  to `block{depth - 1}` are what the blocks give, `[n, tokens, dim]`; with `readout="token"` the class token is
  first. The embedding is the class token or the mean of all tokens after the last norm, `[n, dim]`. No dropout.

  The class token starts at zero. Positions are drawn like kernels, whose fan-in is the number of tokens.

  Attributes:
    num_classes: length of the logits.
    patch: side of a patch; 4 gives 64 tokens for 32x32 images.
    dim: length of a token, a multiple of `heads`.
    depth: number of blocks.
    heads: attention heads.
    readout: `"token"` or `"mean"`.

  References:
    Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, arXiv:2010.11929.
  """

  num_classes: int
  patch: int = 4
  dim: int = 192
  depth: int = 6
  heads: int = 3
  readout: str = "token"

  def __post_init__(self):
    check_heads(self.dim, self.heads)
    super().__post_init__()

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    x = patches(x, self.patch, self.dim, "patches")
    if self.readout == "token":
      x = ClassToken(name="class_token")(x)
    x = Positions(name="positions")(x)
    for i in range(self.depth):
      x = record.tap(f"block{i}", block(x, self.heads, f"block{i}_"))
    x = LayerNorm(name="last_norm")(x)
    embedding = record.site("embedding", x[:, 0] if self.readout == "token" else jnp.mean(x, 1))
    return Dense(self.num_classes, name="head")(embedding), embedding
