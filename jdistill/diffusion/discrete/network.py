"""The contract of score networks of tokens: what they take, what is known of them, and what samplers start from."""

from typing import NamedTuple

import jax

from jdistill.diffusion.discrete.graphs import Graph
from jdistill.diffusion.discrete.noise import TokenNoise


class NoisyTokens(NamedTuple):
  """What a score network of tokens takes.

  Attributes:
    x: `[n, L]` int32 tokens with noise, masks among them.
    sigma: `[n]` float32, how much noise there is in all.
  """

  x: jax.Array
  sigma: jax.Array


class TokenDraws(NamedTuple):
  """What a sampler of tokens makes rows of.

  Attributes:
    ids: `[n]` int32 names of the rows, which decide all that is drawn.
  """

  ids: jax.Array


class TokenScore(NamedTuple):
  """What is known of a network that takes `NoisyTokens` and gives log-scores `[n, L, states]`, 0 at the current token.

  Attributes:
    graph, noise: the forward process.
    length: tokens of a row.
  """

  graph: Graph
  noise: TokenNoise
  length: int
