"""A small recurrent language model on token ids."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jdistill.models.layers import Recorder, drawn_later
from jdistill.models.transformer_layers import dense


class GRU(nn.Module):
  """An embedding, `depth` gated recurrent layers of `width` units and a dense layer at every position.

  With input `x_t` and state `h`, where `*` is by element and the gates are thirds of two affine maps,

      r = sigmoid(W_r x_t + U_r h),  z = sigmoid(W_z x_t + U_z h),  n = tanh(W_n x_t + r * (U_n h)),
      h <- (1 - z) * n + z * h

  from `h = 0`; both maps have biases, as in PyTorch. Position `t` of the logits `[n, tokens, num_classes]` has seen the
  tokens up to `t` and no later one, so its target is token `t + 1`. Any number of tokens will do. Taps `block0` to
  `block{depth - 1}` are the layers' states, `[n, tokens, width]`; the embedding is the last of them.

  Attributes:
    num_classes: number of different tokens.
    width: units per layer, and length of an embedded token.
    depth: number of layers.

  References:
    Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, EMNLP 2014, arXiv:1406.1078; with the reset
    gate after the matrix, as cuDNN has it.
  """

  num_classes: int
  width: int = 64
  depth: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    x = Embed(self.num_classes, self.width, name="embed")(x)
    for i in range(self.depth):
      x = Recurrence(name=f"gru{i}_state")(dense(x, 3 * self.width, f"gru{i}_input"))
      x = record.tap(f"block{i}", x)
    embedding = record.site("embedding", x)
    return dense(embedding, self.num_classes, "head"), embedding


class Embed(nn.Module):
  """One learned vector per token, `[n, l] -> [n, l, features]`: rows of a parameter `kernel`, `[tokens, features]`."""

  tokens: int
  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return self.param("kernel", drawn_later, (self.tokens, self.features))[x]


class Recurrence(nn.Module):
  """States `[n, l, width]` of a gated recurrent layer, from what its inputs add to the gates, `[n, l, 3 width]`."""

  @nn.compact
  def __call__(self, gates: jax.Array) -> jax.Array:
    width = gates.shape[-1] // 3
    kernel = self.param("kernel", drawn_later, (width, 3 * width))
    bias = self.param("bias", drawn_later, (3 * width,)).reshape(1, -1)

    def step(state: jax.Array, now: jax.Array) -> tuple[jax.Array, jax.Array]:
      reset, update, new = jnp.split(now, 3, axis=-1)
      of_reset, of_update, of_new = jnp.split(state @ kernel + bias, 3, axis=-1)
      new = jnp.tanh(new + jax.nn.sigmoid(reset + of_reset) * of_new)
      keep = jax.nn.sigmoid(update + of_update)
      state = (1 - keep) * new + keep * state
      return state, state

    start = jnp.zeros((gates.shape[0], width), gates.dtype)
    return jnp.swapaxes(lax.scan(step, start, jnp.swapaxes(gates, 0, 1))[1], 0, 1)
