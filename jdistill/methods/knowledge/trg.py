"""TRG: student and teacher agree on how the patches of a batch of images lie to each other."""

import math
import warnings
from collections.abc import Callable
from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from jdistill import losses, ops
from jdistill.base import Outputs, UserError
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs, Term
from jdistill.methods.knowledge.terms import label_terms, one_size
from jdistill.models.connectors import read_tap, square_map, token_projector
from jdistill.ops.precision import widen
from jdistill.schema import Count, NonNegative, Positive, Traced, validated

LAST = "last"


def cosine(first: float, last: float, epochs: float) -> Callable[[jax.Array], jax.Array]:
  """From `first` at epoch 0 to `last` at `epochs` along half a cosine, and `last` from then on."""

  def schedule(epoch: jax.Array) -> jax.Array:
    done = jnp.clip(epoch / epochs, 0, 1)
    return last + (first - last) * (1 + jnp.cos(math.pi * done)) / 2

  return schedule


def token_pair(
  student: Outputs, teacher: Outputs, *, tap: str = LAST, patch: int = 1, level: str = "token"
) -> tuple[jax.Array, jax.Array]:
  """The tokens of both networks at one place, `([B, P, d_s], [B, P, d_t])`, equally many in reading order.

  Maps are averaged to the smaller of both sizes and cut into patches; tokens count as square maps, without their class
  token. At level `"instance"` the only token is the mean over the map.

  Args:
    student, teacher: outputs of both.
    tap: `"last"` for each network's last one, a name for both, or `"STUDENT:TEACHER"`.
    patch: side of the patches.
    level: `"token"` or `"instance"`.

  Raises:
    UserError: there is no such tap, or at level `"token"` it has no places.
  """
  own, _, other = tap.partition(":")
  maps = []
  for outputs, name, who in ((student, own, "student"), (teacher, other or own, "teacher")):
    named = list(outputs.taps)[-1] if name == LAST and outputs.taps else name
    value = read_tap(outputs, named, who)
    if value.ndim == 2 and level == "token":
      raise UserError(f"tap={tap!r}: the {who}'s is a vector without places; choose a map, or level='instance'")
    maps.append(square_map(widen(value)))
  if level == "instance":
    return tuple(jnp.mean(x, (1, 2))[:, None] for x in maps)
  return tuple(ops.tokenize_feature_map(x, patch=patch) for x in one_size(*maps))


@validated("method")
def trg(
  *,
  tokens: Count = 4,
  neighbours: Count = 8,
  sigma: Positive | None = None,
  inner_weight: NonNegative = 500.0,
  local_weight: NonNegative = 50.0,
  global_weight: NonNegative = 0.5,
  direction: Literal["student_teacher", "teacher_student"] = "student_teacher",
  contrast_temperature: Annotated[Positive, Traced] = 0.5,
  final_contrast_temperature: Annotated[Positive, Traced] = 0.1,
  contrast_epochs: Annotated[Positive, Traced] = 240.0,
  tap: str = LAST,
  patch: Count = 1,
  level: Literal["token", "instance"] = "token",
  ce_weight: Annotated[NonNegative, Traced] = 1.0,
  kd_weight: NonNegative = 1.0,
  temperature: Annotated[Positive, Traced] = 4.0,
) -> Recipe:
  """`CE + kd_weight KD + inner_weight L_inner + local_weight L_local + global_weight L_global` (arXiv 2306.12442).

  Of every image the same `tokens` positions are drawn in both networks, and all of a batch are the nodes of a graph.
  `L_local` compares the weights of its edges, `L_global` lets every token of the student find its own one of the
  teacher among all, `L_inner` compares how all tokens of one image attend to each other. See `jdistill.losses`.

  The equations follow a summary of the paper; all its settings, the direction of `L_local` and the shape of the
  temperature's schedule are unverified, and therefore options. The default weights make every term about as large as
  the cross entropy of an untrained network with ten classes. `L_local` and `L_global` are means over nodes, where the
  summary has sums.

  Args:
    tokens: drawn per image, at most as many as there are.
    neighbours: edges per node, fewer than nodes in a batch.
    sigma: width of the kernel of the edges; `None` for the median squared distance.
    inner_weight, local_weight, global_weight: of the three terms; 0 leaves one out.
    direction: of the divergence in `L_local`: `"student_teacher"` is `KL(student || teacher)`, or
      `"teacher_student"`.
    contrast_temperature, final_contrast_temperature: of `L_global`, at the beginning and the end.
    contrast_epochs: how long it falls, along a cosine; the length of the training.
    tap: where tokens come from: `"last"` for each network's last tap, a name for both, or `"STUDENT:TEACHER"`. The
      larger map is averaged to the size of the smaller.
    patch: side of the squares of a map that make a token.
    level: `"token"`, the method, or `"instance"`: the same with one node per image, its mean over the map, and
      without `L_inner` (a control; needs `tokens=1`).
    ce_weight, kd_weight, temperature: of the labels and the KD term.

  Raises:
    UserError: more than one token at level `"instance"`.
  """
  if level == "instance" and tokens != 1:
    raise UserError(f"method.tokens={tokens}: with method.level='instance' an image is one node; set it to 1")
  heat = cosine(contrast_temperature, final_contrast_temperature, contrast_epochs)

  def pair(student: Outputs, teachers: tuple[Outputs, ...]) -> tuple[jax.Array, jax.Array]:
    return token_pair(student, teachers[0], tap=tap, patch=patch, level=level)

  def nodes(step: StepOutputs, student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    # one key for all terms of a step: they see the same positions
    return *ops.sample_tokens(step.key, student, teacher, tokens), jnp.repeat(step.where, tokens)

  def inner(step: StepOutputs) -> jax.Array:
    return losses.contextual_similarity_loss(*pair(step.student, step.teachers))

  def local(step: StepOutputs) -> jax.Array:
    student, teacher, where = nodes(step, *pair(step.student, step.teachers))
    graphs = (losses.knn_affinity(x, k=neighbours, sigma=sigma, where=where) for x in (student, teacher))
    return _per_image(losses.local_preserving_loss(*graphs, direction=direction, where=where), tokens)

  def contrast(step: StepOutputs) -> jax.Array:
    if step.y.shape[0] == 1:
      warnings.warn("trg: a batch of one image has no other image to tell its tokens from", stacklevel=2)
    student, teacher, where = nodes(step, step.connectors["projector"], pair(step.student, step.teachers)[1])
    return _per_image(losses.token_info_nce(student, teacher, temperature=heat(step.epoch), where=where), tokens)

  terms = label_terms(ce_weight, kd_weight, temperature)
  if inner_weight and level == "token":
    terms["inner"] = Term(inner, inner_weight)
  if local_weight:
    terms["local"] = Term(local, local_weight)
  if global_weight:
    terms["global"] = Term(contrast, global_weight)
  return Recipe(terms, connectors={"projector": token_projector(pair)} if global_weight else {})


def _per_image(values: jax.Array, tokens: int) -> jax.Array:
  """`[B tokens] -> [B]`, the mean over an image's nodes."""
  return jnp.mean(values.reshape(-1, tokens), axis=1)
