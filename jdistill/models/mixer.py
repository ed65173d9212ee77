"""MLP-Mixer for 32x32 images."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.models.layers import Dense, Recorder
from jdistill.models.transformer_layers import LayerNorm, gelu_network, patches


class Mixer(nn.Module):
  """Patches, `depth` blocks that mix tokens and then channels, a last layer norm, the tokens' mean and a dense layer.

  A block is `x + transpose(network(transpose(norm(x))))` with `dim / 2` hidden units, then `x + network(norm(x))` with
  4 * `dim`; both networks are dense, GELU, dense. Taps `block0` to `block{depth - 1}` are what the blocks give,
  `[n, tokens, dim]`. The embedding is the mean of the tokens after the last norm, `[n, dim]`.

  Attributes:
    num_classes: length of the logits.
    patch: side of a patch; 4 gives 64 tokens for 32x32 images.
    dim: length of a token.
    depth: number of blocks.

  References:
    Tolstikhin et al., MLP-Mixer: An all-MLP Architecture for Vision, NeurIPS 2021, arXiv:2105.01601.
  """

  num_classes: int
  patch: int = 4
  dim: int = 128
  depth: int = 8

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    x = patches(x, self.patch, self.dim, "patches")
    for i in range(self.depth):
      y = jnp.swapaxes(LayerNorm(name=f"block{i}_norm0")(x), 1, 2)  # [n, dim, tokens]
      x = x + jnp.swapaxes(gelu_network(y, max(self.dim // 2, 1), f"block{i}_tokens_"), 1, 2)
      y = LayerNorm(name=f"block{i}_norm1")(x)
      x = x + gelu_network(y, 4 * self.dim, f"block{i}_channels_")
      x = record.tap(f"block{i}", x)
    embedding = record.site("embedding", jnp.mean(LayerNorm(name="last_norm")(x), 1))
    return Dense(self.num_classes, name="head")(embedding), embedding
