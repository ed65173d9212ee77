"""A method that is nothing but arithmetic: noisy descent on the mean of what the stream gives."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import Method

KEY = jax.random.key(7)


def toy():
  """State `{"w": [3], "count": []}`; the metric `toy/loss` is NaN or infinite where the batch is."""

  def init(key, example):
    return {"w": jax.random.normal(key, (3,)) + 0.0 * example, "count": jnp.zeros((), jnp.int32)}

  def step(key, state, batch):
    gradient = state["w"] - batch
    w = state["w"] - 0.1 * gradient + 0.01 * jax.random.normal(key, (3,))
    return {"w": w, "count": state["count"] + 1}, {"toy/first": w[0] * 0.0 + 1.0, "toy/loss": jnp.sum(gradient**2)}

  return Method(init, step, lambda state: state["w"])


def stream(bad=None, value=np.nan):
  """Batches that are a function of the step; `value` is in the one of step `bad`."""

  def batch(step):
    out = np.array([step, 1.0, -step], np.float32)
    out[1] = value if step == bad else out[1]
    return out

  return batch


def host(state):
  """A copy on the host, which no later donation can touch."""
  return jax.tree.map(np.array, state)
