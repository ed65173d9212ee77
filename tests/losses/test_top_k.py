"""Targets of which the likeliest tokens were kept, against the whole distribution that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_losses as formulas
import pytest

from jdistill import losses

RNG = np.random.default_rng(0)
STUDENT, TEACHER = 2 * RNG.normal(size=(2, 3, 4, 9))  # [B, T, V]
K, T = 3, 2.0
ORDER = np.argsort(-TEACHER, axis=-1)


def stood_for(missing):
  """The teacher's distribution as it is filled in, in NumPy."""
  p = formulas.softmax(TEACHER / T)
  ranked = np.take_along_axis(p, ORDER, -1)
  if missing == "even":
    ranked[..., K:] = ranked[..., K:].mean(-1, keepdims=True)
  else:
    ranked[..., K:] = 0
    ranked /= ranked.sum(-1, keepdims=True)
  out = np.empty_like(p)
  np.put_along_axis(out, ORDER, ranked, -1)
  return out


@pytest.mark.parametrize("missing", ["even", "drop"])
@pytest.mark.parametrize("kind", ["forward_kl", "jsd", "skew_kl", "total_variation", "soft_cross_entropy"])
def test_equal_to_the_distribution_that_is_filled_in(x64, missing, kind):
  targets = losses.top_k_targets(TEACHER, K, temperature=T)
  function = jax.jit(lambda s: losses.top_k_divergence(s, targets, kind=kind, missing=missing, temperature=T))
  with np.errstate(divide="ignore"):
    whole = T * np.log(stood_for(missing))
  full = lambda s: losses.token_divergence(s, whole, kind=kind, temperature=T)  # noqa: E731
  np.testing.assert_allclose(function(STUDENT), full(STUDENT), rtol=1e-10)
  found, want = (jax.grad(lambda s, f=f: jnp.sum(f(s)))(jnp.asarray(STUDENT)) for f in (function, full))
  np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-13)


def test_buckets_never_say_more_than_the_teacher(x64):
  targets = losses.top_k_targets(TEACHER, K)
  coarse = losses.top_k_divergence(STUDENT, targets, missing="bucket")
  assert (coarse <= losses.kl_divergence(STUDENT, TEACHER)).all() and (coarse > 0).all()
  exact = losses.top_k_divergence(STUDENT, losses.top_k_targets(TEACHER, 8), missing="bucket")  # one token is the rest
  np.testing.assert_allclose(exact, losses.kl_divergence(STUDENT, TEACHER), rtol=1e-10)


def test_the_gradient_of_the_target_that_was_kept_is_off_by_its_total_variation(x64):
  targets = losses.top_k_targets(TEACHER, K)
  kept, exact = (
    jax.grad(lambda s, f=f: jnp.sum(f(s)))(jnp.asarray(STUDENT))
    for f in (lambda s: losses.top_k_divergence(s, targets), lambda s: losses.kl_divergence(s, TEACHER))
  )
  lost = losses.top_k_fidelity(TEACHER, targets)
  np.testing.assert_allclose(np.abs(kept - exact).sum(-1), 2 * lost.total_variation, rtol=1e-9)
  p = formulas.softmax(TEACHER)
  np.testing.assert_allclose(lost.kept_mass, np.take_along_axis(p, ORDER, -1)[..., :K].sum(-1), rtol=1e-12)


def test_fidelity_grows_with_k_and_sees_the_rounding_of_what_was_stored(x64):
  lost = [losses.top_k_fidelity(TEACHER, losses.top_k_targets(TEACHER, k)) for k in (1, 3, 6, 8)]
  for wider, narrower in zip(lost[1:], lost[:-1], strict=True):
    assert (wider.kept_mass > narrower.kept_mass).all()
    assert (wider.divergence <= narrower.divergence + 1e-12).all()
  np.testing.assert_allclose(lost[-1].divergence, 0, atol=1e-12)
  whole = losses.top_k_targets(TEACHER, 8)
  stored = losses.TopK(
    *(jnp.asarray(x).astype(kind) for x, kind in zip(whole, ("float16", "uint8", "float16"), strict=True))
  )
  rounded = losses.top_k_fidelity(TEACHER, stored)
  assert (rounded.divergence > 0).all() and (rounded.divergence < 1e-5).all()
  assert (losses.top_k_fidelity(TEACHER, losses.top_k_targets(TEACHER, K), missing="drop").divergence > 1e20).all()


def test_what_the_student_masks_out_gets_no_share(x64):
  """Padding of a vocabulary."""
  pad = lambda z: np.concatenate([z, np.full((*z.shape[:-1], 2), -np.inf)], axis=-1)  # noqa: E731
  want = losses.top_k_divergence(STUDENT, losses.top_k_targets(TEACHER, K))
  padded = losses.top_k_divergence(pad(STUDENT), losses.top_k_targets(pad(TEACHER), K))
  np.testing.assert_allclose(padded, want, rtol=1e-10)


def test_bad_targets():
  targets = losses.top_k_targets(TEACHER, K)
  with pytest.raises(ValueError, match=r"targets \(3, 4, 3\).* do not fit logits \(3, 9\)"):
    losses.top_k_divergence(STUDENT[0, :3], targets)
  with pytest.raises(ValueError, match="missing='zero' is not one of even, bucket, drop"):
    losses.top_k_divergence(STUDENT, targets, missing="zero")
  with pytest.raises(ValueError, match="choose 'even' or 'drop'"):
    losses.top_k_fidelity(TEACHER, targets, missing="bucket")
