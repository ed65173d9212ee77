"""How a synthetic set starts: real images that an expert knows, and labels that experts give them."""

import numpy as np

from jdistill.base import UserError


def random_real(rng: np.random.Generator, labels: np.ndarray, ipc: int, num_classes: int) -> np.ndarray:
  """Positions `[num_classes * ipc]` of random real images, class by class, without repetition.

  Args:
    rng: decides which.
    labels: `[n]` integer labels of the real images.
    ipc: images per class.
    num_classes: number of classes.

  Raises:
    UserError: a class has fewer than `ipc` images.
  """
  return _first_per_class(rng.permutation(len(labels)), labels, np.ones(len(labels), bool), ipc, num_classes)


def correctly_predicted(
  rng: np.random.Generator, logits: np.ndarray, labels: np.ndarray, ipc: int, num_classes: int
) -> np.ndarray:
  """Positions `[num_classes * ipc]` of real images that the first expert able to do so classifies correctly.

  For each class the shuffled images are walked with expert 0; only when those it gets right are used up does the walk
  go on with the next expert.

  Args:
    rng: decides the walk.
    logits: `[experts, n, classes]`, last snapshots on all real images.
    labels: `[n]`.
    ipc: images per class.
    num_classes: number of classes.

  Raises:
    UserError: all experts together get fewer than `ipc` images of a class right.

  References:
    Guo et al. (arXiv 2310.05773), sec. 3.3; `samples_predicted_correctly` in the released settings.
  """
  order = rng.permutation(len(labels))
  right = logits.argmax(-1) == labels[None]  # [experts, n]
  # the expert that admits an image first; images nobody gets right come last and are refused
  admitted = np.where(right.any(0), right.argmax(0), len(right))
  order = order[np.argsort(admitted[order], kind="stable")]
  return _first_per_class(order, labels, right.any(0), ipc, num_classes)


def _first_per_class(order, labels, allowed, ipc: int, num_classes: int) -> np.ndarray:
  picked = []
  for label in range(num_classes):
    own = order[(labels[order] == label) & allowed[order]]
    if len(own) < ipc:
      raise UserError(
        f"ipc={ipc}: class {label} has only {len(own)} usable images of {int((labels == label).sum())}; "
        "lower ipc, train the experts longer, or set method.initial='real'"
      )
    picked.append(own[:ipc])
  return np.concatenate(picked)


def expert_label_logits(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Label logits of each image: the mean over the experts that classify it correctly of their logits.

      y_i = sum_k 1[argmax L_ki = label_i] L_ki / sum_k 1[argmax L_ki = label_i]

  Where no expert is right the mean is over all of them, and the right class's logit changes places with the largest, so
  that the label still names its class.

  Args:
    logits: `[experts, m, classes]` of the last snapshots on the initial images; raw, no temperature.
    labels: `[m]` the images' classes.

  Returns:
    `[m, classes]` float32.

  References:
    Guo et al. (arXiv 2310.05773), sec. 3.3.
  """
  right = (logits.argmax(-1) == labels[None]).astype(np.float64)[..., None]  # [experts, m, 1]
  count = right.sum(0)
  some = count[:, 0] > 0
  mean = np.where(some[:, None], (right * logits).sum(0) / np.maximum(count, 1), logits.mean(0, dtype=np.float64))
  rows = np.flatnonzero(~some)
  wrong = mean[rows].argmax(-1)
  mean[rows, labels[rows]], mean[rows, wrong] = mean[rows, wrong], mean[rows, labels[rows]]
  return mean.astype(np.float32)
