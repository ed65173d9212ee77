"""NCFM: synthetic images whose features have the characteristic function of real ones, at learned frequencies."""

import functools
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jdistill.augment import show
from jdistill.base import Apply, Augmentation, Key, Method, Metrics, UserError, View
from jdistill.losses import characteristic_function_discrepancy, cross_entropy
from jdistill.methods.dataset.by_class import augmented, check_batch, check_divisor, check_labels, over_classes
from jdistill.methods.dataset.extractors import Extraction
from jdistill.methods.dataset.frequencies import Sampler, gaussian, sampling_network
from jdistill.methods.dataset.mean_matching import MatchingState
from jdistill.methods.optimizers import make_optimizer
from jdistill.methods.roles import init_roles, update_roles
from jdistill.ops.pairwise import unit
from jdistill.schema import Count, NonNegative, Positive, Share, validated
from jdistill.synthetic import SyntheticSet


@validated("method")
def ncfm(
  apply: Apply,
  initial: SyntheticSet,
  pixel_range: tuple[jax.Array, jax.Array],
  *,
  sampling: Literal["network", "gaussian"] = "network",
  frequencies: Count = 4096,
  frequency_scale: Positive = 1.0,
  amplitude_weight: NonNegative = 0.5,
  phase_weight: NonNegative = 0.5,
  root: bool = True,
  unit_features: bool = True,
  match_weight: Positive = 300.0,
  calibration_weight: NonNegative = 1.0,
  batch_real: Count = 256,
  image_optimizer: Literal["adamw", "sgd"] = "adamw",
  image_lr: Positive = 0.01,
  image_momentum: Share = 0.5,
  image_decay: NonNegative = 5e-4,
  sampler_optimizer: Literal["sgd", "adamw"] = "sgd",
  sampler_lr: NonNegative = 1e-3,
  sampler_momentum: Share = 0.5,
  clip_images: bool = True,
  classes_at_once: Count | None = None,
  siamese: Augmentation | None = None,
  view: View | None = None,
) -> Method:
  """Builds neural characteristic function matching (NCFM).

  One step takes a network `f` between a teacher's start and its end, frequencies `t_k` of the sampler, and moves the
  images down and the sampler up the gradient of

      match_weight sum_c mean_k D_c(t_k) + calibration_weight sum_c mean_i CE(g(a(synthetic[c, i])), c)

  with `D_c` the distance of characteristic functions of `f(a_c(real[c]))` and `f(a_c(synthetic[c]))` as in
  `jdistill.losses.characteristic_function_discrepancy`, `f` what enters the head, of length 1, and `g` the trained
  teacher. The second term does not depend on the sampler. Both sides move by gradients at the same point.

  Images are learned as pixels: rates, decay and bounds are for values in [0, 1], of which `pixel_range` are the ends.

  The released code takes a step of both optimisers after every class and another of the images after the calibration of
  every class, draws other frequencies for every class, and halves the rates where its loss has not fallen for 500
  steps; here one step is for all classes and both terms, with the same frequencies, at constant rates. All of its
  settings of April 2025 have the sampling network off.

  Args:
    apply: a network over flat parameter vectors.
    initial: the starting set, equally many images per class, sorted by class.
    pixel_range: lowest and highest value per channel in network space, `[channels]` each.
    sampling: `"network"`, frequencies of a small network that learns to maximise the discrepancy; `"gaussian"`, normal
      ones, fresh in every step.
    frequencies: K. The released 4096 of the network are 256 different ones, each 16 times.
    frequency_scale: standard deviation of normal frequencies, or largest entry of the network's.
    amplitude_weight, phase_weight, root: of the discrepancy. The paper's phase weight is 1 - amplitude_weight.
    unit_features: whether embeddings are divided by their norm.
    match_weight, calibration_weight: see above. (An early released setting of CIFAR-10 has 25 for the second.)
    batch_real: the most real images per class and step that the stream may give.
    image_optimizer, image_lr, image_momentum, image_decay: of the images; momentum is SGD's, decay AdamW's.
    sampler_optimizer, sampler_lr, sampler_momentum: of the sampling network, without decay; rate 0 keeps it as it
      started. (That the paper's optimiser is SGD is unverified.)
    clip_images: after every step, to the range. With ZCA-whitened images, which have no such range, leave it out.
    classes_at_once: classes that pass through the network together; must divide their number. `None` takes all.
    siamese: as for `dm`.
    view: what is shown in the place of each synthetic image, such as its quarters (multi-formation).

  Returns:
    A `Method` whose stream is made of `Extraction`s (`jdistill.methods.dataset.extractors`) and whose result has the
    images, with labels and rate of the initial set.

  Raises:
    ValueError: labels that are not sorted by class with equally many of each, `classes_at_once` that does not divide
      the number of classes, at trace time a stream of other images.
    UserError: both weights of the discrepancy are zero; one frequency for the sampling network.

  References:
    Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective" (arXiv 2502.20653),
    and its released code.
  """
  num_classes = check_labels("ncfm", initial.labels)
  check_divisor("ncfm", num_classes, classes_at_once)
  _check_options(amplitude_weight, phase_weight, sampling, frequencies)
  decay = image_decay if image_optimizer == "adamw" else 0.0
  optimizers = {"images": make_optimizer(image_optimizer, image_lr, momentum=image_momentum, weight_decay=decay)}
  if sampling == "network":
    optimizers["sampler"] = make_optimizer(sampler_optimizer, sampler_lr, momentum=sampler_momentum)
  distance = functools.partial(
    characteristic_function_discrepancy, amplitude_weight=amplitude_weight, phase_weight=phase_weight, root=root
  )
  terms = _Terms(
    distance, frequencies, frequency_scale, unit_features, match_weight, calibration_weight, siamese, view, pixel_range
  )
  return _game(
    apply, initial, terms, optimizers, batch_real=batch_real, clip_images=clip_images, classes_at_once=classes_at_once
  )


