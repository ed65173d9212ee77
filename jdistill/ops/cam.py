"""Class activation maps: how much each place of an image speaks for a class.

The three kinds give raw maps `[B, h, w]` in the resolution of a layer; `class_maps` normalises and resizes them to the
images. A network is asked in evaluation mode, where no example has a part in the map of another one.
"""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from jdistill.base import POOLED, Apply, Sites, UserError, Variables
from jdistill.ops.affine import resize_weights
from jdistill.ops.checks import check_labels, check_rank, known, outside_range
from jdistill.ops.precision import widen

KINDS = ("cam", "grad_cam", "grad_cam_pp")


def cam(apply: Apply, variables: Variables, x: jax.Array, classes: jax.Array | None = None) -> jax.Array:
  """Class activation maps: `M(p) = sum_k w_kc A_k(p)`, so that `z_c = mean_p M(p) + b_c`.

  `A` is the last map, `w` and `b` the linear head that gets its mean. `z_c` is linear in a factor `f(p)` on the places
  of `A`; `M` is its derivative in `f`, times the number of places. So no layer has to be found by its name.

  Args:
    apply: a network with the site `"pooled"`: a global average and a linear head after it.
    variables: its parameters and running statistics.
    x: `[B, height, width, channels]`.
    classes: `[B]` integers; `None` for those that the network predicts.

  Returns:
    `[B, h, w]` in units of logits, of the size of `A`.

  Raises:
    ValueError: the network has no such site, or `classes` are not `B` integers below the number of classes.

  References:
    Zhou et al., "Learning Deep Features for Discriminative Localization" (arXiv 1512.04150), eqs. 1 and 2.
  """
  try:
    shape = _shape_at(apply, variables, x, POOLED)
  except UserError as error:
    raise ValueError(
      "cam: class activation maps need a global average before a linear head, and this network names none (site "
      "'pooled'); take one that has it, such as 'resnet18_bn' or 'convnet_bn' with embedding='mean', or Grad-CAM, "
      "which needs no such head"
    ) from error
  factors = jnp.ones((*shape[:3], 1), x.dtype)

  def score(factors: jax.Array) -> jax.Array:
    return _score(apply, variables, x, classes, {POOLED: lambda a: a * factors.astype(a.dtype)})[0]

  return widen(jax.grad(score)(factors))[..., 0] * (shape[1] * shape[2])


def grad_cam(
  apply: Apply, variables: Variables, x: jax.Array, classes: jax.Array | None = None, *, site: str | None = None
) -> jax.Array:
  """Grad-CAM: `M(p) = max(0, sum_k a_k A_k(p))` with `a_k = mean_q dz_c / dA_k(q)`.

  Where the mean of `A` enters a linear head it is `max(0, cam) / places`.

  Args:
    apply, variables, x, classes: as in `cam`; any network whose taps are sites.
    site: the tap `A`; `None` for the last one that is a map `[B, h, w, features]`.

  Returns:
    `[B, h, w]`.

  Raises:
    ValueError: no such tap, no taps with places at all, or `classes` that do not fit.

  References:
    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (arXiv
    1610.02391), eqs. 1 and 2.
  """
  maps, gradient = _map_and_gradient("grad_cam", apply, variables, x, classes, site)
  weights = jnp.mean(gradient, (1, 2), keepdims=True)
  return jnp.maximum(jnp.sum(weights * maps, -1), 0)


def grad_cam_plus_plus(
  apply: Apply, variables: Variables, x: jax.Array, classes: jax.Array | None = None, *, site: str | None = None
) -> jax.Array:
  """Grad-CAM++: `M(p) = max(0, sum_k w_k A_k(p))`, where places of many sizes of an object count alike.

  With `g = dz_c / dA`, `w_k = sum_p alpha_k(p) max(0, g_k(p))` and

      alpha_k(p) = g_k(p)^2 / (2 g_k(p)^2 + sum_q A_k(q) g_k(p)^3)

  and 0 where the denominator is. The paper's score is `exp(z_c)`, whose factor `exp(z_c)` of a whole map is left out:
  normalisation takes it away, and it overflows.

  Args:
    apply, variables, x, classes, site: as in `grad_cam`. The formula holds for networks that are piecewise linear
      between `A` and the logits.

  Returns:
    `[B, h, w]`.

  Raises:
    ValueError: as `grad_cam`.

  References:
    Chattopadhyay et al., "Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks" (arXiv 1710.11063),
    eqs. 5, 6 and 19.
  """
  maps, g = _map_and_gradient("grad_cam_plus_plus", apply, variables, x, classes, site)
  below = 2 * jnp.square(g) + jnp.sum(maps, (1, 2), keepdims=True) * g**3
  alpha = jnp.where(below == 0, 0.0, jnp.square(g) / jnp.where(below == 0, 1.0, below))
  weights = jnp.sum(alpha * jnp.maximum(g, 0), (1, 2), keepdims=True)
  return jnp.maximum(jnp.sum(weights * maps, -1), 0)


