"""Zero-shot teachers of given embeddings: images and prompts of a vision-language model that ran elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.base import UserError
from jdistill.ops.checks import known

_TOLERANCE = 1e-2  # of norms, which may come from half precision


def class_embeddings(prompts: jax.Array) -> jax.Array:
  """One unit vector per class: the mean of its prompts' embeddings, then normalised.

  Args:
    prompts: `[C, k, d]`, `k` prompts of each class as the text encoder gives them, not normalised.

  Returns:
    `[C, d]` of length 1.

  Raises:
    UserError: another shape, or prompts whose mean is zero.
  """
  if np.ndim(prompts) != 3:
    raise UserError(f"prompts: shape {np.shape(prompts)}; give [classes, prompts, width]")
  mean = jnp.mean(jnp.asarray(prompts), axis=1)
  norm = jnp.linalg.norm(mean, axis=1, keepdims=True)
  if known(norm) and not (np.asarray(norm) > 0).all():
    raise UserError("prompts: the mean of a class is zero or not finite and points nowhere; look at its prompts")
  return mean / norm


def zero_shot_logits(images: jax.Array, classes: jax.Array, *, scale: float = 100.0) -> jax.Array:
  """Logits of a vision-language model, `scale <v(x), w_c>`, from unit embeddings of images and classes.

  Args:
    images: `[n, d]` of length 1.
    classes: `[C, d]` of length 1, such as `class_embeddings` gives them.
    scale: inverse temperature; 100 in CLIP.

  Returns:
    `[n, C]`.

  Raises:
    UserError: embeddings of different widths, or not of length 1.

  References:
    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (arXiv 2103.00020); the
    teacher of arXiv 2506.00910.
  """
  if np.ndim(images) != 2 or np.ndim(classes) != 2 or np.shape(images)[1] != np.shape(classes)[1]:
    raise UserError(f"images, classes: shapes {np.shape(images)} and {np.shape(classes)}; give one width for both")
  for name, value in (("images", images), ("classes", classes)):
    if known(value) and np.size(value):
      norms = np.linalg.norm(np.asarray(value, np.float32), axis=1)
      if not (np.abs(norms - 1) < _TOLERANCE).all():
        worst = norms[np.nanargmax(np.abs(norms - 1))] if np.isfinite(norms).any() else norms[0]
        raise UserError(f"{name}: embeddings must have length 1, found {worst:.4g}; divide them by their norm")
  return scale * jnp.matmul(jnp.asarray(images), jnp.asarray(classes).T, precision=jax.lax.Precision.HIGHEST)
