"""Quality of samples: distances to real data, fidelity and diversity, each beside what real data themselves get."""

from jdistill.evaluation.samples.floor import Beside, Measure, beside_floor, standard_measure
from jdistill.evaluation.samples.frechet import frechet_distance, frechet_gaussians
from jdistill.evaluation.samples.mmd import Blocks, kernel_distance, median_bandwidth, mmd_rbf
from jdistill.evaluation.samples.modes import Modes, class_divergence, mode_coverage
from jdistill.evaluation.samples.neighbours import (
  DensityCoverage,
  Memorisation,
  PrecisionRecall,
  density_coverage,
  expected_coverage,
  memorisation,
  precision_recall,
)
from jdistill.evaluation.samples.wasserstein import sliced_wasserstein

__all__ = [
  "Beside", "Blocks", "DensityCoverage", "Measure", "Memorisation", "Modes", "PrecisionRecall", "beside_floor",
  "class_divergence", "density_coverage", "expected_coverage", "frechet_distance", "frechet_gaussians",
  "kernel_distance", "median_bandwidth", "memorisation", "mmd_rbf", "mode_coverage", "precision_recall",
  "sliced_wasserstein", "standard_measure",
]  # fmt: skip
