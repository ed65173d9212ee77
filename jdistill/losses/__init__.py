"""Pure loss functions, named by what they compare."""

from jdistill.losses.adversarial import discriminator_loss, discriminator_widths, generator_loss
from jdistill.losses.batch_norm import bn_stat_loss
from jdistill.losses.compose import warmup_weight, weighted_sum
from jdistill.losses.contrastive import CRDState, crd_inbatch, crd_init, crd_loss, crd_negatives, info_nce, nt_xent
from jdistill.losses.correlation import dist_loss, pearson
from jdistill.losses.decoupled import dkd_loss, ofa_loss, ofa_target_weights
from jdistill.losses.direction import (
  check_class_counts,
  class_means,
  direction_only_loss,
  norm_direction_loss,
  norm_only_loss,
)
from jdistill.losses.distribution import distribution_matching
from jdistill.losses.feature import (
  adaptive_average_pool,
  attention_loss,
  attention_map,
  hint_loss,
  logit_gap_weights,
  review_hcl_loss,
  weighted_feature_mse,
)
from jdistill.losses.fusion import (
  class_mean_predictions,
  fused_kd_loss,
  fusion_ratio,
  init_fusion_ratio,
  trilateral_state,
)
from jdistill.losses.graph import (
  contextual_similarity_loss,
  knn_affinity,
  local_preserving_loss,
  sample_tokens,
  token_info_nce,
  tokenize_feature_map,
)
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
from jdistill.losses.pairwise import knn_mask, pairwise_cosine, pairwise_l1, pairwise_sq_dists
from jdistill.losses.ranking import plackett_luce_nll, pld_loss, teacher_optimal_permutation
from jdistill.losses.relation import rkd_angle_loss, rkd_distance_loss
from jdistill.losses.segmentation import (
  confusion_matrix,
  encode_noised_labels,
  fixed_codes,
  mean_iou,
  segmentation_cross_entropy,
)
from jdistill.losses.similarity import channel_wise_kl, cka_linear, hsic1
from jdistill.losses.swing import noisy_soft_targets, swing_kd_loss, swing_temperature
from jdistill.losses.trajectory import trajectory_matching
from jdistill.losses.transport import sinkd_batch_loss, sinkd_sample_loss, sinkhorn_distance, sinkhorn_plan

__all__ = [
  "CRDState",
  "adaptive_average_pool",
  "attention_loss",
  "attention_map",
  "bn_stat_loss",
  "channel_wise_kl",
  "check_class_counts",
  "cka_linear",
  "class_mean_predictions",
  "class_means",
  "confusion_matrix",
  "contextual_similarity_loss",
  "crd_inbatch",
  "crd_init",
  "crd_loss",
  "crd_negatives",
  "cross_entropy",
  "direction_only_loss",
  "discriminator_loss",
  "discriminator_widths",
  "dist_loss",
  "distribution_matching",
  "dkd_loss",
  "encode_noised_labels",
  "ensemble_soft_targets",
  "fixed_codes",
  "fused_kd_loss",
  "fusion_ratio",
  "generator_loss",
  "hint_loss",
  "hsic1",
  "info_nce",
  "init_fusion_ratio",
  "jeffreys_divergence",
  "js_divergence",
  "kd_loss",
  "kl_divergence",
  "knn_affinity",
  "knn_mask",
  "local_preserving_loss",
  "logit_gap_weights",
  "mean_iou",
  "noisy_soft_targets",
  "norm_direction_loss",
  "norm_only_loss",
  "nt_xent",
  "ofa_loss",
  "ofa_target_weights",
  "pairwise_cosine",
  "pairwise_l1",
  "pairwise_sq_dists",
  "pearson",
  "plackett_luce_nll",
  "pld_loss",
  "reverse_kl",
  "review_hcl_loss",
  "rkd_angle_loss",
  "rkd_distance_loss",
  "sample_tokens",
  "segmentation_cross_entropy",
  "sinkd_batch_loss",
  "sinkd_sample_loss",
  "sinkhorn_distance",
  "sinkhorn_plan",
  "soft_cross_entropy",
  "swing_kd_loss",
  "swing_temperature",
  "teacher_optimal_permutation",
  "token_info_nce",
  "tokenize_feature_map",
  "trajectory_matching",
  "trilateral_state",
  "warmup_weight",
  "weighted_feature_mse",
  "weighted_sum",
]
