"""Keys and values of the tokens before, in arrays of fixed length."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.models.decoder_config import DecoderConfig


class Cache(NamedTuple):
  """Keys and values of all tokens so far.

  All rows write into the same slot, padding too, which is marked as such. So rows of different lengths share a batch,
  whichever side they are padded on.

  Attributes:
    keys, values: per layer `[B, kv_heads, slots, head_size]`; keys are rotated.
    valid: `[B, slots]` bool, whether a slot holds a token that others may see.
    positions: `[B]` int32, the position of each row's next token: how many tokens it has without padding.
    used: scalar int32, slots that are filled.
  """

  keys: tuple[jax.Array, ...]
  values: tuple[jax.Array, ...]
  valid: jax.Array
  positions: jax.Array
  used: jax.Array

  def enter(self, mask: jax.Array) -> tuple[jax.Array, "Cache"]:
    """Positions `[B, T]` of new tokens, of which `mask` `[B, T]` bool are no padding, and the cache that counts them.

    `used` stays until their keys and values are stored.
    """
    count = jnp.cumsum(mask, axis=1, dtype=jnp.int32)
    positions = self.positions[:, None] + jnp.maximum(count - 1, 0)
    valid = lax.dynamic_update_slice(self.valid, mask, (jnp.int32(0), self.used))
    return positions, self._replace(valid=valid, positions=self.positions + count[:, -1])

  def seen(self, tokens: int) -> jax.Array:
    """Which slots the next tokens see, `[B, tokens, slots]` bool: their own, and those before without padding."""
    slots = jnp.arange(self.valid.shape[1], dtype=jnp.int32)
    last = self.used + jnp.arange(tokens, dtype=jnp.int32)
    return (slots[None, :] <= last[:, None])[None] & self.valid[:, None]

  def store(self, layer: int, keys: jax.Array, values: jax.Array) -> "Cache":
    """Writes a layer's keys and values, `[B, kv_heads, T, head_size]`, into the next slots."""
    zero = jnp.int32(0)

    def written(arrays: tuple[jax.Array, ...], new: jax.Array) -> tuple[jax.Array, ...]:
      array = lax.dynamic_update_slice(arrays[layer], new.astype(arrays[layer].dtype), (zero, zero, self.used, zero))
      return (*arrays[:layer], array, *arrays[layer + 1 :])

    return self._replace(keys=written(self.keys, keys), values=written(self.values, values))


def empty_cache(batch: int, length: int, config: DecoderConfig) -> Cache:
  """A cache of `length` slots that holds nothing."""
  shape = (batch, config.groups, length, config.size)
  keys, values = (tuple(jnp.zeros(shape, config.cache_type) for _ in range(config.depth)) for _ in range(2))
  return Cache(keys, values, jnp.zeros((batch, length), bool), jnp.zeros(batch, jnp.int32), jnp.zeros((), jnp.int32))
