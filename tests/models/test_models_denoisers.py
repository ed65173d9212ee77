"""Denoisers of the zoo: what they predict at first, what modulates them, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import diffusion, models
from jdistill.base import UserError
from jdistill.diffusion import Noisy

SMALL = {
  "denoising_mlp": {"widths": (8, 8), "features": 8},
  "unet": {"widths": (4, 8), "features": 8},
  "dit": {"dim": 8, "depth": 2, "heads": 2, "features": 8},
}
every = pytest.mark.parametrize("name", sorted(SMALL))


def network(name, conditions=3, shape=(4, 4, 2), **options):
  return models.build(name, num_classes=conditions, image_shape=shape, **(SMALL[name] | options))


def noisy(shape=(4, 4, 2), n=3):
  x = jax.random.normal(jax.random.key(0), (n, *shape))
  return Noisy(x, jnp.array([0.1, 0.4, 0.8])[:n], jnp.arange(n))


def trained(one, key=1):
  """Parameters that are zero nowhere."""
  params = one.init(jax.random.key(key)).params
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(key + 1), len(leaves))
  return tree.unflatten(
    [leaf + 0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
  )


@every
def test_a_new_network_predicts_what_its_scalings_say(name):
  one, x = network(name), noisy()
  out = one.apply(one.init(jax.random.key(0)).params, x)
  skip = diffusion.edm_scalings(x.t, 0.5).skip
  np.testing.assert_allclose(out.logits, skip[:, None, None, None] * x.x, rtol=1e-6)
  assert out.embedding.ndim == 2 and "bottleneck" in out.taps
  assert (one.denoiser.conditions, one.denoiser.shape, one.denoiser.sigma_data) == (3, (4, 4, 2), 0.5)


@every
def test_noise_and_condition_reach_the_prediction(name):
  one, x = network(name), noisy()
  params = trained(one)
  ask = jax.jit(lambda x: one.apply(params, x).logits)
  base = np.asarray(ask(x))
  other = np.asarray(ask(x._replace(cond=x.cond.at[1].set(3))))  # 3 stands for no condition
  np.testing.assert_allclose(other[::2], base[::2], rtol=1e-5, atol=1e-5)
  assert np.abs(other[1] - base[1]).max() > 1e-3
  # the noise level beside what the scalings make of it: the same scaled input at another level
  raw = network(name, prediction="x0")
  levels = [np.asarray(raw.apply(params, x._replace(t=jnp.full(3, t))).logits) for t in (0.1, 0.9)]
  assert np.abs(levels[0] - levels[1]).max() > 1e-3
  assert "condition" not in network(name, conditions=1).init(jax.random.key(0)).params


@every
@pytest.mark.parametrize(
  ("schedule", "prediction"), [("edm", "eps"), ("vp_cosine", "v"), ("rectified_flow", "flow"), ("vp_linear", "x0")]
)
def test_every_kind_of_prediction_becomes_x0(name, schedule, prediction):
  one, x = network(name, schedule=schedule, prediction=prediction), noisy()
  params = trained(one)
  plain = network(name, schedule=schedule, prediction="x0")  # the same network, read as x_0
  given = plain.apply(params, x).logits
  want = diffusion.convert_prediction(diffusion.schedule(schedule), given, x.x, x.t, prediction, "x0")
  np.testing.assert_allclose(one.apply(params, x).logits, want, rtol=1e-5, atol=1e-5)


@every
def test_sites_replace_the_bottleneck(name):
  one, x = network(name), noisy()
  params = trained(one)
  changed = one.apply(params, x, sites={"bottleneck": lambda map_: 0 * map_})
  assert not np.any(changed.taps["bottleneck"]) and not np.any(changed.embedding)
  with pytest.raises(UserError, match=r"middle.*bottleneck"):
    one.apply(params, x, sites={"middle": lambda map_: map_})


def test_the_range_of_times_is_an_option():
  schedule = network("denoising_mlp", t_min=0.02, t_max=20.0).denoiser.schedule
  assert (schedule.t_min, schedule.t_max) == (0.02, 20.0)
  assert network("denoising_mlp", schedule="vp_cosine", t_max=0.9).denoiser.schedule.t_max == 0.9
  assert network("unet", attention=2).init(jax.random.key(0)).params.keys() >= {"middle_qkv", "middle_out"}


def test_groups_have_zero_mean_and_unit_variance():
  from jdistill.models.denoiser_layers import GroupNorm

  x = np.random.default_rng(0).normal(2, 3, (2, 4, 4, 12))
  parts = x.reshape(2, 16, 4, 3)  # 8 groups are asked for, and 4 divide 12
  want = (parts - parts.mean((1, 3), keepdims=True)) / np.sqrt(parts.var((1, 3), keepdims=True) + 1e-5)
  np.testing.assert_allclose(GroupNorm().apply({}, jnp.float32(x)), want.reshape(x.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"schedule": "linear"}, "schedule: 'linear' is unknown; choose one of edm, vp_cosine"),
    ({"prediction": "noise"}, "prediction: 'noise' is unknown; choose one of edm, consistency, x0"),
    ({"prediction": "v"}, "prediction='v': is defined for .*, and schedule 'edm' has another; choose one of x0, eps"),
    ({"schedule": "vp_cosine", "prediction": "flow"}, r"prediction='flow': is defined for alpha \+ sigma = 1"),
    ({"schedule": "vp_linear", "t_max": 0.5}, "t_max: schedule 'vp_linear' ends at 1"),
    ({"schedule": "vp_cosine", "prediction": "eps", "t_max": 0.99999}, "prediction='eps': at the last time"),
    ({"t_min": 90.0}, "0 < sigma_min < sigma_max"),
    ({"sigma_data": 0.0}, "sigma_data: 0.0 is not positive"),
    ({"sigma_data": -1.0}, "sigma_data: -1.0 is not a number that is 0 or more"),
  ],
)
def test_what_is_refused(options, message):
  with pytest.raises(UserError, match=message):
    network("denoising_mlp", **options)


def test_inputs_that_do_not_fit():
  one = network("unet", shape=(4, 4, 1))
  params = one.init(jax.random.key(0)).params
  with pytest.raises(UserError, match="a denoiser takes noisy data with times and conditions; use the task 'samples'"):
    one.apply(params, jnp.ones((1, 4, 4, 1)))
  with pytest.raises(UserError, match=r"noisy data of shape \(4, 4, 2\) given to a denoiser that was built for"):
    one.apply(params, noisy())
  with pytest.raises(UserError, match=r"widths: 3 levels halve sides 2 times, and 4 does not divide 6x6"):
    models.describe(network("unet", shape=(6, 6, 1), widths=(4, 4, 4)), (6, 6, 1))
  with pytest.raises(UserError, match="heads: 3 does not divide dim 8"):
    models.describe(network("dit", heads=3), (4, 4, 2))
