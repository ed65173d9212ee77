"""Options of the compiler under which training of convolutional networks with batch norm is faster."""

import functools

import jax

# XLA:CPU gives convolutions with more than 16 channels to a library whose kernel gradients take two to three times as
# long as Eigen's; the same library's reductions are the faster ones and stay.
_CONVOLUTIONS_BY_EIGEN = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


@functools.cache
def convolution_options() -> dict[str, str]:
  """Compiler options for steps whose time goes into convolutions, for `jax.jit(compiler_options=...)`.

  Returns:
    On CPUs what makes XLA compute convolutions by Eigen, where the installed XLA knows that choice; else nothing.
  """
  if jax.default_backend() != "cpu":
    return {}
  try:
    jax.jit(lambda x: x, compiler_options=_CONVOLUTIONS_BY_EIGEN).lower(0.0).compile()
  except (jax.errors.JaxRuntimeError, ValueError):  # an XLA that does not know the option
    return {}
  return _CONVOLUTIONS_BY_EIGEN
