"""KD^3: distillation on web images, which it selects anew every epoch, with the teacher's own classifier on top."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jdistill import losses, ops
from jdistill.augment.mix import mix_distribution
from jdistill.base import Batch, Block, Connector, DataPolicy, Key, Look, Outputs, PyTree, UserError, Variables
from jdistill.data.policies import walk
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs, Term, same_view, student_logits
from jdistill.models.connectors import feature_transfer, last_map, mlp_head
from jdistill.schema import Count, NonNegative, Positive, Size, Traced, validated
from jdistill.selection import classwise_confidence_select, selection_mixing_weight

Selection = Literal["classwise", "teacher", "random", "all"]
_QUANTILES = {"low": 10, "median": 50, "high": 90}  # per cent of the pool that is less confident


@validated("method")
def kd3(
  *,
  shared_classifier: bool = True,
  feature_weight: NonNegative = 1.0,
  weighted: bool = True,
  contrast_weight: NonNegative = 0.001,
  contrast_temperature: Annotated[Positive, Traced] = 0.3,
  contrast_size: Count = 128,
  mix_beta: Positive = 0.1,
  kd_weight: NonNegative = 0.0,
  temperature: Annotated[Positive, Traced] = 4.0,
  factor: Count = 2,
) -> Recipe:
  """`feature_weight L_feat + contrast_weight L_con + kd_weight KD`, on images that `kd3_policy` selects.

  The student is its network, the transfer block, a global mean and the teacher's frozen classifier. `L_feat` is
  `mean_i sigmoid(||z_s - z_t||) mean((transfer(f_s) - f_t)^2)`, the larger map averaged to the size of the smaller;
  `L_con` is NT-Xent between an image and what MixDistribution makes of it, for student and teacher, through a linear
  head each. No label is used. The student sees images and their mixed versions one after the other, so that batch norm
  takes the moments of each by itself, as in the released code.

  Args:
    shared_classifier: false leaves the student its own classifier, which `kd_weight` must then train.
    feature_weight: of `L_feat`; 0 leaves it out.
    weighted: false weighs all images alike in `L_feat`.
    contrast_weight: of `L_con`; 0 leaves it and MixDistribution out.
    contrast_temperature, contrast_size: of NT-Xent, and how long its embeddings are.
    mix_beta: of MixDistribution.
    kd_weight, temperature: of `T^2 KL(teacher || student)`, which is no part of the method.
    factor: how much narrower than the teacher's map the transfer block is inside.

  Raises:
    UserError: nothing that trains the student or its classifier.

  References:
    Tang et al., "Distribution Shift Matters for Knowledge Distillation with Webly Collected Images"
    (arXiv 2307.11469).
  """
  if not shared_classifier and not kd_weight:
    raise UserError("method.shared_classifier=False: nothing trains the student's classifier; set method.kd_weight")
  if not feature_weight and not kd_weight:
    raise UserError("method.feature_weight=0: nothing teaches the student; set method.kd_weight")
  mixed = contrast_weight > 0
  first = (lambda x: x[: x.shape[0] // 2]) if mixed else (lambda x: x)
  connectors, terms = {}, {}
  if shared_classifier or feature_weight:
    connectors["transfer"] = feature_transfer(factor=factor, rows=first)

  def logits(step: StepOutputs) -> tuple[jax.Array, jax.Array]:
    student = (
      _classify(step.connectors["transfer"], step.constants) if shared_classifier else first(step.student.logits)
    )
    return student, first(step.teacher.logits)

  def feature_loss(step: StepOutputs) -> jax.Array:
    student, teacher = _one_size(step.connectors["transfer"], first(last_map(step.teacher, "teacher")))
    weights = losses.logit_gap_weights(*logits(step)) if weighted else jnp.ones(student.shape[0], jnp.float32)
    return losses.weighted_feature_mse(student, teacher, weights)

  if feature_weight:
    terms["feature"] = Term(feature_loss, feature_weight)
  if mixed:
    connectors["student_head"] = mlp_head((contrast_size,))
    connectors["teacher_head"] = mlp_head((contrast_size,), lambda student, teachers: teachers[0].embedding)
    terms["contrast"] = Term(lambda step: _contrast(step, contrast_temperature), contrast_weight)
  if kd_weight:
    terms["kd"] = Term(lambda step: losses.kl_divergence(*logits(step), temperature=temperature), kd_weight)

  def with_mixed(key: Key, batch: Batch) -> tuple[jax.Array, jax.Array]:
    both = jnp.concatenate([batch.x, mix_distribution(key, batch.x, beta=mix_beta)])
    return both, both

  return Recipe(
    terms,
    connectors=connectors,
    augmented_inputs=with_mixed if mixed else same_view,
    passes=2 if mixed else 1,
    prepare=_classifier,
    metrics=_classifier_input if "transfer" in connectors else None,
    predict=_through(feature_transfer(factor=factor)) if shared_classifier else student_logits,
    keeps=("transfer",) if shared_classifier else (),
  )


def _through(transfer: Connector) -> Callable[[Outputs, Mapping[str, Variables], PyTree], jax.Array]:
  """The finished student: its network, the transfer block and the teacher's classifier."""

  def predict(outputs: Outputs, variables: Mapping[str, Variables], constants: PyTree) -> jax.Array:
    feature, _ = transfer.apply(variables["transfer"], outputs, (), train=False, key=jax.random.key(0))
    return _classify(feature, constants)

  return predict


