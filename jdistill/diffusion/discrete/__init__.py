"""Diffusion of tokens: forward processes, score entropy, reverse steps, samplers, and samplers that learn."""

from jdistill.diffusion.discrete.chains import chain_score
from jdistill.diffusion.discrete.graphs import Graph, absorb, uniform
from jdistill.diffusion.discrete.learned import (
  LeastSquares,
  Sweep,
  check_steps,
  fit_loss,
  fitted,
  hamming_perturb,
  least_squares,
  lsd_loss,
  lsd_phi,
  lsd_plus_loss,
  lsd_sweep,
  step_sizes,
  step_times,
)
from jdistill.diffusion.discrete.network import NoisyTokens, TokenDraws, TokenScore
from jdistill.diffusion.discrete.noise import TokenNoise, geometric, loglinear
from jdistill.diffusion.discrete.sampling import (
  check_times,
  denoise_probs,
  draw,
  euler_probs,
  euler_step,
  reverse_rate,
  run_sampler,
  sample_tokens,
  scaled_score,
  time_grid,
  tweedie_probs,
  tweedie_step,
)
from jdistill.diffusion.discrete.score_entropy import log_score, score_entropy, score_entropy_loss

__all__ = [
  "Graph", "LeastSquares", "NoisyTokens", "Sweep", "TokenDraws", "TokenNoise", "TokenScore", "absorb", "chain_score",
  "check_steps", "check_times", "denoise_probs", "draw", "euler_probs", "euler_step", "fit_loss", "fitted",
  "geometric", "hamming_perturb", "least_squares", "log_score", "loglinear", "lsd_loss", "lsd_phi", "lsd_plus_loss",
  "lsd_sweep", "reverse_rate", "run_sampler", "sample_tokens", "scaled_score", "score_entropy", "score_entropy_loss",
  "step_sizes", "step_times", "time_grid", "tweedie_probs", "tweedie_step", "uniform",
]  # fmt: skip
