"""The body of a trained network with the head of another."""

import jax

from jdistill.base import Network, PyTree, UserError, Variables


def head_mask(network: Network, wider: Network) -> PyTree:
  """Which parameters of a network belong to its head.

  Args:
    network: any.
    wider: the same network with another number of outputs.

  Returns:
    The tree of the parameters with booleans: whether a shape depends on the number of outputs.

  Raises:
    UserError: none does.
  """
  own, other = (jax.eval_shape(one.init, jax.random.key(0)).params for one in (network, wider))
  found = jax.tree.map(lambda a, b: a.shape != b.shape, own, other)
  if not any(jax.tree.leaves(found)):
    raise UserError("network: none of its parameters depends on the number of outputs; give one with a head")
  return found


def with_head_of(body: Variables, fresh: Variables, head: PyTree) -> Variables:
  """Parameters and running statistics of `body`, apart from the head, which is that of `fresh`.

  Args:
    body: trained.
    fresh: of the network that is to be trained.
    head: of `head_mask`.
  """
  params = jax.tree.map(lambda own, new, replaced: new if replaced else own, body.params, fresh.params, head)
  return Variables(params, body.stats)
