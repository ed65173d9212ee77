"""INFER: images that are added to the real images of all classes, each learned from one of several trained networks."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdistill.base import Apply, Key, Method, Metrics, UserError, Variables
from jdistill.methods.dataset.recovery import adam_direction, half_cosine
from jdistill.methods.dataset.sre2l import recover_loss, recovery_augmentation
from jdistill.ops.ascent import global_norm
from jdistill.schema import Above, Count, NonNegative, Positive, Range, Size, validated
from jdistill.synthetic import Budget, Feed, Start, SyntheticSet, start


class InferState(NamedTuple):
  """What a resume needs.

  Attributes:
    bases: `[K, C, height, width, channels]` real images, one of every class in each slice; never changed.
    labels: `[K, C]` their classes.
    compensators: `[K, M, height, width, channels]`: those that are finished, the current one, and zeros.
    moments: `(first, second)` of Adam, of the current compensator.
    count: scalar int32, steps done.
    lr: of the initial set; not learned.
    noise: `[K, M, height, width, channels]` standard normal, for the control; `()` where it is not asked for.
  """

  bases: jax.Array
  labels: jax.Array
  compensators: jax.Array
  moments: tuple[jax.Array, jax.Array]
  count: jax.Array
  lr: jax.Array
  noise: jax.Array | tuple[()] = ()


def ufc_budget(ipc: int, teachers: int, num_classes: int) -> tuple[int, int]:
  """What `ipc` images per class pay for: `K = floor(ipc / (1 + M / C))` base images of every class.

  Args:
    ipc: images per class that the set may cost.
    teachers: `M`, compensators of each slice of base images.
    num_classes: `C`.

  Returns:
    `(K, K C + K M)`: base images per class, and all images that are stored, at most `ipc C`. Networks are trained on
    `K (M + 1)` images per class.

  Raises:
    UserError: not even one base image per class can be paid for.

  References:
    Zhang et al. (arXiv 2408.06927), sec. 3.3.
  """
  slices = ipc * num_classes // (num_classes + teachers)  # exact, where floats can round to the next number below
  if slices < 1:
    least = -(-(num_classes + teachers) // num_classes)
    raise UserError(
      f"ipc={ipc}: does not pay for an image of each of {num_classes} classes and {teachers} compensators; raise ipc "
      f"to {least}, or use fewer teachers"
    )
  return slices, slices * (num_classes + teachers)


@validated("method")
def base_images(*, lr_init: Positive = 0.01) -> Start:
  """Random real images, as many as `ufc_budget` leaves beside the compensators, with their classes as labels.

  Args:
    lr_init: learning rate for training on the set; students of stored labels have their own.
  """

  def budget(ipc: int, num_classes: int, teachers: int) -> Budget:
    slices, _ = ufc_budget(ipc, teachers, num_classes)
    return Budget(slices, slices * (1 + teachers))

  return start(initial="real", labels="hard", lr_init=lr_init)._replace(budget=budget)


def teachers_stream() -> Feed:
  """The stream of `infer`: the variables of all teachers in every step, so that they are not part of the program."""

  def check(method: Mapping[str, Any], teacher_train: Mapping[str, Any] | None) -> None:
    del teacher_train
    for text in method["norms_left_out"]:
      _norm(text)

  return Feed(lambda found: lambda step: found.committee, lambda found: found.committee, check)


@validated("method")
def infer(
  teacher_applies: tuple[Apply, ...],
  initial: SyntheticSet,
  pixel_range: tuple[jax.Array, jax.Array],
  *,
  iterations: Count = 1000,
  compensator_lr: Positive = 0.25,
  b1: Annotated[float, Range(0, 0.9999)] = 0.5,
  b2: Annotated[float, Range(0, 0.9999)] = 0.9,
  r_bn: NonNegative = 1.0,
  first_layer_multiplier: NonNegative = 10.0,
  norms_left_out: tuple[str, ...] = (),
  crop_scale: Annotated[float, Above(0), Range(high=1)] | None = None,
  flip_images: bool = False,
  jitter: Size = 4,
  compensator: Literal["learned", "noise", "none"] = "learned",
) -> Method:
  """Builds INFER: universal feature compensators, images that are added to the real images of all classes alike.

  The initial set has `K` real images of every class. Slice `k` is the `k`-th image of every class; for every slice and
  every one of the `M` teachers `f_m` one compensator `u` is learned, one after another. It starts at 0, and every step
  is one update by Adam along the gradient, in `u` alone, of

      mean_c CE(f_m(a(S_kc + u)), c) + r_bn bn_stat_loss(a(S_k + u))

  with the teacher in evaluation mode and `a` one draw of crop, mirroring and roll for the slice. The rate falls from
  `compensator_lr` to 0 along a half cosine over the `iterations` of a compensator. Sums are not clipped while it is
  learned, only where the set is materialised (`jdistill.synthetic.materialise`). Steps after the last compensator
  change nothing.

  Args:
    teacher_applies: the trained networks.
    initial: real images with their classes, the same number of every class (`base_images`).
    pixel_range: lowest and highest value per channel in network space, `[channels]` each; the figure `clipped_share`
      tells how much of the sums leaves it.
    iterations: updates per compensator: 1000 on CIFAR, 2000 on ImageNet.
    compensator_lr, b1, b2: Adam on compensators.
    r_bn: weight of the batch-norm statistics: 1 on CIFAR, 0.01 on ImageNet.
    first_layer_multiplier: how much more the first batch norm counts than the others.
    norms_left_out: batch norms whose statistics do not count, as `"TEACHER/LAYER"` with the teacher's number from 0,
      such as `"2/stem_norm"`. The release leaves out the second one of EfficientNet-B0 on CIFAR, without a reason.
    crop_scale: smallest share of the area that a random resized crop keeps (0.08 for ImageNet); `None` for no crops.
    flip_images: mirror with probability 1/2, before the roll.
    jitter: largest roll in pixels: 4 on CIFAR, 32 on ImageNet.
    compensator: of the result: `"learned"`; or for comparison `"noise"`, Gaussian noise of the norm that each learned
      one has, or `"none"`, zeros.

  Returns:
    A `Method` whose stream gives the `Variables` of all teachers in every step, and whose result is a `SyntheticSet` of
    base images and compensators, `K C + K M` images that are stored.

  Raises:
    ValueError: no teacher; labels that are not hard, or not the same number of every class; a layer to leave out that
      no teacher has; in `init`, a teacher without batch norm, or with other classes than the rest.

  References:
    Zhang et al., "Breaking Class Barriers: Efficient Dataset Distillation via Inter-Class Feature Compensator" (arXiv
    2408.06927). The release writes the materialised images in 8 bits; here base images and compensators are stored.
    Labels are those of `jdistill.teachers.static`: the mean of the teachers' logits on every materialised image,
    interpolated under mixup.
  """
  slices, count = check_slices(initial), len(teacher_applies)
  if not count:
    raise ValueError("infer: there is no teacher to learn a compensator from")
  augment = recovery_augmentation(crop_scale=crop_scale, flip_images=flip_images, jitter=jitter)
  left_out = _left_out(norms_left_out, count)
  loss = functools.partial(ufc_loss, r_bn=r_bn, first_layer_multiplier=first_layer_multiplier)
  shape = initial.images.shape[1:]

  def init(key: Key, example: tuple[Variables, ...]) -> InferState:
    state = _start(key, initial, slices, count, with_noise=compensator == "noise")
    _check_teachers(teacher_applies, example, state.bases[0], left_out)
    return state

  def step(key: Key, state: InferState, teachers: tuple[Variables, ...]) -> tuple[InferState, Metrics]:
    number, place = state.count // iterations, state.count % iterations
    active = number < slices * count
    number = jnp.minimum(number, slices * count - 1)
    k, m = number // count, number % count
    images, labels, u = state.bases[k], state.labels[k], state.compensators[k, m]
    record = augment.sample(key, images.shape)
    shown = functools.partial(augment.apply, record)

    def branch(index: int) -> Callable:
      own = functools.partial(loss, teacher_applies[index], teachers[index], shown=shown, left_out=left_out[index])
      return jax.value_and_grad(own, has_aux=True)

    (_, metrics), grad = lax.switch(m, [branch(index) for index in range(count)], u, images, labels)
    moments = jax.tree.map(lambda moment: jnp.where(place == 0, jnp.zeros_like(moment), moment), state.moments)
    change, moments = adam_direction(grad, moments, place + 1, b1, b2)
    rate = compensator_lr * half_cosine(place, iterations).astype(u.dtype)
    moved = jnp.where(active, u - rate * change, u)
    metrics |= {"gradient/compensators": global_norm(grad), "recover/lr": rate}
    learned = state.compensators.at[k, m].set(moved)
    return state._replace(compensators=learned, moments=moments, count=state.count + 1), metrics

  def result(state: InferState) -> SyntheticSet:
    images, labels = (jnp.swapaxes(leaf, 0, 1) for leaf in (state.bases, state.labels))
    own = _chosen(state, compensator)
    return SyntheticSet(images.reshape(-1, *shape), labels.reshape(-1), state.lr, own)

  figures = functools.partial(_figures, pixel_range=pixel_range, kind=compensator)
  return Method(init, step, result, figures, steps=slices * count * iterations)


def _start(key: Key, initial: SyntheticSet, slices: int, teachers: int, *, with_noise: bool) -> InferState:
  """The state before the first step, whose arrays are its own."""
  shape = initial.images.shape[1:]
  bases = jnp.swapaxes(jnp.asarray(initial.images).reshape(-1, slices, *shape), 0, 1)
  labels = jnp.asarray(initial.labels).reshape(-1, slices).T
  zeros = jnp.zeros((slices, teachers, *shape), bases.dtype)
  noise = jax.random.normal(key, zeros.shape, zeros.dtype) if with_noise else ()
  bases, labels, lr = (jnp.array(leaf, copy=True) for leaf in (bases, labels, initial.lr))
  moments = (jnp.zeros(shape, zeros.dtype), jnp.zeros(shape, zeros.dtype))
  return InferState(bases, labels, zeros, moments, jnp.zeros((), jnp.int32), lr, noise)


def ufc_loss(
  teacher_apply: Apply,
  teacher: Variables,
  u: jax.Array,
  images: jax.Array,
  labels: jax.Array,
  *,
  shown: Callable[[jax.Array], jax.Array] = lambda x: x,
  r_bn: float = 1.0,
  first_layer_multiplier: float = 10.0,
  left_out: Collection[str] = (),
) -> tuple[jax.Array, Metrics]:
  """What a compensator descends: `mean_c CE(f(a(S_c + u)), c) + r_bn bn_stat_loss(a(S + u))`.

  Args:
    teacher_apply, teacher: a trained network with batch norm; it is asked in evaluation mode.
    u: `[height, width, channels]` or `[1, height, width, channels]`, added to every image. Differentiable.
    images: `[C, height, width, channels]`, one of every class.
    labels: `[C]` their classes.
    shown: `a`, the same draw for all images.
    r_bn, first_layer_multiplier, left_out: see `jdistill.methods.dataset.sre2l.recover_loss`.

  Returns:
    The scalar, and its parts as metrics.
  """
  seen = shown(images + jnp.broadcast_to(u, images.shape))
  weights = {"r_bn": r_bn, "first_layer_multiplier": first_layer_multiplier}
  return recover_loss(teacher_apply, teacher, seen, labels, left_out=left_out, **weights)


def check_slices(initial: SyntheticSet) -> int:
  """How many images each class has.

  Raises:
    ValueError: labels that are no classes, classes of different size, or images that do not lie class by class.
  """
  labels = np.asarray(initial.labels)
  if labels.ndim != 1:
    raise ValueError(f"infer: the labels of the initial images are {labels.shape}; give one class per image, [m]")
  found, counts = np.unique(labels, return_counts=True)
  if len(set(counts)) > 1 or not np.array_equal(labels, np.repeat(found, counts[0])):
    raise ValueError(
      f"infer: a slice has one image of every class, and the initial images per class are {counts.tolist()}; give the "
      "same number of each, class by class"
    )
  return int(counts[0])


def _norm(text: str) -> tuple[int, str]:
  """The teacher's number and the layer of `"TEACHER/LAYER"`."""
  number, _, layer = text.partition("/")
  if not (number.isascii() and number.isdigit() and layer):
    raise UserError(
      f"method.norms_left_out: {text!r} is not 'TEACHER/LAYER' with the teacher's number from 0, such as '2/stem_norm'"
    )
  return int(number), layer