class _Terms(NamedTuple):
  """What is compared and how much it counts: options and collaborators of `ncfm`, and the distance made of them.

  Attributes:
    distance: `(real [C, b, F], synthetic [C, n, F], frequencies, real_weight=...) -> scalar`.
  """

  distance: Callable[..., jax.Array]
  frequencies: int
  frequency_scale: float
  unit_features: bool
  match_weight: float
  calibration_weight: float
  siamese: Augmentation | None
  view: View | None
  pixel_range: tuple[jax.Array, jax.Array]


def _game(
  apply: Apply,
  initial: SyntheticSet,
  terms: _Terms,
  optimizers: Mapping[str, optax.GradientTransformation],
  *,
  batch_real: int,
  clip_images: bool,
  classes_at_once: int | None,
) -> Method:
  """The method of `ncfm`; the sampler learns where it has an optimiser."""
  num_classes, image_shape, learns = check_labels("ncfm", initial.labels), initial.images.shape[1:], len(optimizers) > 1
  clip = (lambda x: jnp.clip(x, 0, 1)) if clip_images else (lambda x: x)

  def sampler_of(theta: jax.Array) -> Sampler:
    one = jax.ShapeDtypeStruct((1, *image_shape), initial.images.dtype)
    width = jax.eval_shape(lambda theta, x: apply(theta, x, train=True).embedding, theta, one).shape[-1]
    make = sampling_network if learns else gaussian
    return make(width, scale=terms.frequency_scale, dtype=initial.images.dtype)

  def init(key: Key, example: Extraction) -> MatchingState:
    low, span = _ends(terms.pixel_range, initial.images)
    learned = {"images": clip((initial.images - low) / span)}
    learned |= {"sampler": sampler_of(example.features).init(key)} if learns else {}
    labels, lr = jnp.array(initial.labels, copy=True), jnp.array(initial.lr, copy=True)
    return MatchingState(init_roles(optimizers, learned), labels, lr)

  def step(key: Key, state: MatchingState, batch: Extraction) -> tuple[MatchingState, Metrics]:
    check_batch("ncfm", batch.real, num_classes, batch_real, image_shape)
    key_noise, *keys = jax.random.split(key, 3)
    sampler, params = sampler_of(batch.features), state.roles["sampler"].params if learns else {}
    t, pull = jax.vjp(lambda params: sampler.draw(params, key_noise, terms.frequencies), params)
    pixels = state.roles["images"].params.reshape(num_classes, -1, *image_shape)
    classes, draws = jnp.arange(num_classes, dtype=jnp.int32), (jax.random.split(k, num_classes) for k in keys)
    rows = (pixels, classes, batch.real.x, batch.real.weight, *draws)
    (metrics, slopes), grads = over_classes(_gradient(apply, batch, t, terms), rows, classes_at_once)
    found = {"images": grads.reshape(-1, *image_shape)} | ({"sampler": pull(-slopes)[0]} if learns else {})  # upwards
    roles = update_roles(optimizers, state.roles, found)
    roles["images"] = roles["images"]._replace(params=clip(roles["images"].params))
    metrics["match/discrepancy"] = metrics["match/discrepancy"] / num_classes
    return state._replace(roles=roles), metrics | {"gradient/images": jnp.sqrt(jnp.sum(jnp.square(grads)))}

  def result(state: MatchingState) -> SyntheticSet:
    return SyntheticSet(_shown(terms.pixel_range, state.roles["images"].params), state.labels, state.lr)

  return Method(init, step, result)


