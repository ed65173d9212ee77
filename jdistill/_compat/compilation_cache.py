"""Whether JAX stores the programs that it compiles now (`jax._src.compilation_cache`).

Why: a program with oneDNN's convolutions cannot be stored (`jdistill.ops.onednn`). JAX opens its cache once and keeps
it when its options change, so the options alone do not tell.
Checked for: jax 0.10.2.
Without it: the options are believed. A cache that was closed by changing them afterwards counts as closed although JAX
still writes to it; JAX then warns about each program that it cannot store.
"""

import jax


def is_open() -> bool:
  """Whether programs for the CPU of this process are stored."""
  try:
    from jax._src import compilation_cache

    used, opened = compilation_cache.is_cache_used, compilation_cache._get_cache
  except (ImportError, AttributeError):
    return bool(jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir)
  client = jax.local_devices(backend="cpu")[0].client
  return used(client) and opened(client) is not None
