"""Pure loss functions, named by what they compare, and what is computed for one loss alone: targets, weights, states.

What is of use beside losses is elsewhere: distances, tokens, pooling and class means in `jdistill.ops`, scores in
`jdistill.evaluation`.
"""

from jdistill.losses._checks import masked_mean
from jdistill.losses.adversarial import discriminator_loss, generator_loss
from jdistill.losses.alignment import mean_distance, rbf_mmd, supervised_contrastive
from jdistill.losses.batch_norm import bn_stat_loss
from jdistill.losses.chunked import chunked_cross_entropy, chunked_divergence, chunked_kd_loss, chunked_token_losses
from jdistill.losses.compose import warmup_weight, weighted_sum
from jdistill.losses.contrastive import CRDState, crd_inbatch, crd_init, crd_loss, crd_negatives, info_nce, nt_xent
from jdistill.losses.correlation import dist_loss, pearson
from jdistill.losses.dbr import dbr_loss, dbr_record
from jdistill.losses.decoupled import dkd_loss, ofa_loss, ofa_target_weights
from jdistill.losses.diffusion import (
  denoising_loss,
  gan_discriminator_loss,
  gan_generator_loss,
  gradient_penalty,
  loss_from_grad,
  pseudo_huber,
  score_distillation_grad,
)
from jdistill.losses.direction import direction_only_loss, norm_direction_loss, norm_only_loss
from jdistill.losses.distribution import (
  attention_matching,
  characteristic_function_discrepancy,
  distribution_matching,
)
from jdistill.losses.divergence import (
  adaptive_kl,
  generalized_jsd,
  skew_kl,
  skew_reverse_kl,
  token_divergence,
  total_variation,
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
from jdistill.losses.perceptual import identity_loss, perceptual_loss
from jdistill.losses.policy import clipped_policy_loss, group_relative_advantage, k3_kl
from jdistill.losses.ranking import plackett_luce_nll, pld_loss, teacher_optimal_permutation
from jdistill.losses.relation import rkd_angle_loss, rkd_distance_loss
from jdistill.losses.returns import discounted_returns, log_ratio_rewards, mixture_weight, whiten_advantages
from jdistill.losses.segmentation import segmentation_cross_entropy
from jdistill.losses.sequence import reduce_tokens, sequence_log_prob
from jdistill.losses.similarity import barlow_twins, channel_wise_kl, cka_linear, hsic1
from jdistill.losses.swing import noisy_soft_targets, swing_kd_loss, swing_temperature
from jdistill.losses.taid import interpolated_target, taid_loss
from jdistill.losses.top_k import TopK, TopKFidelity, top_k_divergence, top_k_fidelity, top_k_targets
from jdistill.losses.trajectory import trajectory_matching
from jdistill.losses.transport import sinkd_batch_loss, sinkd_sample_loss, sinkhorn_distance, sinkhorn_plan

__all__ = [
  "CRDState",
  "TopK",
  "TopKFidelity",
  "adaptive_kl",
  "attention_loss",
  "attention_map",
  "attention_matching",
  "barlow_twins",
  "bn_stat_loss",
  "channel_wise_kl",
  "characteristic_function_discrepancy",
  "chunked_cross_entropy",
  "chunked_divergence",
  "chunked_kd_loss",
  "chunked_token_losses",
  "cka_linear",
  "clipped_policy_loss",
  "contextual_similarity_loss",
  "crd_inbatch",
  "crd_init",
  "crd_loss",
  "crd_negatives",
  "cross_entropy",
  "dbr_loss",
  "dbr_record",
  "denoising_loss",
  "direction_only_loss",
  "discounted_returns",
  "discriminator_loss",
  "dist_loss",
  "distribution_matching",
  "dkd_loss",
  "ensemble_soft_targets",
  "fused_kd_loss",
  "gan_discriminator_loss",
  "gan_generator_loss",
  "generalized_jsd",
  "generator_loss",
  "gradient_matching",
  "gradient_penalty",
  "group_relative_advantage",
  "hint_loss",
  "hsic1",
  "identity_loss",
  "info_nce",
  "interpolated_target",
  "jeffreys_divergence",
  "js_divergence",
  "k3_kl",
  "kd_loss",
  "kl_divergence",
  "knn_affinity",
  "local_preserving_loss",
  "log_ratio_rewards",
  "logit_gap_weights",
  "loss_from_grad",
  "masked_mean",
  "mean_distance",
  "mixture_weight",
  "noisy_soft_targets",
  "norm_direction_loss",
  "norm_only_loss",
  "nt_xent",
  "ofa_loss",
  "ofa_target_weights",
  "pearson",
  "perceptual_loss",
  "plackett_luce_nll",
  "pld_loss",
  "pseudo_huber",
  "rbf_mmd",
  "reduce_tokens",
  "reverse_kl",
  "review_hcl_loss",
  "rkd_angle_loss",
  "rkd_distance_loss",
  "score_distillation_grad",
  "segmentation_cross_entropy",
  "sequence_log_prob",
  "sinkd_batch_loss",
  "sinkd_sample_loss",
  "sinkhorn_distance",
  "sinkhorn_plan",
  "skew_kl",
  "skew_reverse_kl",
  "soft_cross_entropy",
  "supervised_contrastive",
  "swing_kd_loss",
  "swing_temperature",
  "taid_loss",
  "teacher_optimal_permutation",
  "token_divergence",
  "token_info_nce",
  "top_k_divergence",
  "top_k_fidelity",
  "top_k_targets",
  "total_variation",
  "trajectory_matching",
  "warmup_weight",
  "weighted_feature_mse",
  "weighted_sum",
  "whiten_advantages",
]
