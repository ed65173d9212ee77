"""Every loss of `jdistill.losses` as `(student, teacher, where, **numbers)`, beside its formula in NumPy."""

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy_diffusion
import numpy_losses as formulas
import numpy_sequence

from jdistill import losses


class Loss(NamedTuple):
  """A loss at toy size.

  Attributes:
    call: `(student, teacher, where, **numbers) -> value`.
    shape: of both sides, without the batch.
    numbers: hyper-parameters, which may be traced.
    result: `"rows"` for `[B, ...]`, `"views"` for `[2B]`, `"square"` for `[B, B]`, or `"scalar"`.
    classes: the last axis has logits, of which minus infinity masks some.
    least: fewer examples are refused.
    masked: it takes `where`.
    batched: the first axis has examples.
    shift: axes along which a constant may be added to the student, or `None` if that changes the loss.
    tolerance: relative, in float32, beside ordinary numbers and beside 1e4.
    learns: it has a gradient.
    stopped: its gradient is not that of its value, as a part of the student is held fixed.
  """

  call: Callable[..., jax.Array]
  shape: tuple[int, ...] = (formulas.CLASSES,)
  numbers: Mapping[str, float] = {}
  result: str = "rows"
  classes: bool = False
  least: int = 0
  masked: bool = True
  batched: bool = True
  shift: tuple[int, ...] | None = None
  tolerance: tuple[float, float] = (2e-5, 1e-4)
  learns: bool = True
  stopped: bool = False


