"""The linear head of a language model among its parameters."""

import jax

from jdistill.base import PyTree


def head_arrays(params: PyTree) -> dict[str, jax.Array]:
  """The head as it lies in the parameters: `{"kernel": [width, classes]}`, or tied, `{"table": [classes, width]}`.

  Raises:
    ValueError: no parameters of a decoder.
  """
  if "head" in params:
    return {"kernel": params["head"]["kernel"]}
  if "embed" not in params:
    raise ValueError(f"head: the layers {', '.join(sorted(params)[:4])} are those of no decoder; take one")
  return {"table": params["embed"]["kernel"]}
