"""Echoes: which samples are accepted, the pool beside a queue, and the cap of their share."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import diffusion

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def cosine(a, b):
  return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_what_a_teacher_makes_of_noised_samples(x64):
  """The best denoiser of N(m, s^2), beside its formula; nothing of it reaches the student."""
  schedule = diffusion.schedule("vp_cosine")
  m, s = 0.4, 0.7

  def teacher(x_t, t):
    alpha, sigma = (diffusion.per_example(of(t), x_t) for of in (schedule.alpha, schedule.sigma))
    return m + alpha * s**2 / (alpha**2 * s**2 + sigma**2) * (x_t - alpha * m)

  x, eps, t = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3)), np.array([0.1, 0.4, 0.7, 0.9])
  alpha, sigma = np.cos(np.pi * t / 2)[:, None], np.sin(np.pi * t / 2)[:, None]
  want = m + alpha * s**2 / (alpha**2 * s**2 + sigma**2) * (alpha * x + sigma * eps - alpha * m)
  target = lambda x: diffusion.alignment_target(schedule, teacher, x, jnp.asarray(eps), jnp.asarray(t))  # noqa: E731
  for found in (target(jnp.asarray(x)), jax.jit(target)(jnp.asarray(x))):
    np.testing.assert_allclose(found, want, rtol=1e-10)
  assert not np.any(jax.grad(lambda x: jnp.sum(target(x)))(jnp.asarray(x)))


def test_samples_are_as_similar_as_references_are_to_each_other():
  references = RNG.normal(1.0, 1.0, (6, 5)).astype(np.float32)
  names = np.int32([0, 1, 1, 2, 3, 9])
  references[2], where = references[1], np.arange(6) < 5
  references[5] = np.nan  # no reference
  samples = np.concatenate([references[:1], RNG.normal(0.5, 1.0, (20, 5)), -references[:1]]).astype(np.float32)
  kept = range(5)
  own = [np.mean([cosine(references[i], references[j]) for j in kept if names[j] != names[i]]) for i in kept]
  found = [np.mean([cosine(one, references[j]) for j in kept]) for one in samples]
  accept = jax.jit(diffusion.accept_similar, static_argnames="threshold")
  for threshold in (None, 0.3):
    want = np.array(found) >= (min(own) if threshold is None else threshold)
    assert want.any() and not want.all()
    for function in (accept, diffusion.accept_similar):
      np.testing.assert_array_equal(function(samples, references, names, threshold=threshold, where=where), want)


def test_nothing_is_accepted_without_something_to_compare_with():
  samples, references, names = np.ones((3, 2)), np.ones((4, 2)), np.zeros(4, np.int32)
  assert not diffusion.accept_similar(samples, references, names).any()  # one name: no similarity among references
  assert diffusion.accept_similar(samples, references, names, threshold=0.5).all()
  none = np.zeros(4, bool)
  for threshold in (None, -1.0):
    assert not diffusion.accept_similar(samples, references, names, threshold=threshold, where=none).any()
  assert not diffusion.accept_similar(samples * np.nan, references, names, threshold=-1.0).any()
  with pytest.raises(ValueError, match=r"features \(3, 2\) and references \(4, 3\) must have one width"):
    diffusion.accept_similar(samples, np.ones((4, 3)), names)


def test_accepted_samples_come_first():
  made = np.float32([[3.0], [-1.0], [np.inf], [2.0], [-4.0]])
  images, count = jax.jit(
    lambda: diffusion.echo_pool(lambda key, cond: jnp.asarray(made), KEY, jnp.zeros(5), lambda x: x[:, 0] > 0)
  )()
  assert count == 2
  np.testing.assert_array_equal(images[:2, 0], [3, 2])
  noise = lambda key, cond: jax.random.normal(key, (cond.shape[0], 2)) + cond[:, None]  # noqa: E731
  images, count = diffusion.echo_pool(noise, KEY, jnp.arange(3.0), lambda x: jnp.ones(3, bool))
  np.testing.assert_array_equal(images, noise(KEY, jnp.arange(3.0)))
  assert count == 3


def test_a_pool_is_a_queue_of_the_last():
  pool, queue, offered = diffusion.no_echoes(5, (2,)), collections.deque(maxlen=5), 0
  join = jax.jit(diffusion.pool_echoes)
  for number, accepted in enumerate([0, 2, 3, 1, 0, 3, 2]):
    images = RNG.normal(size=(3, 2)).astype(np.float32)
    queue.extend(map(tuple, images[:accepted]))
    offered += 3
    pool = join(pool, images, jnp.int32(accepted))
    assert (int(pool.held), int(pool.offered)) == (len(queue), offered), number
    assert collections.Counter(map(tuple, np.asarray(pool.images[: int(pool.held)]))) == collections.Counter(queue)
  with pytest.raises(ValueError, match="6 images at once for a pool of 5"):
    diffusion.pool_echoes(pool, jnp.zeros((6, 2)), jnp.int32(1))


def test_echoes_never_exceed_their_share():
  x, where = jnp.zeros((10, 2)), jnp.arange(10) % 2 == 0
  pool = diffusion.pool_echoes(diffusion.no_echoes(4, (2,)), jnp.array([[1.0, 1], [2, 2], [3, 3]]), jnp.int32(2))
  mix = jax.jit(diffusion.mix_echoes, static_argnames="share")
  for share, most in ((0.0, 0), (0.25, 2), (0.3, 3), (1.0, 5)):
    mixed, echo = mix(KEY, pool, x, share, where=where)
    assert echo.sum() == most and not (echo & ~where).any()
    np.testing.assert_array_equal(mixed[:, 0] > 0, echo)
    assert set(np.asarray(mixed[echo, 0])) <= {1.0, 2.0}  # the third was not accepted
  seen = {float(one) for n in range(20) for one in mix(jax.random.key(n), pool, x, 0.3)[0][:, 0]}
  assert seen == {0.0, 1.0, 2.0}
  untouched, echo = mix(KEY, diffusion.no_echoes(4, (2,)), x + 7, 1.0)
  assert not echo.any() and (untouched == 7).all()
  with pytest.raises(ValueError, match=r"share must be in \[0, 1\]"):
    diffusion.mix_echoes(KEY, pool, x, 1.5)
