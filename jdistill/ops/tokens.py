"""Feature maps as tokens: patches written as vectors, and a random choice of them."""

import math

import jax
import jax.numpy as jnp

from jdistill.ops.checks import check_rank


def tokenize_feature_map(features: jax.Array, *, patch: int | tuple[int, int] = 1) -> jax.Array:
  """Cuts a map into patches that do not overlap and writes each as one vector.

  Args:
    features: `[B, H, W, channels]`; tokens `[B, P, channels]` pass unchanged with `patch=1`.
    patch: height and width of a patch, or one number for both. With 1 every place is a token.

  Returns:
    `[B, P, patch_h * patch_w * channels]`, `P = (H / patch_h) * (W / patch_w)` in reading order.

  Raises:
    ValueError: if `features` has neither three nor four axes or the patch does not divide the map.

  Cost: one copy.
  """
  name = "tokenize_feature_map"
  features = jnp.asarray(features)
  if features.ndim == 3 and patch in (1, (1, 1)):
    return features
  check_rank(name, "features", features, 4)
  high, wide = (patch, patch) if isinstance(patch, int) else patch
  batch, height, width, channels = features.shape
  if min(high, wide) < 1 or height % high or width % wide:
    raise ValueError(f"{name}: patches of {(high, wide)} do not divide a map of {(height, width)}")
  x = features.reshape(batch, height // high, high, width // wide, wide, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // high * (width // wide), high * wide * channels)


def untokenize(tokens: jax.Array, sides: tuple[int, int]) -> jax.Array:
  """The map whose square patches `tokenize_feature_map` wrote as tokens.

  Args:
    tokens: `[B, P, patch * patch * channels]` in reading order.
    sides: `(H, W)` of the map.

  Returns:
    `[B, H, W, channels]`.

  Raises:
    ValueError: a map of these sides does not have `P` square patches, or tokens of another length.

  Cost: one copy.
  """
  check_rank("untokenize", "tokens", tokens, 3)
  batch, count, length = tokens.shape
  side = square_side(count, sides)
  if not side or length % side**2:
    raise ValueError(f"untokenize: a map of {sides} does not have {count} square patches of {length} numbers")
  rows, columns = sides[0] // side, sides[1] // side
  x = tokens.reshape(batch, rows, columns, side, side, length // side**2)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, *sides, length // side**2)


def square_side(count: int, sides: tuple[int, int]) -> int:
  """The side of the squares of which `count` make a map of these sides; 0 where there are none."""
  side = math.isqrt(sides[0] * sides[1] // count) if count else 0
  tile = side and not sides[0] % side and not sides[1] % side
  return side if tile and sides[0] // side * (sides[1] // side) == count else 0


def sample_tokens(
  key: jax.Array, student_tokens: jax.Array, teacher_tokens: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
  """Draws `count` token positions per image without repetition, the same ones in both networks.

  Args:
    key: `jax.random.key`.
    student_tokens: `[B, P, features_s]`.
    teacher_tokens: `[B, P, features_t]`. No gradient.
    count: tokens per image, at most `P`.

  Returns:
    `([B * count, features_s], [B * count, features_t])`, image after image: `jnp.repeat(where, count)` is the mask of
    the nodes for a mask `[B]` of the images.

  Raises:
    ValueError: if the networks differ in `B` or `P` (pool the larger map, `adaptive_average_pool`), or `count` is
      outside `[1, P]`.

  Cost: one gather.
  """
  name = "sample_tokens"
  student_tokens, teacher_tokens = jnp.asarray(student_tokens), jax.lax.stop_gradient(jnp.asarray(teacher_tokens))
  check_rank(name, "student_tokens", student_tokens, 3)
  check_rank(name, "teacher_tokens", teacher_tokens, 3)
  if student_tokens.shape[:2] != teacher_tokens.shape[:2]:
    raise ValueError(
      f"{name}: student {student_tokens.shape} and teacher {teacher_tokens.shape} must have the same images and "
      "tokens; pool the larger map"
    )
  batch, positions = student_tokens.shape[:2]
  if not 1 <= count <= positions:
    raise ValueError(f"{name}: count must be between 1 and the {positions} tokens of an image, got {count}")
  _, chosen = jax.lax.top_k(jax.random.uniform(key, (batch, positions)), count)  # [B, count]

  def take(tokens):
    return jnp.take_along_axis(tokens, chosen[:, :, None], axis=1).reshape(batch * count, tokens.shape[-1])

  return take(student_tokens), take(teacher_tokens)