def _classifier(outputs: tuple[Outputs, ...], y: jax.Array, variables: tuple[Variables, ...]) -> dict[str, np.ndarray]:
  """The first teacher's classifier.

  Raises:
    UserError: its logits are no affine function of its embedding.
  """
  del y
  out, head = outputs[0], variables[0].params.get("head", {})
  cure = "KD^3 needs a teacher whose last layer is one dense layer, such as resnet8"
  if set(head) != {"kernel", "bias"} or np.shape(head["kernel"]) != (out.embedding.shape[-1], out.logits.shape[-1]):
    raise UserError(f"teacher: has no dense layer from its embedding {out.embedding.shape[1:]} to its logits; {cure}")
  kernel, bias, logits = (np.asarray(value) for value in (head["kernel"], head["bias"], out.logits))
  gap = float(np.max(np.abs(np.asarray(out.embedding) @ kernel + bias - logits), initial=0))
  if gap > 1e-3 * max(1.0, float(np.max(np.abs(logits), initial=0))):
    raise UserError(f"teacher: its logits differ from its last dense layer by up to {gap:.3g}; {cure}")
  return {"kernel": kernel, "bias": bias}


def _classify(feature: jax.Array, constants: PyTree) -> jax.Array:
  """The teacher's classifier on the global mean of a map `[B, H, W, D_t]`."""
  kernel, bias = constants["kernel"], constants["bias"]
  if feature.shape[-1] != kernel.shape[0]:
    raise ValueError(
      f"teacher: its classifier takes {kernel.shape[0]} numbers and its last map has {feature.shape[-1]} channels; "
      "choose a network with a global mean before the last layer, such as resnet8"
    )
  return jnp.mean(feature, (1, 2)) @ kernel + bias.reshape(1, -1)


def _classifier_input(step: StepOutputs) -> dict[str, jax.Array]:
  """How far the teacher's embedding is from the global mean of its last map: 0 where the classifier can be shared."""
  means = jnp.mean(last_map(step.teacher, "teacher"), (1, 2))
  if means.shape != step.teacher.embedding.shape:
    return {}
  return {"embedding_gap": jnp.max(jnp.abs(means - step.teacher.embedding))}