def _gradient(apply: Apply, batch: Extraction, t: jax.Array, terms: _Terms) -> Callable:
  """`(rows of some classes) -> ((metrics, gradient in the frequencies), gradient in the pixels)`, summed over them."""

  def outputs(theta: jax.Array, keys: Key, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    images = augmented(terms.siamese, keys, images)
    out = apply(theta, images.reshape(-1, *images.shape[2:]), train=True)
    embedding, logits = (leaf.reshape(*images.shape[:2], -1) for leaf in (out.embedding, out.logits))
    return unit(embedding) if terms.unit_features else embedding, logits

  def loss(pixels: jax.Array, t: jax.Array, rows: tuple) -> tuple[jax.Array, Metrics]:
    classes, real, weight, keys, others = rows
    images = show(terms.view, _shown(terms.pixel_range, pixels))
    sides = (outputs(batch.features, keys, one)[0] for one in (real, images))
    discrepancy = terms.distance(*sides, t, real_weight=weight)
    total, metrics = terms.match_weight * discrepancy, {"match/discrepancy": discrepancy}
    if terms.calibration_weight:
      _, logits = outputs(batch.trained, others, images)
      labels = jnp.broadcast_to(classes[:, None], logits.shape[:2])
      entropy = jnp.sum(jnp.mean(cross_entropy(logits, labels), axis=1))
      total, metrics = total + terms.calibration_weight * entropy, metrics | {"match/calibration": entropy}
    return total, metrics | {"match/loss": total}

  def gradient(rows: tuple) -> tuple[tuple[Metrics, jax.Array], jax.Array]:
    pixels, *rest = rows
    (_, metrics), (grads, slopes) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(pixels, t, tuple(rest))
    return (metrics, slopes), grads

  return gradient


def _ends(pixel_range: tuple[jax.Array, jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The lowest values of images in network space and how far the highest are above, with as many axes as `x`."""
  low, high = (jnp.asarray(end, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,)) for end in pixel_range)
  return low, high - low


def _shown(pixel_range: tuple[jax.Array, jax.Array], pixels: jax.Array) -> jax.Array:
  """Pixels in [0, 1] in network space."""
  low, span = _ends(pixel_range, pixels)
  return low + span * pixels


def _check_options(amplitude_weight: float, phase_weight: float, sampling: str, frequencies: int) -> None:
  """Refuses options that do not go together."""
  if not amplitude_weight and not phase_weight:
    raise UserError(
      "method.amplitude_weight=0.0: and method.phase_weight=0.0 leave nothing to match; raise one of them"
    )
  if sampling == "network" and frequencies < 2:
    raise UserError(
      f"method.frequencies={frequencies}: the sampling network needs two or more; raise it, or set "
      "method.sampling='gaussian'"
    )
