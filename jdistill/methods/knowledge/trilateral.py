"""TGeo-KD's controller: how much to believe the teacher, from where student, teacher, label and class mean stand."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.ops.checks import check_rank, check_same_shape
from jdistill.ops.means import class_means
from jdistill.ops.precision import widen

PARTS = ("probabilities", "student_edges", "edges", "angles")


def class_mean_predictions(
  probabilities: jax.Array, labels: jax.Array, num_classes: int, *, where: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """What the teacher says on average about each class, `Tbar_c = mean of p_i over labels_i = c`.

  Args:
    probabilities: `[N, classes]` of the teacher on the training set. No gradient.
    labels: `[N]` integers.
    num_classes: number of classes, also of the probabilities.
    where: `[N]`, false for padding.

  Returns:
    `(means [num_classes, classes], counts [num_classes])`. A class without examples has the uniform distribution:
    look at the counts on the host, and say so.

  Raises:
    ValueError: if shapes do not match or labels are not integers.

  Cost: one pass over the training set, once.
  """
  check_rank("class_mean_predictions", "probabilities", probabilities, 2)
  if np.shape(probabilities)[1] != num_classes:
    raise ValueError(f"class_mean_predictions: probabilities {np.shape(probabilities)} must have {num_classes} classes")
  means, counts = class_means(jax.lax.stop_gradient(widen(probabilities)), labels, num_classes, where=where)
  return jnp.where(counts[:, None] > 0, means, 1 / num_classes), counts


def trilateral_state(
  student_probabilities: jax.Array,
  teacher_probabilities: jax.Array,
  onehot: jax.Array,
  mean_teacher_probabilities: jax.Array,
  *,
  option: str = "probabilities+edges",
) -> jax.Array:
  """The input of TGeo-KD's controller: corners and edges between student `S`, teacher `T`, label `G` and mean `M`.

  Args:
    student_probabilities: `S [B, C]`, at temperature 1.
    teacher_probabilities: `T [B, C]`.
    onehot: `G [B, C]`.
    mean_teacher_probabilities: `M [B, C]`, the row of `class_mean_predictions` of each example's class.
    option: parts joined by `+`, in the order given.

      - `"probabilities"`: `S, T, G, M` (4C numbers).
      - `"edges"`: `(M-S)^2, (G-S)^2, (T-S)^2, (T-G)^2, (M-G)^2` (5C).
      - `"student_edges"`: the first three of these (3C).
      - `"angles"`: `(M-S)(G-S), (T-S)(G-S)` (2C).

  Returns:
    `[B, k C]`, 9C numbers per example by default. No gradient in any argument: a student that could move its own
    weight would learn to do that.

  Raises:
    ValueError: if the shapes are not four equal `[B, C]`, or for an unknown or repeated part.

  Cost: elementwise.

  References:
    Hu et al., "Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge Distillation"
    (arXiv 2312.15112), sec. 3 (number unverified); the parts but the default are ablations of its code.
  """
  name = "trilateral_state"
  parts = option.split("+")
  if not set(parts) <= set(PARTS) or len(set(parts)) < len(parts):
    raise ValueError(f"{name}: option must be different parts of {', '.join(PARTS)} joined by '+', got {option!r}")
  check_rank(name, "student_probabilities", student_probabilities, 2)
  arrays = {
    "student_probabilities": student_probabilities,
    "teacher_probabilities": teacher_probabilities,
    "onehot": onehot,
    "mean_teacher_probabilities": mean_teacher_probabilities,
  }
  check_same_shape(name, **arrays)
  s, t, g, m = (jax.lax.stop_gradient(widen(x)) for x in arrays.values())
  student_edges = [jnp.square(x - s) for x in (m, g, t)]
  columns = {
    "probabilities": [s, t, g, m],
    "student_edges": student_edges,
    "edges": [*student_edges, jnp.square(t - g), jnp.square(m - g)],
    "angles": [(m - s) * (g - s), (t - s) * (g - s)],
  }
  return jnp.concatenate([column for part in parts for column in columns[part]], axis=1)


def init_fusion_ratio(
  key: jax.Array, inputs: int, widths: Sequence[int] = (32, 16)
) -> list[tuple[jax.Array, jax.Array]]:
  """Parameters of `fusion_ratio`: `(kernel [n, m], bias [m])` per layer, uniform within `1 / sqrt(n)` of 0.

  The bounds are those of PyTorch's linear layers.
  """
  sizes = [inputs, *widths, 1]
  layers = []
  for layer_key, n, m in zip(jax.random.split(key, len(sizes) - 1), sizes[:-1], sizes[1:], strict=True):
    for_kernel, for_bias = jax.random.split(layer_key)
    bound = n**-0.5
    kernel = jax.random.uniform(for_kernel, (n, m), minval=-bound, maxval=bound)
    layers.append((kernel, jax.random.uniform(for_bias, (m,), minval=-bound, maxval=bound)))
  return layers


def fusion_ratio(
  params: Sequence[tuple[jax.Array, jax.Array]], state: jax.Array, *, negative_slope: float = 0.01
) -> jax.Array:
  """TGeo-KD's controller: dense layers with LeakyReLU between them, and a sigmoid at the end.

  Args:
    params: as from `init_fusion_ratio`.
    state: `[B, inputs]` from `trilateral_state`.
    negative_slope: of the LeakyReLU (unverified; PyTorch's default).

  Returns:
    `alpha [B]` in `(0, 1)`, the weight of the teacher.

  Raises:
    ValueError: if `state` is not `[B, inputs]` of the first layer.

  References:
    Hu et al. (arXiv 2312.15112), the network of its code.
  """
  check_rank("fusion_ratio", "state", state, 2)
  if np.shape(state)[1] != params[0][0].shape[0]:
    raise ValueError(f"fusion_ratio: state {np.shape(state)} must have {params[0][0].shape[0]} columns")
  x = jnp.asarray(state)
  for index, (kernel, bias) in enumerate(params):
    x = x @ kernel + bias[None]
    if index < len(params) - 1:
      x = jax.nn.leaky_relu(x, negative_slope)
  return jax.nn.sigmoid(x[:, 0])
