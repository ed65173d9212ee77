"""DD-Ranking's scores: what a distilled set is worth apart from its soft labels and its augmentation."""

import math


def label_robust_score(own: float, random: float, full_data: float, own_hard: float, *, weight: float = 0.5) -> float:
  """Label-robust score, from a gain over random images and a loss against full data that share no soft labels.

      LRS = (e^a - e^-1) / (e - e^-1),   a = weight IOR - (1 - weight) HLR
      IOR = own - random,   HLR = full_data - own_hard

  Args:
    own: accuracy of the distilled set with its own labels, as a fraction.
    random: of as many random real images with labels of the same kind.
    full_data: of all real images with hard labels.
    own_hard: of the distilled images with hard labels.
    weight: of the improvement over random (IOR) beside the hard-label recovery (HLR).

  Returns:
    The score in [0, 1] (the leaderboard shows it in percent); 0.269 for `a = 0`.

  References:
    DD-Ranking (arXiv 2505.13300), sec. 3; the leaderboard's weight is 0.5.
  """
  return _score(weight * (own - random) - (1 - weight) * (full_data - own_hard))


def augmentation_robust_score(with_gain: float, without_gain: float, *, weight: float = 0.5) -> float:
  """Augmentation-robust score, from the gains over random images under an augmentation and without it.

      ARS = (e^b - e^-1) / (e - e^-1),   b = weight with_gain + (1 - weight) without_gain

  Args:
    with_gain: accuracy of the distilled set minus that of random images, both trained with an augmentation; fractions.
    without_gain: the same without.
    weight: of the first.

  Returns:
    The score in [0, 1]; 0.269 for a set that is as good as random images.

  References:
    DD-Ranking (arXiv 2505.13300), sec. 3. The released code prints the two gains; that they are combined as in
    the label-robust score is the documentation's word (unverified).
  """
  return _score(weight * with_gain + (1 - weight) * without_gain)


def _score(exponent: float) -> float:
  return (math.exp(exponent) - math.exp(-1)) / (math.e - math.exp(-1))