def _left_out(texts: Sequence[str], teachers: int) -> list[list[str]]:
  """The layers to leave out, for each teacher."""
  found = [_norm(text) for text in texts]
  for number, layer in found:
    if number >= teachers:
      raise ValueError(f"norms_left_out: {number}/{layer} speaks of teacher {number}, and there are {teachers} from 0")
  return [[layer for number, layer in found if number == index] for index in range(teachers)]


def _check_teachers(
  applies: Sequence[Apply], variables: Sequence[Variables], images: jax.Array, left_out: Sequence[Sequence[str]]
) -> None:
  """Raises `ValueError` unless all teachers have batch norm, the layers to leave out, and the same classes."""
  if len(applies) != len(variables):
    raise ValueError(f"teacher_applies: {len(applies)} networks and the variables of {len(variables)}; give one each")
  classes = []
  for number, (apply, own) in enumerate(zip(applies, variables, strict=True)):
    out = jax.eval_shape(lambda v, x, apply=apply: apply(v.params, x, stats=v.stats), own, images)
    classes.append(out.logits.shape[-1])
    if not out.norm_inputs:
      raise ValueError(
        f"teacher_applies: teacher {number} has no batch norm, whose statistics compensators match; take a network "
        "that has, such as 'convnet_bn' or 'resnet18_bn'"
      )
    for layer in left_out[number]:
      if layer not in out.norm_inputs:
        raise ValueError(
          f"norms_left_out: teacher {number} has no batch norm {layer!r}; it has {', '.join(out.norm_inputs)}"
        )
  if len(set(classes)) > 1:
    raise ValueError(f"teacher_applies: they have {classes} classes; all must have the same, in the same order")


