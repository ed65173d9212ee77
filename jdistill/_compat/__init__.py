"""Everything that touches private parts of JAX, of XLA or of the C library, one file for each.

Each file says why the part is needed, for which release it was checked, and what happens without it. Nothing else in
the package may import `jax._src`, `jaxlib` or `ctypes`; a test holds that.
"""