def _one_size(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
  size = tuple(min(a, b) for a, b in zip(student.shape[1:3], teacher.shape[1:3], strict=True))
  student, teacher = (x if x.shape[1:3] == size else ops.adaptive_average_pool(x, size) for x in (student, teacher))
  return student, teacher


def _contrast(step: StepOutputs, temperature: float) -> jax.Array:
  total = jnp.float32(0)
  for head in ("student_head", "teacher_head"):
    pair = jnp.split(step.connectors[head], 2)
    both = losses.nt_xent(*pair, temperature=temperature, where=step.where)
    total = total + jnp.mean(both.reshape(2, -1), axis=0)
  return total


@validated("data_policy")
def kd3_policy(
  size: int,
  batch_size: int,
  *,
  select: Selection = "classwise",
  cutoff: NonNegative = 0.95,
  ramp: Count = 160,
  until: Size = 120,
  repeat: bool = False,
) -> DataPolicy:
  """KD^3's selection, made anew at the start of every epoch by the logits of teacher and student (arXiv 2307.11469).

  Its metrics are `selected`, the share that is kept, `empty`, 1 where none is, quantiles of the confidence, the number
  of classes that are never predicted, and `inside`, the share of the kept examples with `extra["inside"]`.

  Args:
    size: examples in the pool.
    batch_size: per step.
    select: `"classwise"`: more confident than the threshold of its class, by logits that go over from the teacher to
      the student; `"teacher"`: the teacher is more confident than `cutoff`; `"random"`: as many as `"classwise"` would
      keep, whichever; `"all"`.
    cutoff: threshold of the commonest class, or of all.
    ramp, until: epochs of the teacher's share, `selection.selection_mixing_weight`; 160 and 120 of 240 in the paper.
    repeat: an epoch always has as many steps as the whole pool has batches, and goes through the selected images
      again until they are filled; otherwise it goes through them once, as in the paper.

  Returns:
    A policy that looks at the networks, except with `"all"`.
  """

  def draw(key: Key, state: PyTree, epoch: jax.Array, look: Look) -> tuple[Block, PyTree]:
    key_choice, key_order = jax.random.split(key)
    positions = jnp.arange(size, dtype=jnp.int32)
    share = selection_mixing_weight(epoch, ramp=ramp, until=until)
    keep, metrics = _choose(select, key_choice, look, positions, share, cutoff)
    block = walk(key_order, keep, batch_size, repeat=repeat)
    if look is not None and (inside := look.examples(positions).extra.get("inside")) is not None:
      chosen = keep.astype(jnp.float32)
      metrics["inside"] = jnp.sum(chosen * inside.astype(jnp.float32)) / jnp.maximum(jnp.sum(chosen), 1)
    metrics["empty"] = 1 - jnp.any(keep).astype(jnp.float32)
    return block._replace(metrics=dict(block.metrics) | metrics), state

  steps = -(-size // min(batch_size, size))
  hint = "lower data_policy.cutoff, or give a pool the teacher knows"
  return DataPolicy(lambda key: (), draw, steps, looks=select != "all", hint=hint)


def _choose(
  select: str, key: Key, look: Look | None, positions: jax.Array, share: jax.Array, cutoff: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """`([n] bool, metrics)` of one epoch."""
  if select == "all":
    return jnp.ones(positions.shape, bool), {}
  logits = look.teacher(positions)
  if select != "teacher":
    logits = share * logits + (1 - share) * look.student(positions)
  p = jax.nn.softmax(logits)
  confidence = jnp.max(p, axis=-1)
  counts = jnp.zeros(p.shape[-1], jnp.int32).at[jnp.argmax(p, axis=-1)].add(1)
  metrics = {f"confidence_{name}": jnp.percentile(confidence, q) for name, q in _QUANTILES.items()}
  # the threshold of a class that is never predicted is 0: it will admit whatever comes first
  metrics["empty_classes"] = jnp.sum(counts == 0).astype(jnp.float32)
  keep = confidence > cutoff if select == "teacher" else classwise_confidence_select(p, cutoff=cutoff)
  if select == "random":
    keep = jax.random.permutation(key, keep)
  return keep, metrics