def _chosen(state: InferState, kind: str) -> jax.Array:
  """The compensators of the result; see `infer`."""
  learned, axes = state.compensators, (-3, -2, -1)
  if kind == "none":
    return jnp.zeros_like(learned)
  if kind == "noise":
    norms = [jnp.sqrt(jnp.sum(jnp.square(one), axes, keepdims=True)) for one in (learned, state.noise)]
    return state.noise * norms[0] / norms[1]
  return learned


def _figures(state: InferState, steps: int, *, pixel_range, kind: str) -> dict[str, Any]:
  """What a report tells of the set."""
  del steps
  own, (low, high) = np.asarray(_chosen(state, kind)), (np.asarray(end) for end in pixel_range)
  bases = np.asarray(state.bases)
  sums = [bases[k] + one for k, slice_ in enumerate(own) for one in slice_]
  clipped = np.mean([np.mean((one < low) | (one > high)) for one in sums])
  size, classes, each = len(bases), bases.shape[1], own.shape[1]
  stored = size * (classes + each)
  return {
    "stored_images": stored,
    "stored_numbers": stored * int(np.prod(bases.shape[2:])),
    "training_images": size * classes * (1 + each),
    "compensator_norm": float(np.mean(np.sqrt(np.sum(np.square(own), (-3, -2, -1))))),
    "clipped_share": float(clipped),
  }
