"""Diffusion models as pure functions: schedules, kinds of predictions, samplers, and targets of distillation."""

from jdistill.diffusion import discrete
from jdistill.diffusion.partition import (
  check_parts,
  owned_conditions,
  partition_conditions,
  route,
  sample_condition,
)
from jdistill.diffusion.precondition import (
  Scalings,
  consistency_scalings,
  edm_scalings,
  edm_weight,
  preconditioned,
)
from jdistill.diffusion.predictions import PREDICTIONS, check_prediction, convert_prediction
from jdistill.diffusion.samplers import (
  SOLVERS,
  backward_simulate,
  ddim_step,
  euler_step,
  evaluations,
  guided,
  heun_step,
  ode_sample,
  prior,
  renoise_sample,
)
from jdistill.diffusion.schedules import (
  SCHEDULES,
  Schedule,
  add_noise,
  edm,
  per_example,
  rectified_flow,
  schedule,
  vp_cosine,
  vp_linear,
)
from jdistill.diffusion.targets import (
  boot_target,
  consistency_target,
  progressive_target,
  signal_ratio,
  truncated_snr_weight,
)

__all__ = [
  "PREDICTIONS",
  "SCHEDULES",
  "SOLVERS",
  "Scalings",
  "Schedule",
  "add_noise",
  "backward_simulate",
  "boot_target",
  "check_parts",
  "check_prediction",
  "consistency_scalings",
  "consistency_target",
  "convert_prediction",
  "ddim_step",
  "discrete",
  "edm",
  "edm_scalings",
  "edm_weight",
  "euler_step",
  "evaluations",
  "guided",
  "heun_step",
  "ode_sample",
  "owned_conditions",
  "partition_conditions",
  "per_example",
  "preconditioned",
  "prior",
  "progressive_target",
  "rectified_flow",
  "renoise_sample",
  "route",
  "sample_condition",
  "schedule",
  "signal_ratio",
  "truncated_snr_weight",
  "vp_cosine",
  "vp_linear",
]
