"""The formulas of all losses in NumPy, float64, written down without regard to speed or to gradients.

Every function takes a whole batch without padding: `(student, teacher, rows, **numbers)`. `rows` are the positions of
the examples, which choose their labels. Minus infinity masks a class out; infinite results are infinite.
"""

import numpy as np

CLASSES = 4
LABELS = np.array([0, 1, 2, 1, 0])
MAPS = np.array([[[0, 1], [2, -1]], [[1, 1], [0, 2]], [[2, 2], [-1, 0]], [[0, 0], [1, 1]], [[2, 1], [0, -1]]])
RHO = np.array([0.0, 0.5, 1.0, 0.25, 0.75])
WEIGHTS = np.array([0.5, 1.0, 2.0, 1.0, 0.25])
MEANS = np.array([[1.0, 0.0, 2.0, -1.0], [0.5, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])  # the last points nowhere
HEAD = np.array([[1.0, -0.5], [0.25, 0.5], [-1.0, 0.75], [0.5, 0.5]])
BANKS = np.random.default_rng(3).normal(size=(2, 6, 4))
NEGATIVES = np.array([[1, 2, 5], [0, 3, 4], [4, 4, 1], [0, 2, 5], [5, 1, 0]])
FREQUENCIES = np.array([[0.5, -0.25, 0.0, 1.0], [0.25, 0.5, -0.5, 0.25], [-1.0, 0.0, 0.25, 0.5]])
START = np.array([4.0, 0.0, -4.0, 1.0])


def log_softmax(z, axis=-1):
  high = np.max(z, axis=axis, keepdims=True)
  high = np.where(np.isfinite(high), high, 0)
  return z - high - np.log(np.sum(np.exp(z - high), axis=axis, keepdims=True))


def softmax(z, axis=-1):
  return np.exp(log_softmax(z, axis))


def times(p, x):
  """`p x`, 0 where `p` is 0."""
  return np.where(p == 0, 0, p * np.where(p == 0, 0, x))


def kl(log_p, log_q, axis=-1):
  return np.sum(times(np.exp(log_p), log_p - np.where(np.isneginf(log_p), 0, log_q)), axis=axis)


def unit(x):
  norm = np.linalg.norm(x, axis=-1, keepdims=True)
  return np.where(norm > 0, x / np.where(norm > 0, norm, 1), 0)


def cross_entropy(s, t, rows):
  return -np.take_along_axis(log_softmax(s), LABELS[rows][:, None], 1)[:, 0]


def soft_cross_entropy(s, t, rows, temperature):
  return -(temperature**2) * np.sum(times(softmax(t / temperature), log_softmax(s / temperature)), axis=-1)


def kl_divergence(s, t, rows, temperature):
  return temperature**2 * kl(log_softmax(t / temperature), log_softmax(s / temperature))


def reverse_kl(s, t, rows, temperature):
  return kl_divergence(t, s, rows, temperature)


def jeffreys_divergence(s, t, rows, temperature):
  return (kl_divergence(s, t, rows, temperature) + kl_divergence(t, s, rows, temperature)) / 2


def js_divergence(s, t, rows, temperature):
  s, t = log_softmax(s / temperature), log_softmax(t / temperature)
  middle = np.logaddexp(s, t) - np.log(2)
  return temperature**2 * (kl(s, middle) + kl(t, middle)) / 2


def kd_loss(s, t, rows, temperature, ce_weight, kd_weight):
  return ce_weight * cross_entropy(s, t, rows) + kd_weight * kl_divergence(s, t, rows, temperature)


def fused_kd_loss(s, t, rows, alpha, temperature):
  return kd_loss(s, t, rows, temperature, 1 - alpha, alpha)


def dkd_loss(s, t, rows, temperature, alpha, beta):
  out = []
  for z, q, y in zip(s / temperature, t / temperature, LABELS[rows], strict=True):
    two_s, two_t = (np.array([p[y], np.logaddexp.reduce(np.delete(p, y))]) for p in (log_softmax(z), log_softmax(q)))
    others = kl(log_softmax(np.delete(q, y)), log_softmax(np.delete(z, y)))
    out.append(alpha * kl(two_t, two_s) + beta * others)
  return temperature**2 * np.array(out)


def dbr_loss(s, t, rows, temperature):
  gaps = (log_softmax(s / temperature) - log_softmax(t / temperature))[:, None]
  other = LABELS[(np.asarray(rows) + 1) % len(LABELS)]
  return sum(np.abs(gaps[np.arange(len(s)), 0, y]) for y in (LABELS[rows], other))


def ofa_target_weights(t, rows, exponent, temperature):
  onehot = np.eye(CLASSES)[LABELS[rows]]
  return (softmax(t / temperature) + onehot) ** exponent - onehot


def ofa_loss(s, t, rows, exponent, temperature):
  weights = ofa_target_weights(t, rows, exponent, temperature)
  return -(temperature**2) * np.sum(times(weights, log_softmax(s / temperature)), axis=-1)


def plackett_luce(s, order, weights):
  ordered = np.take_along_axis(s, order, -1)
  left = np.stack([np.logaddexp.reduce(ordered[:, k:], axis=1) for k in range(s.shape[1])], axis=1)
  same = np.isneginf(left) & np.isneginf(ordered)  # only masked classes are left: nothing to choose
  return np.sum(times(weights, np.where(same, 0, left - np.where(same, 0, ordered))), axis=-1)


def plackett_luce_nll(s, t, rows):
  return plackett_luce(s, np.argsort(-t, axis=-1, kind="stable"), np.ones(CLASSES))


def pld_loss(s, t, rows, temperature):
  keys = np.where(np.eye(CLASSES, dtype=bool)[LABELS[rows]], np.inf, t)
  order = np.argsort(-keys, axis=-1, kind="stable")
  return plackett_luce(s, order, np.take_along_axis(softmax(t / temperature), order, -1))


def swing_kd_loss(s, t, rows, tau_lo, tau_hi, epsilon, sensitivity):
  del epsilon, sensitivity  # without noise
  tau = (tau_lo + (tau_hi - tau_lo) * RHO[rows])[:, None]
  return tau[:, 0] ** 2 * kl(log_softmax(t / tau), log_softmax(s / tau))


def sinkhorn_distance(cost, teacher, rows, entropy_weight, num_iters=20):
  log_kernel, v = -cost / entropy_weight, np.zeros(cost.shape[1])
  for _ in range(num_iters):
    u = -np.logaddexp.reduce(log_kernel + v, axis=1)
    v = np.log(len(cost) / cost.shape[1]) - np.logaddexp.reduce(log_kernel + u[:, None], axis=0)
  return np.sum(np.exp(log_kernel + u[:, None] + v) * cost)


def sinkd_batch_loss(s, t, rows, temperature, entropy_weight):
  s, t = softmax(s / temperature), softmax(t / temperature)
  cost = np.abs(s[:, None] - t[None]).sum(-1)
  return temperature**2 * sinkhorn_distance(cost, None, rows, entropy_weight) / len(s)


def sinkd_sample_loss(s, t, rows, temperature, entropy_weight):
  costs = [
    np.abs(a[:, None] - b[None]) for a, b in zip(softmax(s / temperature), softmax(t / temperature), strict=True)
  ]
  return temperature**2 * np.array([sinkhorn_distance(cost, None, rows, entropy_weight) for cost in costs])


def pearson(s, t, rows, eps):
  s, t = (x - x.mean(-1, keepdims=True) for x in (s, t))
  return (s * t).sum(-1) / np.sqrt(((s**2).sum(-1) + eps) * ((t**2).sum(-1) + eps))


def dist_loss(s, t, rows, temperature, beta, gamma, eps):
  s, t = softmax(s / temperature), softmax(t / temperature)
  inter, intra = 1 - pearson(s, t, rows, eps).mean(), 1 - pearson(s.T, t.T, rows, eps).mean()
  return temperature**2 * (beta * inter + gamma * intra)


def segmentation_cross_entropy(s, t, rows):
  maps = MAPS[rows]
  costs = -np.take_along_axis(log_softmax(s), np.maximum(maps, 0)[..., None], -1)[..., 0]
  return costs[maps >= 0].mean()


def _both_there(s, t):
  absent = np.isneginf(s) | np.isneginf(t)
  return np.where(absent, 0, s), np.where(absent, 0, t)


def generator_loss(s, t, rows):
  scores = np.where(np.isneginf(s), 0, s) @ HEAD
  return np.mean(np.logaddexp(0, scores) - np.array([0.0, 1.0]) * scores)


def discriminator_loss(s, t, rows):
  s, t = (x @ HEAD for x in _both_there(s, t))
  costs = np.logaddexp(0, s) - np.array([1.0, 0.0]) * s, np.logaddexp(0, t) - np.array([0.0, 1.0]) * t
  return np.mean(costs)


def logit_gap_weights(s, t, rows):
  same = np.isneginf(s) & np.isneginf(t)
  gap = np.linalg.norm(np.where(same, 0, s - np.where(same, 0, t)), axis=-1)
  return 1 / (1 + np.exp(-np.minimum(gap, 700)))


def hint_loss(s, t, rows):
  return ((s - t) ** 2).reshape(len(s), -1).mean(1)


def weighted_feature_mse(s, t, rows):
  return WEIGHTS[rows] * hint_loss(s, t, rows)


def attention_map(s, t, rows, power):
  return unit((np.abs(s / max(np.abs(s).max(), 1e-300)) ** power).mean(-1).reshape(len(s), -1))


def attention_loss(s, t, rows, power):
  return ((attention_map(s, None, rows, power) - attention_map(t, None, rows, power)) ** 2).mean(1)


def _pool(x, size):
  side = x.shape[1]
  bins = [slice(i * side // size, -(-(i + 1) * side // size)) for i in range(size)]
  return np.stack([np.stack([x[:, a, b].mean((1, 2)) for b in bins], 1) for a in bins], 1)


def review_hcl_loss(s, t, rows):
  total = hint_loss(s, t, rows)
  for k, size in enumerate((2, 1), 1):  # of maps of 3 x 3
    total = total + 2.0**-k * hint_loss(_pool(s, size), _pool(t, size), rows)
  return total / 1.75


def channel_wise_kl(s, t, rows, temperature):
  s, t = (log_softmax(x.reshape(len(x), -1, x.shape[-1]) / temperature, axis=1) for x in (s, t))
  return temperature**2 * kl(t, s, axis=1)


def contextual_similarity_loss(s, t, rows):
  s, t = (softmax(x @ x.transpose(0, 2, 1) / np.sqrt(x.shape[-1])) for x in (s, t))
  return ((s - t) ** 2).mean((1, 2))


def direction_only_loss(s, t, rows):
  return 1 - np.sum(unit(s) * unit(MEANS)[LABELS[rows]], axis=1)


def norm_only_loss(s, t, rows):
  s, t = np.linalg.norm(s, axis=1), np.linalg.norm(t, axis=1)
  return np.where(s < t, 1 - s / np.where(t > 0, t, 1), 0)


def norm_direction_loss(s, t, rows):
  longer = np.maximum(np.linalg.norm(s, axis=1), np.linalg.norm(t, axis=1))
  return 1 - np.sum(s * unit(MEANS)[LABELS[rows]], axis=1) / np.where(longer > 0, longer, 1)


def _huber(x, delta):
  return np.where(np.abs(x) < delta, x**2 / 2, delta * (np.abs(x) - delta / 2))


def rkd_distance_loss(s, t, rows, delta, floor):
  def relative(x):
    d = np.maximum(((x[:, None] - x[None]) ** 2).sum(-1), floor) ** 0.5 * ~np.eye(len(x), dtype=bool)
    return d / (d.sum() / (len(x) * (len(x) - 1)))

  return _huber(relative(s) - relative(t), delta).mean(1)


def rkd_angle_loss(s, t, rows, delta):
  def angles(x):
    towards = unit(x[None] - x[:, None])  # [anchor, other, features]
    return towards @ towards.transpose(0, 2, 1)

  return _huber(angles(s) - angles(t), delta).mean((1, 2))


def info_nce(s, t, rows, temperature):
  scores = unit(s) @ unit(t).T / temperature
  return -np.diagonal(log_softmax(scores))


def nt_xent(s, t, rows, temperature):
  views, n = unit(np.concatenate([s, t])), len(s)
  scores = np.where(np.eye(2 * n, dtype=bool), -np.inf, views @ views.T / temperature)
  return -log_softmax(scores)[np.arange(2 * n), (np.arange(2 * n) + n) % (2 * n)]


def supervised_contrastive(s, t, rows, temperature):
  z, labels, out = unit(s), LABELS[rows], []
  for i in range(len(z)):
    others = [j for j in range(len(z)) if j != i]
    log_p = log_softmax(z[others] @ z[i] / temperature)
    positives = [k for k, j in enumerate(others) if labels[j] == labels[i]]
    out.append(-log_p[positives].mean() if positives else 0.0)
  return np.array(out)


def rbf_mmd(s, t, rows, scale):
  def mean(x, y):
    d = ((x[:, None] - y[None]) ** 2).sum(-1)
    return sum(np.exp(-d / (2.0**i * scale)).mean() for i in range(-2, 3))

  return mean(s, s) + mean(t, t) - 2 * mean(s, t)


def mean_distance(s, t, rows):
  return np.linalg.norm(s.mean(0) - t.mean(0))


def crd_inbatch(s, t, rows, temperature):
  return nt_xent(s, t, rows, temperature).reshape(2, -1).mean(0)


def crd_loss(s, t, rows, temperature, momentum):
  del momentum  # of the banks
  out = np.zeros(len(s))
  noise = NEGATIVES.shape[1] / len(BANKS[0])
  for x, bank in ((s, BANKS[1]), (t, BANKS[0])):
    ids = np.concatenate([np.asarray(rows)[:, None], NEGATIVES[rows]], 1)
    ratio = np.einsum("bd,bkd->bk", unit(x), bank[ids]) / temperature - 1.0 - np.log(noise)  # log Z is 1
    out += np.logaddexp(0, -ratio[:, 0]) + np.logaddexp(0, ratio[:, 1:]).sum(1)
  return out


def cka_linear(s, t, rows):
  s, t = (x - x.mean(0) for x in (s, t))
  scale = np.linalg.norm(s.T @ s) * np.linalg.norm(t.T @ t)
  return np.linalg.norm(t.T @ s) ** 2 / scale if scale > 0 else 0.0


def hsic1(s, t, rows):
  n = len(s)
  k, l = ((x @ x.T) * ~np.eye(n, dtype=bool) for x in (s - s.mean(0), t - t.mean(0)))
  total = np.trace(k @ l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l).sum()
  return total / (n * (n - 3))


def barlow_twins(s, t, rows, redundancy_weight, eps):
  u, v = ((x - x.mean(0)) / np.sqrt(x.var(0) + eps) for x in (s, t))
  cross = sum(np.outer(one, other) for one, other in zip(u, v, strict=True)) / len(u)
  weights = np.where(np.eye(len(cross)), 1, redundancy_weight)
  return np.sum(weights * (np.eye(len(cross)) - cross) ** 2)


def distribution_matching(s, t, rows):
  return np.sum((s.mean(0) - t.mean(0)) ** 2)


def characteristic_function_discrepancy(s, t, rows, amplitude_weight, phase_weight):
  phi, psi = (np.exp(1j * FREQUENCIES @ x.T).mean(1) if len(x) else np.zeros(3) for x in (t, s))
  amplitude = (abs(phi) - abs(psi)) ** 2
  phase = 2 * abs(phi) * abs(psi) * (1 - np.cos(np.angle(phi) - np.angle(psi)))
  return np.mean(np.sqrt(amplitude_weight * amplitude + phase_weight * phase))


def attention_matching(s, t, rows, power):
  return distribution_matching(attention_map(s, s, rows, power), attention_map(t, t, rows, power), rows)


def bn_stat_loss(s, t, rows):
  return sum(w * np.linalg.norm(s[k] - t[k]) for k, w in enumerate((10.0, 10.0, 1.0, 1.0)))


def gradient_matching(s, t, rows, eps):
  return sum(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + eps) for a, b in zip(s.T, t.T, strict=True))


def trajectory_matching(s, t, rows):
  return np.sum((s - t) ** 2) / np.sum((START - t) ** 2)


def knn_affinity(s, t, rows, sigma):
  squared = ((s[:, None] - s[None]) ** 2).sum(-1)
  out = np.zeros_like(squared)
  for j in range(len(s)):
    others = sorted((i for i in range(len(s)) if i != j), key=lambda i: (squared[j, i], i))
    out[others[:2], j] = np.exp(-squared[others[:2], j] / (2 * sigma))
  return out


def local_preserving_loss(s, t, rows):
  return kl(log_softmax(s[:, rows]), log_softmax(t[:, rows]))


def masked_mean(s, t, rows):
  return s.mean()


def derivative(function, s, direction, step=1e-6):
  """Central difference of the sum of `function` along a direction."""
  ahead, behind = (np.sum(function(s + sign * step * direction)) for sign in (1, -1))
  return (ahead - behind) / (2 * step)
