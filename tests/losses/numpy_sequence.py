"""The formulas of losses of tokens and sequences in NumPy, float64; see `numpy_losses`."""

import numpy as np
from numpy_losses import cross_entropy, kl, log_softmax, softmax, times

TOKENS = np.array([[0, 1, 2], [2, 2, 0], [1, 0, 1], [0, 0, 2], [2, 1, 1]])
ADVANTAGES = np.array([0.5, -1.0, 2.0, 0.0, -0.25])
HEADS = np.random.default_rng(4).integers(-8, 9, (2, 4, 7)) / 8
KEPT = 2  # tokens of the teacher


def _mix(a, b, share):
  return np.logaddexp(np.log(share) + a, np.log1p(-share) + b)


def generalized_jsd(s, t, rows, beta, temperature):
  s, t = log_softmax(s / temperature), log_softmax(t / temperature)
  middle = _mix(t, s, beta)
  return temperature**2 * (beta * kl(t, middle) + (1 - beta) * kl(s, middle))


def skew_kl(s, t, rows, skew, temperature):
  s, t = log_softmax(s / temperature), log_softmax(t / temperature)
  return temperature**2 * kl(t, _mix(t, s, skew))


def skew_reverse_kl(s, t, rows, skew, temperature):
  s, t = log_softmax(s / temperature), log_softmax(t / temperature)
  return temperature**2 * kl(s, _mix(s, t, skew))


token_divergence = skew_reverse_kl  # the kind that the table asks for


def total_variation(s, t, rows, temperature):
  return temperature**2 * np.abs(softmax(s / temperature) - softmax(t / temperature)).sum(-1) / 2


def adaptive_kl(s, t, rows, head_mass, temperature):
  """Token by token, as one would by hand."""
  out = []
  for student, teacher in zip(log_softmax(s / temperature), log_softmax(t / temperature), strict=True):
    order = sorted(range(len(teacher)), key=lambda c, teacher=teacher: -teacher[c])
    gap, mass, head = np.abs(np.exp(student) - np.exp(teacher)), 0.0, []
    for c in order:
      mass += np.exp(teacher[c])
      if not head or mass <= head_mass:
        head.append(c)
    weight = gap[head].sum() / gap.sum() if gap.sum() else 0.5
    out.append(weight * kl(teacher, student) + (1 - weight) * kl(student, teacher))
  return temperature**2 * np.array(out)


def taid_loss(s, t, rows, interpolation, temperature):
  target = softmax(((1 - interpolation) * s + interpolation * t) / temperature)
  return -(temperature**2) * np.sum(times(target, log_softmax(s / temperature)), axis=-1)


def chunked_divergence(s, t, rows, skew, temperature):
  return skew_kl(s @ HEADS[0], t @ HEADS[1], rows, skew, temperature)


def chunked_cross_entropy(s, t, rows):
  return cross_entropy(s @ HEADS[0], t, rows)


def chunked_kd_loss(s, t, rows, ce_weight, kd_weight, temperature):
  s, t = s @ HEADS[0], t @ HEADS[1]
  distance = temperature**2 * kl(log_softmax(t / temperature), log_softmax(s / temperature))
  return ce_weight * cross_entropy(s, t, rows) + kd_weight * distance


def chunked_token_losses(s, t, rows, temperature):
  return chunked_kd_loss(s, t, rows, 1.0, 1.0, temperature)


def top_k_divergence(s, t, rows, temperature):
  """In buckets."""
  s, t = log_softmax(s / temperature), log_softmax(t / temperature)
  order = np.argsort(-t, axis=-1, kind="stable")

  def bucketed(x):
    x = np.take_along_axis(x, order, axis=-1)
    return np.concatenate([x[:, :KEPT], np.logaddexp.reduce(x[:, KEPT:], axis=-1, keepdims=True)], axis=-1)

  return temperature**2 * kl(bucketed(t), bucketed(s))


def reduce_tokens(s, t, rows):
  return np.mean([row.mean() for row in s])


def sequence_log_prob(s, t, rows):
  chosen = np.take_along_axis(log_softmax(s), TOKENS[rows][..., None], axis=-1)[..., 0]
  return chosen.sum(axis=-1)


def group_relative_advantage(s, t, rows, eps):
  return (s - s.mean(-1, keepdims=True)) / (s.std(-1, ddof=1, keepdims=True) + eps)


def clipped_policy_loss(s, t, rows, clip):
  ratio, advantage = np.exp(np.clip(s - t, -20, 20)), ADVANTAGES[rows][:, None]
  return -np.minimum(ratio * advantage, np.clip(ratio, 1 - clip, 1 + clip) * advantage)


def discounted_returns(s, t, rows, discount):
  """By the definition, a double loop, each sum divided by its number of terms."""
  length = s.shape[1]
  terms = [[discount ** np.arange(length - i) @ row[i:] / (length - i) for i in range(length)] for row in s]
  return np.array(terms)


def log_ratio_rewards(s, t, rows, scale, bound):
  return np.clip((t - s) / scale, -bound, bound)


def mixture_weight(s, t, rows, share):
  return 1 / ((1 - share) + share * np.exp(np.minimum(t - s, 700)))


def whiten_advantages(s, t, rows, eps):
  return (s - s.mean()) / np.sqrt(s.var() + eps)


def k3_kl(s, t, rows, bound):
  d = np.clip(t - s, -20, 20)
  return np.minimum(np.exp(d) - d - 1, bound)
