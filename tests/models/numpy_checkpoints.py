"""Forward passes by the names and conventions of checkpoints, in float64 NumPy: what a key map is compared with."""

import math

import numpy as np


def softmax(x):
  weights = np.exp(x - x.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def rms(x, scale, epsilon):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def layer_norm(x, arrays, name, epsilon):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
  return x * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]


def rotated_halves(x, theta):
  """Hugging Face: numbers `i` and `i + size / 2` of a head are a pair. `x` is `[tokens, heads, size]`."""
  half = x.shape[-1] // 2
  angles = np.outer(np.arange(len(x)), theta ** (-np.arange(half) / half))[:, None]
  cos, sin = np.cos(angles), np.sin(angles)
  return np.concatenate([x[..., :half] * cos - x[..., half:] * sin, x[..., half:] * cos + x[..., :half] * sin], -1)


def rotated_neighbours(x, theta):
  """ggml's llama: numbers `2 i` and `2 i + 1` of a head are a pair, as complex numbers."""
  half = x.shape[-1] // 2
  angles = np.outer(np.arange(len(x)), theta ** (-np.arange(half) / half))[:, None]
  turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
  return np.stack([turned.real, turned.imag], -1).reshape(x.shape)


def attention(q, k, v):
  """`q [T, heads, size]`, `k` and `v [T, kv_heads, size]`, causal; head `h` reads `h // (heads / kv_heads)`."""
  out = np.empty_like(q)
  for head in range(q.shape[1]):
    other = head // (q.shape[1] // k.shape[1])
    scores = q[:, head] @ k[:, other].T / math.sqrt(q.shape[-1])
    scores[np.triu_indices(len(q), 1)] = -np.inf
    out[:, head] = softmax(scores) @ v[:, other]
  return out.reshape(len(q), -1)


LLAMA = {
  "embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight",
  "block": "model.layers.{}.", "norm0": "input_layernorm", "norm1": "post_attention_layernorm",
  "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
  "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj", "rotate": rotated_halves,
}  # fmt: skip
GGUF = {
  "embed": "token_embd.weight", "norm": "output_norm.weight", "head": "output.weight", "block": "blk.{}.",
  "norm0": "attn_norm", "norm1": "ffn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
  "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down", "rotate": rotated_neighbours,
}  # fmt: skip


def llama(arrays, tokens, *, names, depth, heads, kv_heads, theta, epsilon):
  """Logits `[T, V]` of a Llama by the names of its file; matrices are `[out, in]`."""
  arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
  rotate = names["rotate"]

  def affine(x, name):
    return x @ arrays[f"{name}.weight"].T + arrays.get(f"{name}.bias", 0.0)

  x = arrays[names["embed"]][tokens]
  for number in range(depth):
    block = {part: names["block"].format(number) + name for part, name in names.items() if isinstance(name, str)}
    y = rms(x, arrays[f"{block['norm0']}.weight"], epsilon)
    q, k, v = (affine(y, block[part]) for part in "qkv")
    q, k = rotate(q.reshape(len(x), heads, -1), theta), rotate(k.reshape(len(x), kv_heads, -1), theta)
    x = x + affine(attention(q, k, v.reshape(len(x), kv_heads, -1)), block["o"])
    y = rms(x, arrays[f"{block['norm1']}.weight"], epsilon)
    gate = affine(y, block["gate"])
    x = x + affine(gate / (1 + np.exp(-gate)) * affine(y, block["up"]), block["down"])
  return rms(x, arrays[names["norm"]], epsilon) @ arrays.get(names["head"], arrays[names["embed"]]).T


def gpt2(arrays, tokens, *, depth, heads, epsilon):
  """Logits `[T, V]` of a GPT-2 by Hugging Face's names; matrices are `[in, out]`."""
  arrays = {name.removeprefix("transformer."): array.astype(np.float64) for name, array in arrays.items()}

  def affine(x, name):
    return x @ arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

  x = arrays["wte.weight"][tokens] + arrays["wpe.weight"][: len(tokens)]
  for number in range(depth):
    y = layer_norm(x, arrays, f"h.{number}.ln_1", epsilon)
    parts = np.split(affine(y, f"h.{number}.attn.c_attn"), 3, axis=-1)
    mixed = attention(*(part.reshape(len(x), heads, -1) for part in parts))
    x = x + affine(mixed, f"h.{number}.attn.c_proj")
    y = affine(layer_norm(x, arrays, f"h.{number}.ln_2", epsilon), f"h.{number}.mlp.c_fc")
    y = 0.5 * y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
    x = x + affine(y, f"h.{number}.mlp.c_proj")
  return layer_norm(x, arrays, "ln_f", epsilon) @ arrays["wte.weight"].T
