"""The Frechet distance between Gaussians that are fitted to features of samples and of real data."""

import numpy as np

from jdistill.evaluation.samples.rows import pair

ROWS_PER_FEATURE = 50  # below it, what too few rows add is not small


def frechet_gaussians(mean_x: np.ndarray, cov_x: np.ndarray, mean_y: np.ndarray, cov_y: np.ndarray) -> float:
  """`|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))`, the squared 2-Wasserstein distance of two Gaussians.

  The square root is taken of eigenvalues, those of the symmetric `C_x^(1/2) C_y C_x^(1/2)`, in float64.

  Args:
    mean_x, mean_y: `[d]`.
    cov_x, cov_y: `[d, d]`, symmetric and not negative.

  References:
    Dowson and Landau (1982).
  """
  mean_x, cov_x, mean_y, cov_y = (np.asarray(one, np.float64) for one in (mean_x, cov_x, mean_y, cov_y))
  values, vectors = np.linalg.eigh(cov_x)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  mixed = np.linalg.eigvalsh(root @ cov_y @ root)
  trace = np.trace(cov_x) + np.trace(cov_y) - 2 * np.sqrt(np.maximum(mixed, 0)).sum()
  return float(np.square(mean_x - mean_y).sum() + trace)


def frechet_distance(samples: np.ndarray, real: np.ndarray) -> float:
  """`frechet_gaussians` of the means and unbiased covariances of two sets of features.

  This is "FID" for features of one Inception network alone. Of others say which network made them. Few rows bias it
  upwards: take equally many of all that is compared, at least 50 for each feature, and show the distance of real data
  from real data beside it.

  Args:
    samples, real: `[n, ...]` features, such as what enters the head of a classifier of these data.

  Raises:
    ValueError: fewer than two rows, or widths that differ.

  References:
    Heusel et al. (arXiv 1706.08500).
  """
  samples, real = pair(samples, real)
  fits = ((one.mean(0), np.atleast_2d(np.cov(one, rowvar=False))) for one in (samples, real))
  return frechet_gaussians(*(part for fit in fits for part in fit))
