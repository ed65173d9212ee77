"""AST's experts: training whose parameters move slowly and smoothly, so that few steps on a small set can follow."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jdistill.base import Outputs
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs, Term
from jdistill.methods.knowledge.terms import cross_entropy_term
from jdistill.ops.precision import widen
from jdistill.schema import NonNegative, Share, validated


def input_gradient_penalty(ask: Callable[[jax.Array], Outputs], x: jax.Array, *, target: float = 1.0) -> jax.Array:
  """How far the slope of the logits is from `target` at every pixel.

      g = d (sum over classes of the logits) / d x
      value = mean over pixels of (|g|_2 over channels - target)^2

  The norm is over the last axis alone, one per pixel, as in the released code. Where it is zero its derivative is taken
  to be zero.

  Args:
    ask: the network.
    x: `[B, height, width, channels]` images.
    target: of the norm.

  Returns:
    `[B]`.

  Raises:
    ValueError: inputs that are not images of real numbers.

  References:
    Shen et al. (AST, arXiv 2310.10541), the gradient penalty of smooth experts.
  """
  if not hasattr(x, "ndim") or x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError("smooth_ce: its penalty is for images [B, height, width, channels] of real numbers")
  slopes = jax.grad(lambda given: jnp.sum(widen(ask(given).logits)))(x)
  square = jnp.sum(jnp.square(slopes), axis=-1)
  some = square > 0
  norm = jnp.where(some, jnp.sqrt(jnp.where(some, square, 1)), 0)
  return jnp.mean(jnp.square(norm - target), axis=(1, 2))


@validated("method")
def smooth_ce(
  *,
  ce_start: Share = 0.5,
  ce_step: NonNegative = 0.05,
  penalty_weight: NonNegative = 2.0,
  penalty_target: NonNegative = 1.0,
) -> Recipe:
  """`min(1, ce_start + ce_step floor(epoch)) CE + penalty_weight (|d logits / d x| - penalty_target)^2`.

  The cross entropy is that of augmented images; the penalty, `input_gradient_penalty`, sees them as they are. It costs
  more than another forward and backward pass, for its gradient in the parameters goes through a gradient.

  Args:
    ce_start, ce_step: the factor of the cross entropy ("clipping loss") in epoch 0, and by how much it grows with every
      epoch until it is 1: 0.5, 0.55, ..., 0.95 in epochs 0 to 9. `ce_start=1` is without.
    penalty_weight: 0 leaves the penalty out. (The released flag is off by default, and on in its documentation.)
    penalty_target: of the slope.

  References:
    Shen et al. (AST, arXiv 2310.10541).
  """

  def factor(epoch: jax.Array) -> jax.Array:
    return jnp.minimum(1.0, ce_start + ce_step * jnp.floor(epoch))

  def penalty(step: StepOutputs) -> jax.Array:
    return input_gradient_penalty(step.ask, step.batch.x, target=penalty_target)

  terms = {"ce": cross_entropy_term(factor)}
  if penalty_weight:
    terms["penalty"] = Term(penalty, penalty_weight)
  return Recipe(terms, needs=("labels",))
