"""Layers of transformers in NumPy, with the parameters of ours; layer norms as they are before any step."""

import numpy as np
from scipy.special import erf


def norm(x):
  return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def dense(x, layer):
  return x @ layer["kernel"] + layer["bias"]


def gelu_network(x, p, prefix):
  hidden = dense(x, p[f"{prefix}dense0"])
  return dense(hidden * (1 + erf(hidden / np.sqrt(2))) / 2, p[f"{prefix}dense1"])


def attention(x, p, prefix, heads):
  queries, keys, values = np.split(dense(x, p[f"{prefix}qkv"]), 3, axis=-1)
  mixed, size = np.zeros_like(x), x.shape[-1] // heads
  for head in range(heads):
    part = slice(head * size, (head + 1) * size)
    scores = np.exp(queries[..., part] @ keys[..., part].transpose(0, 2, 1) / np.sqrt(size))
    mixed[..., part] = scores / scores.sum(-1, keepdims=True) @ values[..., part]
  return dense(mixed, p[f"{prefix}out"])


def block(x, p, prefix, heads):
  x = x + attention(norm(x), p, prefix, heads)
  return x + gelu_network(norm(x), p, prefix)