def class_maps(
  apply: Apply,
  variables: Variables,
  x: jax.Array,
  classes: jax.Array | None = None,
  *,
  kind: Literal[KINDS] = "cam",
  site: str | None = None,
) -> jax.Array:
  """Maps of the size of the images, in [0, 1]: `resized_maps(unit_range(M))`.

  Args:
    apply, variables, x, classes: as in `cam`.
    kind: `"cam"`, `"grad_cam"` or `"grad_cam_pp"`.
    site: the tap of the latter two; `cam` has no choice.

  Returns:
    `[B, height, width]` float32 (float64 for float64).

  Raises:
    ValueError: what the kinds refuse, an unknown kind, or a site for `cam`.
  """
  if kind not in KINDS or (kind == "cam" and site is not None):
    kinds = ", ".join(KINDS)
    raise ValueError(f"class_maps: kind={kind!r}, site={site!r}; give one of {kinds}, and no site with 'cam'")
  given = apply, variables, x, classes
  if kind == "cam":
    raw = cam(*given)
  else:
    raw = (grad_cam if kind == "grad_cam" else grad_cam_plus_plus)(*given, site=site)
  return resized_maps(unit_range(raw), x.shape[1:3])


def unit_range(maps: jax.Array) -> jax.Array:
  """`(M - min M) / (max M - min M)` of every map `[B, h, w]`; a constant map becomes 0."""
  check_rank("unit_range", "maps", maps, 3)
  low, high = (end(maps, (1, 2), keepdims=True) for end in (jnp.min, jnp.max))
  return jnp.where(high > low, (maps - low) / jnp.where(high > low, high - low, 1.0), 0.0)


def resized_maps(maps: jax.Array, sides: tuple[int, int]) -> jax.Array:
  """Maps `[B, h, w]` as `[B, *sides]`: bilinear between the centres of places, whose border is continued outwards."""
  check_rank("resized_maps", "maps", maps, 3)
  rows, columns = (jnp.asarray(resize_weights(*pair), maps.dtype) for pair in zip(maps.shape[1:], sides, strict=True))
  return jnp.einsum("ih,bhw,jw->bij", rows, maps, columns, precision=jax.lax.Precision.HIGHEST)


def _score(
  apply: Apply, variables: Variables, x: jax.Array, classes: jax.Array | None, sites: Sites
) -> tuple[jax.Array, Mapping[str, jax.Array]]:
  """The sum over examples of the logits of their classes, whose gradients do not mix; and the taps."""
  out = apply(variables.params, x, stats=variables.stats, sites=sites)
  check_rank("class maps", "logits", out.logits, 2)
  count = out.logits.shape[1]
  chosen = check_labels("class maps", jnp.argmax(out.logits, -1) if classes is None else classes, out.logits.shape[:1])
  if classes is not None and known(classes) and (wrong := outside_range(classes, count)):
    raise ValueError(f"class maps: labels must be in [0, {count}), got {wrong}")
  return jnp.sum(jnp.take_along_axis(out.logits, chosen[:, None], 1)), out.taps


def _shape_at(apply: Apply, variables: Variables, x: jax.Array, site: str) -> tuple[int, ...]:
  """The shape of what passes a site."""
  seen = []

  def look(a: jax.Array) -> jax.Array:
    seen.append(a.shape)
    return a

  jax.eval_shape(lambda v, x: apply(v.params, x, stats=v.stats, sites={site: look}), variables, x)
  return seen[0]


def _map_and_gradient(
  name: str, apply: Apply, variables: Variables, x: jax.Array, classes: jax.Array | None, site: str | None
) -> tuple[jax.Array, jax.Array]:
  """A tap `[B, h, w, features]`, and the gradient in it of the logit of each example's class."""
  taps = jax.eval_shape(lambda v, x: apply(v.params, x, stats=v.stats), variables, x).taps
  maps = [tap for tap, value in taps.items() if value.ndim == 4]
  site = maps[-1] if site is None and maps else site
  if site not in maps:
    raise ValueError(f"{name}: site={site!r} is no map with places; this network has {', '.join(maps) or 'none'}")

  def score(change: jax.Array) -> tuple[jax.Array, jax.Array]:
    total, taps = _score(apply, variables, x, classes, {site: lambda a: a + change})
    return total, taps[site]

  gradient, found = jax.grad(score, has_aux=True)(jnp.zeros(taps[site].shape, taps[site].dtype))
  return widen(found), widen(gradient)
