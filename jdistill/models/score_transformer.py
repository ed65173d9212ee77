"""A network of noisy tokens that gives the log of their concrete score: a transformer that the noise modulates."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdistill.base import Network, Outputs, PyTree, Sites, UserError
from jdistill.diffusion import discrete
from jdistill.diffusion.discrete import NoisyTokens, TokenScore
from jdistill.models.denoiser_layers import condition_features, gated_block, modulated
from jdistill.models.denoisers import ZERO, first_params
from jdistill.models.layers import Recorder
from jdistill.models.transformer_layers import Positions, check_heads, dense, plain_norm

GRAPHS = {"absorb": discrete.absorb, "uniform": discrete.uniform}
NOISES = {"loglinear": discrete.loglinear, "geometric": discrete.geometric}


class ScoreTransformer(nn.Module):
  """Tokens, learned positions and blocks without a causal mask, modulated by the noise (SEDD, arXiv 2310.16834).

  Blocks are those of `DiT`, taps `block0`, ... The embedding is the mean over tokens of what enters the head. The head
  starts at zero, where all jumps are equally likely.

  Attributes:
    num_classes: V, tokens that occur in data.
    graph: `"absorb"`, with a mask as one more state, or `"uniform"`.
    noise: `"loglinear"` or `"geometric"`.
    dim: length of a token, a multiple of `heads`.
    depth: number of blocks.
    heads: attention heads.
    features: length of the vector of the noise.
  """

  num_classes: int
  graph: str = "absorb"
  noise: str = "loglinear"
  dim: int = 64
  depth: int = 2
  heads: int = 4
  features: int = 64

  @nn.compact
  def __call__(self, noisy: NoisyTokens, *, train: bool, record: Recorder) -> tuple[jax.Array, jax.Array]:
    del train
    check_heads(self.dim, self.heads)
    states = self.num_classes + (self.graph == "absorb")
    about = condition_features(jnp.log(noisy.sigma) / 4, jnp.zeros(noisy.sigma.shape, jnp.int32), 1, self.features)
    hot = jax.nn.one_hot(noisy.x, states, dtype=about.dtype) * math.sqrt(states)  # to unit variance
    x = Positions(name="positions")(dense(hot, self.dim, "tokens"))
    for i in range(self.depth):
      x = record.tap(f"block{i}", gated_block(x, about, self.heads, f"block{i}_"))
    x = modulated(plain_norm(x), about, "last_film")
    return dense(x, states, f"head{ZERO}"), jnp.mean(x, 1)


def build_score(module: ScoreTransformer, length: int, init_name: str) -> Network:
  """A module as a `Network` of `NoisyTokens`, whose logits are log-scores `[n, length, states]`.

  Raises:
    UserError: too few tokens for its graph; at trace time, other inputs.
  """
  try:
    known = TokenScore(GRAPHS[module.graph](module.num_classes), NOISES[module.noise](), length)
  except ValueError as error:
    raise UserError(f"graph: {error}") from error

  def apply(
    params: PyTree, x: NoisyTokens, *, train: bool = False, rngs=None, stats=None, sites: Sites | None = None
  ) -> Outputs:
    del rngs, stats
    if not isinstance(x, NoisyTokens):
      raise UserError("x: a score network takes noisy tokens with their noise; use the task 'countdown'")
    if x.x.shape[1:] != (length,):
      raise UserError(f"x: rows of {x.x.shape[1:]} tokens given to a score network that was built for {length}")
    record = Recorder(sites)
    outputs, embedding = module.apply({"params": params}, x, train=train, record=record)
    return record.outputs(discrete.log_score(known.graph, outputs, x.x, x.sigma), embedding, {})

  like = NoisyTokens(jnp.zeros((1, length), jnp.int32), jnp.ones(1))
  return Network(first_params(module, like, init_name), apply, token_score=known)
