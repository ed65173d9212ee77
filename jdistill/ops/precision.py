"""In which precision numbers are added up."""

import jax
import jax.numpy as jnp


def widen(x: jax.Array) -> jax.Array:
  """`x` in float32, or as it is in float64: sums of squares in bfloat16 keep two digits."""
  x = jnp.asarray(x)
  return x if x.dtype == jnp.float64 else x.astype(jnp.float32)
