"""Numerical building blocks: fast derivatives (convolution, pooling, norms), distances, tokens, means by class."""

from jdistill.ops.conv import conv2d
from jdistill.ops.kernels import append_bias, linear_kernel, nngp_kernel, ntk_kernel, rbf_kernel
from jdistill.ops.label_codes import encode_noised_labels, fixed_codes
from jdistill.ops.means import check_class_counts, class_means
from jdistill.ops.one_hot import centred_one_hot
from jdistill.ops.pairwise import knn_mask, pairwise_cosine, pairwise_l1, pairwise_sq_dists
from jdistill.ops.pooling import adaptive_average_pool
from jdistill.ops.ridge import krr_predict, krr_solve
from jdistill.ops.rows import fold_rows, suggest_chunk_size
from jdistill.ops.spatial import avg_pool2, batch_norm, instance_norm, max_pool2, max_pool3, relu, standardize
from jdistill.ops.tokens import sample_tokens, tokenize_feature_map, untokenize

__all__ = [
  "adaptive_average_pool",
  "append_bias",
  "avg_pool2",
  "batch_norm",
  "centred_one_hot",
  "check_class_counts",
  "class_means",
  "conv2d",
  "encode_noised_labels",
  "fixed_codes",
  "fold_rows",
  "instance_norm",
  "knn_mask",
  "krr_predict",
  "krr_solve",
  "linear_kernel",
  "max_pool2",
  "max_pool3",
  "nngp_kernel",
  "ntk_kernel",
  "pairwise_cosine",
  "pairwise_l1",
  "pairwise_sq_dists",
  "rbf_kernel",
  "relu",
  "sample_tokens",
  "standardize",
  "suggest_chunk_size",
  "tokenize_feature_map",
  "untokenize",
]