def plain(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  return lambda s, t, where, **numbers: function(s, t, where=where, **numbers)


def labelled(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  return lambda s, t, where, **numbers: function(s, t, _first(formulas.LABELS, s), where=where, **numbers)


def _first(values: np.ndarray, s: Any) -> np.ndarray:
  values = values[: len(s)]
  return values.astype(np.int32 if values.dtype.kind == "i" else np.float32)


def on_logits(function, wrap=plain, **changes) -> Loss:
  return Loss(wrap(function), classes=True, shift=(-1,), **changes)


def _crd(s, t, where, **numbers):
  banks = (jnp.float32(bank) for bank in formulas.BANKS)
  state = losses.CRDState(*banks, jnp.float32(1.0), jnp.float32(1.0))
  size = len(s)
  args = np.arange(size, dtype=np.int32), np.int32(formulas.NEGATIVES[:size])
  return losses.crd_loss(state, s, t, *args, where=where, **numbers)[0]


def _discriminate(function, sides):
  def call(s, t, where):
    options = {"mode": "joint"} if sides == 2 else {}
    return function(
      lambda params, rows: rows @ params, jnp.float32(formulas.HEAD), *(s, t)[:sides], where=where, **options
    )

  return call


def _by_order(s, t, where):
  order = jnp.argsort(-jnp.asarray(t, jnp.float32), axis=-1)
  return losses.plackett_luce_nll(s, order, np.ones(formulas.CLASSES, np.float32), where=where)


def _moments(s, t, where):
  s, t = jnp.asarray(s), jnp.asarray(t)
  return losses.bn_stat_loss(*([(x[0], x[1]), (x[2], x[3])] for x in (s, t)))


def _parameters(s, t):
  s, t = jnp.asarray(s), jnp.asarray(t)
  return {"w": s}, {"w": t}, {"w": jnp.broadcast_to(jnp.float32(formulas.START), t.shape)}


def _swing(s, t, where, **numbers):
  return losses.swing_kd_loss(jax.random.key(0), s, t, _first(formulas.RHO, s), where=where, **numbers)


def _class_sets(s, t, where):
  weight = None if where is None else jnp.asarray(where)[None]
  s, t = jnp.asarray(s)[None], jnp.asarray(t)[None]
  return losses.distribution_matching(t, s, real_weight=weight, synthetic_weight=weight)


def _characteristics(s, t, where, **numbers):
  weight = None if where is None else jnp.asarray(where)[None]
  s, t = jnp.asarray(s)[None], jnp.asarray(t)[None]
  return losses.characteristic_function_discrepancy(
    t, s, jnp.float32(formulas.FREQUENCIES), real_weight=weight, synthetic_weight=weight, **numbers
  )


def _class_maps(s, t, where, **numbers):
  weight = None if where is None else jnp.asarray(where)[None]
  s, t = [jnp.asarray(s)[None]], [jnp.asarray(t)[None]]
  return losses.attention_matching(t, s, real_weight=weight, synthetic_weight=weight, **numbers)


def _to_means(function, sides):
  def call(s, t, where):
    return function(*(s, t)[:sides], np.float32(formulas.MEANS), _first(formulas.LABELS, s), where=where)

  return call


def _two_groups(function):
  return lambda s, t, where, **numbers: function(s, t, where=where, second_where=where, **numbers)


def _graphs(s, t, where):
  return losses.local_preserving_loss(*(jnp.asarray(x)[:, : len(s)] for x in (s, t)), where=where)


def _pearson(s, t, where, eps):
  where = None if where is None else jnp.repeat(jnp.asarray(where)[:, None], np.shape(s)[1], axis=1)
  return losses.pearson(s, t, eps=eps, where=where)


def _distances(s, t, where, **numbers):
  y, pasted = (_first(labels, s) for labels in (formulas.LABELS, np.roll(formulas.LABELS, -1)))
  return losses.dbr_loss(s, losses.dbr_record(t, y, pasted, **numbers), y, pasted, where=where, **numbers)


def _by_heads(function, labels=False):
  def call(s, t, where, **numbers):
    s, t = jnp.asarray(s), jnp.asarray(t)
    one, other = (jnp.float32(head) for head in numpy_sequence.HEADS)
    given = (s, one, t, other, _first(formulas.LABELS, s))[: 5 if labels else 4]
    return function(*given, where=where, chunk=3, **numbers)

  return call


def _kept(s, t, where, temperature):
  targets = losses.top_k_targets(jnp.asarray(t), numpy_sequence.KEPT, temperature=temperature)
  return losses.top_k_divergence(s, targets, missing="bucket", temperature=temperature, where=where)


def _policy(s, t, where, clip):
  return losses.clipped_policy_loss(s, t, _first(numpy_sequence.ADVANTAGES, s), clip=clip, where=where)


def _half_way(s, t, where, **numbers):
  return losses.score_distillation_grad(s, t, jnp.float32(numpy_diffusion.FAKE)[: len(s)], **numbers)


def _bowl(x):
  return jnp.sum(jnp.float32(numpy_diffusion.CURVES)[None] * jnp.square(x), axis=1) / 2


def _layers(x):
  return [x, jnp.sum(x, axis=(1, 2))]


HEAT = {"temperature": 2.0}
MAP = (2, 2, 3)
EXACT = {"tolerance": (2e-4, 5e-2)}
TABLE: dict[str, Loss] = {
  "attention_loss": Loss(plain(losses.attention_loss), MAP, {"power": 2.0}),
  "attention_map": Loss(lambda s, t, where, **k: losses.attention_map(s, **k), MAP, {"power": 3.0}, masked=False),
  "attention_matching": Loss(_class_maps, MAP, {"power": 4.0}, result="scalar"),
  "barlow_twins": Loss(
    plain(losses.barlow_twins), (3,), {"redundancy_weight": 0.3, "eps": 1e-5}, result="scalar", least=2, shift=(0,)
  ),
  "bn_stat_loss": Loss(_moments, result="scalar", masked=False, batched=False),
  "channel_wise_kl": Loss(plain(losses.channel_wise_kl), MAP, HEAT, shift=(1, 2)),
  "characteristic_function_discrepancy": Loss(
    _characteristics, numbers={"amplitude_weight": 0.75, "phase_weight": 0.5}, result="scalar"
  ),
  "cka_linear": Loss(plain(losses.cka_linear), (2,), result="scalar", least=2, shift=(0,)),
  "contextual_similarity_loss": Loss(plain(losses.contextual_similarity_loss), (3, 4), tolerance=(2e-5, 1e-3)),
  "crd_inbatch": Loss(plain(losses.crd_inbatch), numbers={"temperature": 0.1}, least=2),
  "crd_loss": Loss(_crd, numbers={"temperature": 0.5, "momentum": 0.5}),
  "cross_entropy": on_logits(lambda s, t, y, **k: losses.cross_entropy(s, y, **k), labelled),
  "dbr_loss": on_logits(_distances, lambda function: function, numbers=HEAT),
  "direction_only_loss": Loss(_to_means(losses.direction_only_loss, 1)),
  "discriminator_loss": Loss(_discriminate(losses.discriminator_loss, 2), result="scalar", classes=True),
  "dist_loss": on_logits(
    losses.dist_loss, numbers=HEAT | {"beta": 2.0, "gamma": 1.5, "eps": 1e-8}, result="scalar", least=2
  ),
  "distribution_matching": Loss(_class_sets, result="scalar"),
  "dkd_loss": on_logits(losses.dkd_loss, labelled, numbers=HEAT | {"alpha": 1.0, "beta": 3.0}),
  "fused_kd_loss": on_logits(
    lambda s, t, y, alpha, **k: losses.fused_kd_loss(s, t, y, alpha, **k), labelled, numbers=HEAT | {"alpha": 0.3}
  ),
  "generator_loss": Loss(_discriminate(losses.generator_loss, 1), result="scalar", classes=True),
  "gradient_matching": Loss(
    lambda s, t, where, **k: losses.gradient_matching({"w": jnp.asarray(s)}, {"w": jnp.asarray(t)}, **k),
    numbers={"eps": 1e-3}, result="scalar", masked=False, batched=False,
  ),
  "hint_loss": Loss(plain(losses.hint_loss), MAP),
  "hsic1": Loss(plain(losses.hsic1), (3,), result="scalar", least=4, shift=(0,), tolerance=(1e-4, 1e-4)),
  "info_nce": Loss(plain(losses.info_nce), numbers={"temperature": 0.1}, least=2),
  "jeffreys_divergence": on_logits(losses.jeffreys_divergence, numbers=HEAT),
  "js_divergence": on_logits(losses.js_divergence, numbers=HEAT),
  "kd_loss": on_logits(losses.kd_loss, labelled, numbers=HEAT | {"ce_weight": 0.2, "kd_weight": 0.8}),
  "kl_divergence": on_logits(losses.kl_divergence, numbers=HEAT),
  "knn_affinity": Loss(
    lambda s, t, where, sigma: losses.knn_affinity(s, k=2, sigma=sigma, where=where),
    numbers={"sigma": 4.0}, result="square", least=3, shift=(0,),
  ),
  "local_preserving_loss": Loss(_graphs, (5,), least=2, shift=(-1,)),
  "logit_gap_weights": Loss(
    lambda s, t, where: losses.logit_gap_weights(s, t), classes=True, masked=False, learns=False
  ),
  "masked_mean": Loss(lambda s, t, where: losses.masked_mean(jnp.asarray(s), where), result="scalar"),
  "mean_distance": Loss(_two_groups(losses.mean_distance), result="scalar"),
  "norm_direction_loss": Loss(_to_means(losses.norm_direction_loss, 2)),
  "norm_only_loss": Loss(plain(losses.norm_only_loss)),
  "nt_xent": Loss(plain(losses.nt_xent), numbers={"temperature": 0.1}, result="views", least=2),
  "ofa_loss": on_logits(losses.ofa_loss, labelled, numbers=HEAT | {"exponent": 1.3}),
  "pearson": Loss(_pearson, numbers={"eps": 1e-8}, shift=(-1,)),
  "plackett_luce_nll": on_logits(_by_order, lambda f: f),
  "pld_loss": on_logits(losses.pld_loss, labelled, numbers=HEAT),
  "rbf_mmd": Loss(_two_groups(losses.rbf_mmd), numbers={"scale": 4.0}, result="scalar"),
  "reverse_kl": on_logits(losses.reverse_kl, numbers=HEAT),
  "review_hcl_loss": Loss(
    lambda s, t, where: losses.review_hcl_loss(jnp.asarray(s), jnp.asarray(t), where=where), (3, 3, 2)
  ),
  "rkd_angle_loss": Loss(plain(losses.rkd_angle_loss), numbers={"delta": 0.5}, least=3, shift=(0,)),
  "rkd_distance_loss": Loss(
    plain(losses.rkd_distance_loss), numbers={"delta": 0.5, "floor": 1e-12}, least=2, shift=(0,)
  ),
  "segmentation_cross_entropy": Loss(
    lambda s, t, where: losses.segmentation_cross_entropy(s, _first(formulas.MAPS, s), where=where),
    (2, 2, formulas.CLASSES), result="scalar", classes=True, shift=(-1,),
  ),
  "sinkd_batch_loss": on_logits(
    losses.sinkd_batch_loss, numbers=HEAT | {"entropy_weight": 0.5}, result="scalar", tolerance=(1e-4, 1e-4)
  ),
  "sinkd_sample_loss": on_logits(
    losses.sinkd_sample_loss, numbers=HEAT | {"entropy_weight": 0.5}, tolerance=(1e-4, 1e-4)
  ),
  "sinkhorn_distance": Loss(
    lambda s, t, where, **k: losses.sinkhorn_distance(s, where_rows=where, **k),
    numbers={"entropy_weight": 0.5}, result="scalar", tolerance=(2e-4, 2e-2),
  ),
  "soft_cross_entropy": on_logits(losses.soft_cross_entropy, numbers=HEAT),
  "supervised_contrastive": Loss(
    lambda s, t, where, **k: losses.supervised_contrastive(s, _first(formulas.LABELS, s), where=where, **k),
    numbers={"temperature": 0.1}, least=2,
  ),
  "swing_kd_loss": on_logits(
    _swing, lambda f: f, numbers={"tau_lo": 1.0, "tau_hi": 3.0, "epsilon": np.inf, "sensitivity": 1.0}
  ),
  "token_info_nce": Loss(plain(losses.token_info_nce), numbers={"temperature": 0.1}, least=2),
  "trajectory_matching": Loss(
    lambda s, t, where: losses.trajectory_matching(*_parameters(s, t)), result="scalar", masked=False, batched=False
  ),
  "weighted_feature_mse": Loss(
    lambda s, t, where: losses.weighted_feature_mse(s, t, _first(formulas.WEIGHTS, s), where=where), MAP
  ),
}  # fmt: skip
TABLE |= {
  "adaptive_kl": on_logits(losses.adaptive_kl, numbers=HEAT | {"head_mass": 0.6}, stopped=True),
  "chunked_cross_entropy": Loss(
    lambda s, t, where: losses.chunked_cross_entropy(
      jnp.asarray(s), jnp.float32(numpy_sequence.HEADS[0]), _first(formulas.LABELS, s), chunk=3, where=where
    )
  ),
  "chunked_divergence": Loss(
    _by_heads(functools.partial(losses.chunked_divergence, kind="skew_kl")), numbers=HEAT | {"skew": 0.3}
  ),
  "chunked_kd_loss": Loss(
    _by_heads(losses.chunked_kd_loss, labels=True), numbers=HEAT | {"ce_weight": 0.5, "kd_weight": 2.0}
  ),
  "chunked_token_losses": Loss(
    _by_heads(lambda *given, **numbers: sum(losses.chunked_token_losses(*given, **numbers)), labels=True), numbers=HEAT
  ),
  "clipped_policy_loss": Loss(_policy, numbers={"clip": 0.2}),
  "denoising_loss": Loss(
    lambda s, t, where: losses.denoising_loss(s, t, _first(formulas.WEIGHTS, s), where=where), MAP
  ),
  "gan_discriminator_loss": Loss(
    lambda s, t, where: losses.gan_discriminator_loss(s, t, real_where=where, fake_where=where), (), result="scalar"
  ),
  "gan_generator_loss": Loss(lambda s, t, where: losses.gan_generator_loss(s, where=where), ()),
  "generalized_jsd": on_logits(losses.generalized_jsd, numbers=HEAT | {"beta": 0.3}),
  "group_relative_advantage": Loss(
    lambda s, t, where, **k: losses.group_relative_advantage(s, where=where, **k), numbers={"eps": 1e-3},
    shift=(-1,), learns=False,
  ),
  "discounted_returns": Loss(
    lambda s, t, where, **k: losses.discounted_returns(s, length_norm=True, where=where, **k),
    numbers={"discount": 0.7}, learns=False,
  ),
  "k3_kl": Loss(plain(losses.k3_kl), numbers={"bound": 10.0}),
  "gradient_penalty": Loss(lambda s, t, where: losses.gradient_penalty(_bowl, s, where=where), (3,)),
  "identity_loss": Loss(lambda s, t, where: losses.identity_loss(lambda x: x * jnp.abs(x), s, t, where=where), MAP),
  "loss_from_grad": Loss(plain(losses.loss_from_grad), MAP, result="scalar", stopped=True),
  "perceptual_loss": Loss(lambda s, t, where: losses.perceptual_loss(_layers, s, t, where=where), MAP),
  "pseudo_huber": Loss(plain(losses.pseudo_huber), MAP, {"scale": 0.5}),
  "log_ratio_rewards": Loss(plain(losses.log_ratio_rewards), numbers={"scale": 0.5, "bound": 3.0}, learns=False),
  "mixture_weight": Loss(plain(losses.mixture_weight), numbers={"share": 0.2}, learns=False),
  "reduce_tokens": Loss(
    lambda s, t, where: losses.reduce_tokens(s, where, reduction="sequence_mean"), result="scalar"
  ),
  "score_distillation_grad": Loss(_half_way, (3,), {"eps": 0.25}, masked=False, learns=False),
  "sequence_log_prob": Loss(
    lambda s, t, where: losses.sequence_log_prob(s, _first(numpy_sequence.TOKENS, s), where=where)[0],
    (3, formulas.CLASSES), classes=True, shift=(-1,),
  ),
  "skew_kl": on_logits(losses.skew_kl, numbers=HEAT | {"skew": 0.2}),
  "skew_reverse_kl": on_logits(losses.skew_reverse_kl, numbers=HEAT | {"skew": 0.2}),
  "taid_loss": on_logits(losses.taid_loss, numbers=HEAT | {"interpolation": 0.3}, stopped=True),
  "token_divergence": on_logits(
    functools.partial(losses.token_divergence, kind="skew_reverse_kl"), numbers=HEAT | {"skew": 0.2}
  ),
  "top_k_divergence": on_logits(_kept, lambda f: f, numbers=HEAT),
  "total_variation": on_logits(losses.total_variation, numbers=HEAT),
  "whiten_advantages": Loss(
    lambda s, t, where, **k: losses.whiten_advantages(s, where=where, **k), numbers={"eps": 1e-3}, learns=False
  ),
}  # fmt: skip
VALIDATED = {
  "amplitude_weight", "bound", "clip", "delta", "entropy_weight", "eps", "epsilon", "exponent", "floor",
  "head_mass", "interpolation", "momentum", "phase_weight", "power", "redundancy_weight", "scale", "sensitivity",
  "sigma", "skew", "tau_hi", "tau_lo", "temperature",
}  # fmt: skip


def numpy(name: str, s: np.ndarray, t: np.ndarray, rows=None) -> np.ndarray:
  """The loss `name` in float64."""
  formula = "info_nce" if name == "token_info_nce" else name
  rows = np.arange(len(s)) if rows is None else rows
  module = next(one for one in (numpy_sequence, numpy_diffusion, formulas) if hasattr(one, formula))
  with np.errstate(all="ignore"):
    return getattr(module, formula)(np.float64(s), np.float64(t), rows, **TABLE[name].numbers)


SIZE = 5  # examples


def grid(rng, shape):
  """Multiples of 1/8, exact in bfloat16 and when 1024 is added in float32."""
  return rng.integers(-16, 17, shape) / 8


@functools.cache
def sides(name):
  """The same for a loss whatever other losses there are."""
  rng, shape = np.random.default_rng(zlib.crc32(name.encode())), (SIZE, *TABLE[name].shape)
  return grid(rng, shape), grid(rng, shape)


def check(name, value, want, large=False):
  """Close to the formula; where that is infinite, large and finite."""
  value, want = np.asarray(value), np.asarray(want)
  assert value.dtype == jnp.float32 and value.shape == want.shape
  assert np.isfinite(value).all()
  finite = np.isfinite(want)
  tolerance = TABLE[name].tolerance[large]
  scale = np.max(np.abs(want[finite]), initial=1e-2) if large else 1
  np.testing.assert_allclose(value[finite], want[finite], rtol=tolerance, atol=tolerance * scale)
  assert (value[~finite] > 1e20).all()
