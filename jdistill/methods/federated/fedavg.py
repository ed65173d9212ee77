"""Federated averaging, with or without a term that holds clients near the server: FedAvg, FedProx, FedBN."""

from typing import Literal

from jdistill.base import Augmentation, Network
from jdistill.federated import Federation
from jdistill.methods.federated.rounds import Local, federation
from jdistill.methods.federated.virtual import Virtual
from jdistill.schema import Count, NonNegative, Positive, Share, Size, validated


@validated("method")
def fedavg(
  network: Network,
  num_classes: int,
  *,
  local_epochs: Count = 1,
  local_batch: Count = 32,
  lr: Positive = 0.01,
  average: Literal["uniform", "examples"] = "examples",
  local_norm: bool = False,
  proximal: NonNegative = 0.0,
  train_on: Literal["real", "virtual"] = "real",
  virtual_ipc: Count = 50,
  warmup_steps: Size = 10000,
  batch_real: Count = 256,
  image_lr: Positive = 1.0,
  image_momentum: Share = 0.5,
  siamese: Augmentation | None = None,
) -> Federation:
  """Builds federated averaging.

  In every round each client starts from the global network and takes SGD steps on

      mean CE(theta; batch) + proximal / 2 |theta - theta_global|^2

  and the server takes the mean of what they end with.

  Args:
    network: the one that is learned.
    num_classes: number of classes.
    local_epochs, local_batch, lr: SGD without momentum on a client.
    average: `"examples"` weighs clients by their numbers of real examples, as FedAvg does; `"uniform"` does not.
    local_norm: normalisation layers stay with the clients, which predict with their own (FedBN). The server's are those
      of the start.
    proximal: weight of FedProx's term; 0.01 in FedLGD's comparison, 0 for FedAvg.
    train_on: `"real"` examples, or `"virtual"` images that every client distils from them once, before the first round,
      by distribution matching (`dm`). These start as normal noise with the mean and standard deviation of each class
      and channel.
    virtual_ipc: virtual images per class.
    warmup_steps: steps of distribution matching, each with a random network.
    batch_real: real images per class and step of it.
    image_lr, image_momentum: SGD on virtual images.
    siamese: an augmentation of real and virtual images with one draw for both; `None` for none.

  Returns:
    A `Federation`.

  Raises:
    ValueError: `local_norm` of a network without normalisation layers that have parameters.

  References:
    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data" (arXiv 1602.05629),
    alg. 1; Li et al., "Federated Optimization in Heterogeneous Networks" (FedProx, arXiv 1812.06127), alg. 2, without
    its partial solutions; Li et al., FedBN (arXiv 2102.07623).
  """
  virtual = Virtual(virtual_ipc, warmup_steps, batch_real, image_lr, image_momentum, siamese)
  return federation(
    "fedavg",
    network,
    num_classes,
    Local(local_epochs, local_batch, lr, proximal),
    virtual=virtual if train_on == "virtual" else None,
    by_examples=average == "examples",
    local_norm=local_norm,
  )
