"""Learning on the data of several clients as pure functions: how data is divided, rounds on a client, averages."""

from jdistill.federated.average import fedavg, is_norm, norm_leaves, proximal, with_norms
from jdistill.federated.contract import Federation, client_key, joint_method, server_key
from jdistill.federated.local import LocalLoss, epoch_batches, local_round, pseudo_gradient
from jdistill.federated.partition import dirichlet_partition, missing_classes
from jdistill.federated.statistics import class_statistics, client_share, stacked_batches

__all__ = [
  "Federation",
  "LocalLoss",
  "class_statistics",
  "client_key",
  "client_share",
  "dirichlet_partition",
  "epoch_batches",
  "fedavg",
  "is_norm",
  "joint_method",
  "local_round",
  "missing_classes",
  "norm_leaves",
  "proximal",
  "pseudo_gradient",
  "server_key",
  "stacked_batches",
  "with_norms",
]
