"""Pure loss functions, named by what they compare, and what is computed for one loss alone: targets, weights, states.

What is of use beside losses is elsewhere: distances, tokens, pooling and class means in `jdistill.ops`, scores in
`jdistill.evaluation`.
"""

from jdistill.losses._checks import masked_mean
from jdistill.losses.adversarial import discriminator_loss, generator_loss
from jdistill.losses.alignment import mean_distance, rbf_mmd, supervised_contrastive
from jdistill.losses.batch_norm import bn_stat_loss
from jdistill.losses.compose import warmup_weight, weighted_sum
from jdistill.losses.contrastive import CRDState, crd_inbatch, crd_init, crd_loss, crd_negatives, info_nce, nt_xent
from jdistill.losses.correlation import dist_loss, pearson
from jdistill.losses.dbr import dbr_loss, dbr_record
from jdistill.losses.decoupled import dkd_loss, ofa_loss, ofa_target_weights
from jdistill.losses.direction import direction_only_loss, norm_direction_loss, norm_only_loss
from jdistill.losses.distribution import (
  attention_matching,
  characteristic_function_discrepancy,
  distribution_matching,
)
from jdistill.losses.feature import (
  attention_loss,
  attention_map,
  hint_loss,
  logit_gap_weights,
  review_hcl_loss,
  weighted_feature_mse,
)
from jdistill.losses.fusion import fused_kd_loss
from jdistill.losses.gradient import gradient_matching
from jdistill.losses.graph import contextual_similarity_loss, knn_affinity, local_preserving_loss, token_info_nce
from jdistill.losses.logit import (
  cross_entropy,
  ensemble_soft_targets,
  jeffreys_divergence,
  js_divergence,
  kd_loss,
  kl_divergence,
  reverse_kl,
  soft_cross_entropy,
)
from jdistill.losses.ranking import plackett_luce_nll, pld_loss, teacher_optimal_permutation
from jdistill.losses.relation import rkd_angle_loss, rkd_distance_loss
from jdistill.losses.segmentation import segmentation_cross_entropy
from jdistill.losses.similarity import barlow_twins, channel_wise_kl, cka_linear, hsic1
from jdistill.losses.swing import noisy_soft_targets, swing_kd_loss, swing_temperature
from jdistill.losses.trajectory import trajectory_matching
from jdistill.losses.transport import sinkd_batch_loss, sinkd_sample_loss, sinkhorn_distance, sinkhorn_plan

__all__ = [
  "CRDState",
  "attention_loss",
  "attention_map",
  "attention_matching",
  "barlow_twins",
  "bn_stat_loss",
  "channel_wise_kl",
  "characteristic_function_discrepancy",
  "cka_linear",
  "contextual_similarity_loss",
  "crd_inbatch",
  "crd_init",
  "crd_loss",
  "crd_negatives",
  "cross_entropy",
  "dbr_loss",
  "dbr_record",
  "direction_only_loss",
  "discriminator_loss",
  "dist_loss",
  "distribution_matching",
  "dkd_loss",
  "ensemble_soft_targets",
  "fused_kd_loss",
  "generator_loss",
  "gradient_matching",
  "hint_loss",
  "hsic1",
  "info_nce",
  "jeffreys_divergence",
  "js_divergence",
  "kd_loss",
  "kl_divergence",
  "knn_affinity",
  "local_preserving_loss",
  "logit_gap_weights",
  "masked_mean",
  "mean_distance",
  "noisy_soft_targets",
  "norm_direction_loss",
  "norm_only_loss",
  "nt_xent",
  "ofa_loss",
  "ofa_target_weights",
  "pearson",
  "plackett_luce_nll",
  "pld_loss",
  "rbf_mmd",
  "reverse_kl",
  "review_hcl_loss",
  "rkd_angle_loss",
  "rkd_distance_loss",
  "segmentation_cross_entropy",
  "sinkd_batch_loss",
  "sinkd_sample_loss",
  "sinkhorn_distance",
  "sinkhorn_plan",
  "soft_cross_entropy",
  "supervised_contrastive",
  "swing_kd_loss",
  "swing_temperature",
  "teacher_optimal_permutation",
  "token_info_nce",
  "trajectory_matching",
  "warmup_weight",
  "weighted_feature_mse",
  "weighted_sum",
]
