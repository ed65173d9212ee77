"""Numerical building blocks with derivatives that stay fast: convolution, pooling, norms, resampling."""

from jdistill.ops.conv import conv2d
from jdistill.ops.rows import fold_rows, suggest_chunk_size
from jdistill.ops.spatial import avg_pool2, batch_norm, instance_norm, max_pool2, relu, standardize

__all__ = [
  "avg_pool2",
  "batch_norm",
  "conv2d",
  "fold_rows",
  "instance_norm",
  "max_pool2",
  "relu",
  "standardize",
  "suggest_chunk_size",
]
