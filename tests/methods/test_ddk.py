"""DDK's data policy: its weights against NumPy, intervals, cycles, resumption, controls, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.base import Batch, Look, UserError
from jdistill.data.policies import cut
from jdistill.methods.language.ddk import ddk, mixture

NAMES = ("law", "code", "chat")
SIZES, HELD = (5, 12, 30), (4, 3, 6)
N, BATCH, INTERVAL, T, V = sum(SIZES), 4, 6, 5, 7
KEY = jax.random.key(2)
RNG = np.random.default_rng(0)
DOMAIN = RNG.permutation(np.repeat(np.arange(3), SIZES))
HELD_DOMAIN = RNG.permutation(np.repeat(np.arange(3), HELD))
Y, MASK = RNG.integers(0, V, (sum(HELD), T)), RNG.random((sum(HELD), T)) > 0.3
MASK[:, 0] = True
TEACHER = 2 * RNG.normal(size=(sum(HELD), T, V)) + 3 * np.eye(V)[Y]
STUDENTS = [0.3 * TEACHER + RNG.normal(size=TEACHER.shape) * (1 + HELD_DOMAIN[:, None, None]) for _ in range(4)]


def batch(domain, y, mask):
  def examples(at):
    extra = {"domain": jnp.int32(domain)[at], "mask": jnp.asarray(mask)[at]}
    return Batch(at, jnp.int32(y)[at], at, extra=extra)

  return examples


TRAIN = batch(DOMAIN, np.zeros((N, T)), np.ones((N, T), bool))
HELD_OUT = batch(HELD_DOMAIN, Y, MASK)


def look(student, teacher=TEACHER):
  held_out = Look(HELD_OUT, lambda at: student[at], lambda at: jnp.float32(teacher)[at], size=len(Y))
  return Look(TRAIN, None, None, held_out=held_out, size=N)


@functools.lru_cache
def built(build=ddk, **options):
  policy = build(N, BATCH, NAMES, **({"interval": INTERVAL} | options))
  step = jax.jit(lambda key, state, epoch, student, teacher: policy.next(key, state, epoch, look(student, teacher)))
  return policy, step


def draw(epochs=4, state=None, first=0, students=STUDENTS, teacher=TEACHER, **options):
  policy, step = built(**options)
  state, blocks = policy.init(KEY) if state is None else state, []
  for epoch in range(first, first + epochs):
    key = jax.random.fold_in(KEY, epoch)
    block, state = step(key, state, jnp.int32(epoch), jnp.float32(students[epoch]), jnp.float32(teacher))
    blocks.append(jax.device_get(block))
  return blocks, state


def losses(z):
  z = np.asarray(z, np.float64)
  nll = np.log(np.exp(z).sum(-1)) - np.take_along_axis(z, Y[..., None], -1)[..., 0]
  return np.array([nll[(d == HELD_DOMAIN)[:, None] & MASK].mean() for d in range(3)])


def ratios(epoch):
  return np.exp(losses(STUDENTS[epoch])) / np.exp(losses(TEACHER))


def weights(block):
  return np.array([block.metrics[f"weight/{name}"] for name in NAMES])


@pytest.mark.parametrize("smooth", [True, False])
def test_weights_follow_the_ratios_of_perplexities(smooth):
  blocks, _ = draw(smooth=smooth)
  r = None
  for epoch, block in enumerate(blocks):
    psi = np.exp(ratios(epoch)) * (1 if r is None or not smooth else r)
    r = psi / psi.sum() if r is None or not smooth else 0.5 * psi / psi.sum() + 0.5 / 3
    np.testing.assert_allclose(weights(block), r, rtol=1e-4)
    found = [block.metrics[f"log_ratio/{name}"] for name in NAMES]
    np.testing.assert_allclose(found, np.log(ratios(epoch)), rtol=1e-4, atol=1e-5)


def test_smoothing_makes_weights_steadier():
  spread = {
    flag: np.std([weights(block) for block in draw(smooth=flag)[0]][1:], axis=0).mean() for flag in (True, False)
  }
  assert spread[True] < spread[False]


def test_the_teacher_is_asked_once():
  blocks, state = draw(2)
  same, _ = draw(2)
  other = draw(1, state=state, first=2, teacher=-TEACHER)[0][0]  # another teacher is not looked at any more
  np.testing.assert_array_equal(weights(draw(1, state=state, first=2)[0][0]), weights(other))
  jax.tree.map(np.testing.assert_array_equal, blocks, same)


def test_an_epoch_is_an_interval_and_goes_on_from_its_state():
  policy, step = built()
  assert policy.steps == INTERVAL and policy.looks and policy.held_out
  whole, _ = draw(4)
  _, state = draw(2)
  rest, _ = draw(2, state=state, first=2)
  jax.tree.map(np.testing.assert_array_equal, rest, whole[2:])
  for block in whole:
    index, weight = cut(block)
    assert index.shape == (INTERVAL, BATCH) and (weight == 1).all() and index.max() < N
  assert step._cache_size() == 1


def test_all_examples_of_a_domain_come_before_one_comes_again():
  blocks, _ = draw(4)
  order = np.concatenate([block.index.ravel() for block in blocks])
  own = [position for position in order if DOMAIN[position] == 0]
  assert len(own) > 2 * SIZES[0]
  for begin in range(0, len(own) - SIZES[0], SIZES[0]):
    assert own[begin : begin + SIZES[0]] == own[: SIZES[0]] and len(set(own[: SIZES[0]])) == SIZES[0]


def shares(blocks):
  return np.bincount(DOMAIN[np.concatenate([block.index.ravel() for block in blocks])], minlength=3) / (
    sum(block.index.size for block in blocks)
  )


def test_chunks_are_drawn_with_the_weights_and_the_first_one_from_the_pool():
  first, _ = draw(1, interval=400)
  np.testing.assert_allclose(shares(first), np.array(SIZES) / N, atol=0.05)  # four deviations of 1,600 draws
  own, _ = draw_first()
  np.testing.assert_allclose(shares(own), weights(own[0]), atol=0.05)
  later, _ = draw(2, interval=400)
  np.testing.assert_allclose(shares(later[1:]), weights(later[1]), atol=0.05)


def draw_first():
  policy = ddk(N, BATCH, NAMES, interval=400, first_interval="weights")
  block, state = policy.next(KEY, policy.init(KEY), jnp.int32(0), look(jnp.float32(STUDENTS[0])))
  return [jax.device_get(block)], state


@pytest.mark.parametrize(
  ("options", "want"),
  [
    ({"draw": "natural"}, np.array(SIZES) / N),
    ({"draw": "equal"}, np.ones(3) / 3),
    ({"draw": "weights", "weights": (1.0, 3.0, 0.0)}, np.array([0.25, 0.75, 0.0])),
  ],
)
def test_controls_keep_their_weights(options, want):
  policy = mixture(N, BATCH, NAMES, interval=400, **options)
  block, state = policy.next(KEY, policy.init(KEY), jnp.int32(0), look(None))
  np.testing.assert_allclose(shares([block]), want, atol=0.05)
  again, _ = policy.next(KEY, state, jnp.int32(1), look(None))
  assert not np.array_equal(block.index, again.index) and policy.looks and not policy.held_out


def test_a_perplexity_that_is_not_finite_leaves_nothing_to_train_on():
  broken = [np.where(HELD_DOMAIN[:, None, None] == 1, np.nan, z) for z in STUDENTS]
  (block,), _ = draw(1, students=broken)
  assert not (block.weight > 0).any() and "not finite" in built()[0].hint
  assert np.isnan(block.metrics["log_ratio/code"]) and np.isfinite(block.metrics["log_ratio/law"])


def test_a_teacher_that_is_worse_is_legal_and_told():
  policy, _ = built()
  (block,), _ = draw(1, students=[TEACHER + 2 * np.eye(V)[Y]])  # likelier targets than the teacher's
  assert (block.weight == 1).all() and np.isfinite(weights(block)).all()
  said = policy.remark(block.metrics)
  assert said.startswith("the teacher is worse than the student in chat, code, law") and "\n" not in said
  assert policy.remark({"log_ratio/law": 0.1, "weight/law": 0.2}) == ""


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: ddk(N, BATCH, NAMES, alpha=1.5), "alpha=1.5"),
    (lambda: ddk(N, BATCH, NAMES, interval=0), "interval=0"),
    (lambda: mixture(N, BATCH, NAMES, interval=0), "interval=0"),
    (lambda: mixture(N, BATCH, NAMES, draw="weights", weights=(1.0,)), "give one for each of the 3 domains law, code"),
    (lambda: mixture(N, BATCH, NAMES, draw="weights", weights=(0.0, 0.0, 0.0)), "not all 0"),
    (lambda: mixture(N, BATCH, NAMES, weights=(1.0, 1.0, 1.0)), "go with data_policy.draw='weights'"),
  ],
)
def test_what_is_refused(call, message):
  with pytest.raises(UserError, match=message):
    call()


def test_examples_without_domains_or_held_out_ones_are_refused():
  bare = lambda at: Batch(at, at, at)  # noqa: E731
  policy = ddk(N, BATCH, NAMES, interval=2)
  with pytest.raises(ValueError, match="no held-out examples"):
    policy.next(KEY, policy.init(KEY), jnp.int32(0), Look(bare, None, None, size=N))
  control = mixture(N, BATCH, NAMES, interval=2)
  with pytest.raises(ValueError, match=r"no extra\['domain'\]"):
    control.next(KEY, control.init(KEY), jnp.int32(0), Look(bare, None, None, size=N))
