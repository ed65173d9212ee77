"""A decoder-only transformer in NumPy, position by position and head by head, with the parameters of ours."""

import numpy as np


def silu(x):
  return x / (1 + np.exp(-x))


def gelu(x):
  return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def norm(x, layer, config):
  if config.norm == "rms":
    return x / np.sqrt(np.mean(x**2) + config.epsilon) * layer["scale"]
  return (x - x.mean()) / np.sqrt(x.var() + config.epsilon) * layer["scale"] + layer["bias"]


def affine(x, layer):
  return x @ layer["kernel"] + layer.get("bias", 0.0)


def rotated(x, position, theta):
  """One head: pairs (i, i + size / 2) as complex numbers, turned."""
  half = len(x) // 2
  turned = (x[:half] + 1j * x[half:]) * np.exp(1j * position * theta ** (-2 * np.arange(half) / len(x)))
  return np.concatenate([turned.real, turned.imag])


def heads_of(x, p, prefix, config):
  """Queries, keys and values of one token, by head."""
  own, shared = config.heads * config.size, config.groups * config.size
  if config.fused:
    parts = np.split(affine(x, p[f"{prefix}qkv"]), [own, own + shared])
  else:
    parts = [affine(x, p[f"{prefix}{name}"]) for name in ("query", "key", "value")]
  return [part.reshape(-1, config.size) for part in parts]


def block(tokens, p, prefix, config):
  """`[T, width]`."""
  queries, keys, values = zip(
    *(heads_of(norm(x, p[f"{prefix}norm0"], config), p, prefix, config) for x in tokens), strict=True
  )
  out = []
  for t, x in enumerate(tokens):
    mixed = []
    for head in range(config.heads):
      group = head // (config.heads // config.groups)
      query, seen = queries[t][head], [key[group] for key in keys[: t + 1]]
      if config.positions == "rope":
        query = rotated(query, t, config.theta)
        seen = [rotated(key, place, config.theta) for place, key in enumerate(seen)]
      weights = np.exp(np.array([query @ key for key in seen]) / np.sqrt(config.size))
      mixed.append(sum(w * value[group] for w, value in zip(weights / weights.sum(), values[: t + 1], strict=True)))
    x = x + affine(np.concatenate(mixed), p[f"{prefix}out"])
    y = norm(x, p[f"{prefix}norm1"], config)
    up = affine(y, p[f"{prefix}up"])
    hidden = silu(affine(y, p[f"{prefix}gate"])) * up if config.mlp == "swiglu" else gelu(up)
    out.append(x + affine(hidden, p[f"{prefix}down"]))
  return np.stack(out)


def forward(params, tokens, config):
  """One row without padding: logits `[T, V]`, embedding `[T, width]` and what the blocks give."""
  p = {name: {kind: np.float64(array) for kind, array in layer.items()} for name, layer in params.items()}
  x = p["embed"]["kernel"][tokens]
  if config.positions == "learned":
    x = x + p["positions"]["kernel"][: len(tokens)]
  taps = []
  for i in range(config.depth):
    x = block(x, p, f"block{i}_", config)
    taps.append(x)
  x = np.stack([norm(token, p["last_norm"], config) for token in x])
  return x @ (p["embed"]["kernel"].T if config.tied else p["head"]["kernel"]), x, taps
