"""MiniLLM: its terms against NumPy, its gradient against that of whole sequences, rollouts, and what it refuses."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_decoders import END, MODEL, NETWORK, STUDENT, TEACHER, batch, log_probs, sampling
from token_step import COUNTED, MASK, TARGETS, kl, log_softmax, reduced, step
from token_step import STUDENT as Z_S
from token_step import TEACHER as Z_T

from jdistill import language, losses
from jdistill.base import UserError
from jdistill.language import mixture
from jdistill.methods.language.minillm import minillm
from jdistill.methods.language.responses import respond

OLD = -np.random.default_rng(8).uniform(0.1, 3, (3, 4))


def here():
  return step(extra={"mask": jnp.asarray(MASK), "old_log_probs": jnp.float32(OLD)})


def taken(z):
  return np.take_along_axis(log_softmax(z), TARGETS[..., None], -1)[..., 0]


def advantages(discount, own, length_norm, whiten, scale, bound):
  """Token by token, in float64."""
  rewards, found = np.clip((taken(Z_T) - OLD) / scale, -bound, bound), np.zeros((3, 4))
  for b in range(3):
    places = np.flatnonzero(COUNTED[b])
    for i, t in enumerate(places):
      later = rewards[b, places[i if own else i + 1 :]]
      found[b, t] = np.sum(discount ** np.arange(len(later)) * later) / (max(len(later), 1) if length_norm else 1)
  if whiten == "none":
    return found
  seen = found[COUNTED] if whiten == "tokens" else found
  return np.where(COUNTED, (found - seen.mean()) / np.sqrt(seen.var() + 1e-8), 0)


CASES = [
  {},
  {"whiten": "padded", "discount": 0.9},
  {"whiten": "none", "length_norm": False, "returns": "next", "reward_bound": 0.8},
  {"clip_weighted": False, "teacher_share": 0.6, "reward_scale": 2.0},
  {"discount": 0.0, "whiten": "none"},
]


@pytest.mark.parametrize("options", CASES)
def test_the_long_term_is_the_card_s(options):
  given = {"discount": 1.0, "returns": "own", "length_norm": True, "whiten": "tokens", "clip_weighted": True}
  given |= {"teacher_share": 0.2, "reward_scale": 0.5, "reward_bound": 100.0} | options
  a = advantages(
    given["discount"], given["returns"] == "own", given["length_norm"], given["whiten"], given["reward_scale"],
    given["reward_bound"],
  )  # fmt: skip
  share = given["teacher_share"]
  weight = np.exp(OLD) / ((1 - share) * np.exp(OLD) + share * np.exp(taken(Z_T)))
  ratio, after = np.exp(taken(Z_S) - OLD), weight
  if given["clip_weighted"]:
    ratio, after = ratio * weight, 1.0
  want = reduced(-after * np.minimum(ratio * a, np.clip(ratio, 0.8, 1.2) * a))
  recipe = minillm(lm_weight=0.0, **options)
  assert float(recipe.terms["long"].value(here())) == pytest.approx(want, rel=2e-5, abs=1e-6)
  single = recipe.terms["single"].value(here())
  assert float(single) == pytest.approx(reduced(kl(log_softmax(Z_S), log_softmax(Z_T))), rel=1e-5)


def test_figures():
  shown = minillm(lm_weight=0.0, reward_bound=2.0).metrics(here())
  rewards = np.clip((taken(Z_T) - OLD) / 0.5, -2, 2)
  assert float(shown["reward"]) == pytest.approx(reduced(rewards), rel=1e-5)
  assert float(shown["bounded"]) == pytest.approx(reduced(1.0 * (np.abs(rewards) >= 2)), rel=1e-6)
  assert float(shown["length"]) == pytest.approx(COUNTED.sum() / 2)


def test_the_text_of_the_data_has_labels_and_teacher():
  term = minillm(lm_weight=2.0, lm_teacher=0.25).terms["lm"]
  found = term.value(step(extra={"mask": jnp.zeros((3, 4), bool), "data_mask": jnp.asarray(COUNTED)}))
  want = reduced(0.75 * -taken(Z_S) + 0.25 * kl(log_softmax(Z_T), log_softmax(Z_S)))
  assert term.weight == 2.0 and float(found) == pytest.approx(want, rel=1e-5)


def test_both_terms_are_the_gradient_of_the_divergence_of_sequences(x64):
  """All sequences of three tokens, weighted by their probability: on the policy the decomposition is exact."""
  size, rng = 3, np.random.default_rng(0)
  tokens = jnp.array(list(itertools.product(range(size), repeat=3)))
  tables = [jnp.asarray(rng.normal(size=(1 + size + size**2, size))) for _ in range(2)]  # a row of logits per prefix
  prefix = jnp.stack([0 * tokens[:, 0], 1 + tokens[:, 0], 1 + size + size * tokens[:, 0] + tokens[:, 1]], 1)

  def chosen(table):
    return -losses.cross_entropy(table[prefix], tokens)

  def divergence(table):
    q, p = chosen(table).sum(1), chosen(tables[1]).sum(1)
    return jnp.sum(jnp.exp(q) * (q - p))

  old = chosen(tables[0])

  def surrogate(table, own, single):
    rewards = losses.log_ratio_rewards(old, chosen(tables[1]), scale=1.0)
    returns = losses.discounted_returns(rewards, own=own)
    long = losses.clipped_policy_loss(chosen(table), old, returns, clip=0.2)
    exact = losses.reverse_kl(table[prefix], tables[1][prefix])
    return jnp.sum(jnp.exp(old.sum(1))[:, None] * (long + single * exact))

  want = jax.grad(divergence)(tables[0])
  # "next" with the single-step term, and "own" without it, whose own reward is the sampled form of that term
  for own, single in ((False, 1.0), (True, 0.0)):
    np.testing.assert_allclose(jax.grad(surrogate)(tables[0], own, single), want, atol=1e-12)
  both = jax.grad(surrogate)(tables[0], True, 1.0)
  assert np.abs(both - want).max() > 0.01  # the card's default weighs the next token twice


def test_rollouts_are_the_mixture_s_and_are_learned_several_times():
  recipe = minillm(max_new=6, end_token=END, rollouts=6, reuse=2, teacher_share=0.4)
  sample = jax.jit(lambda key, memory: recipe.sampled_batch(key, sampling(memory)))
  memory = recipe.memory.init(jax.random.key(0), 9, batch())
  sizes = []
  for n in range(3):
    key = jax.random.key(n)
    new, memory = sample(key, memory)
    sizes.append(int(memory["buffer"].size))
    if n % 2 == 0:
      key_write, _ = jax.random.split(key)
      both = mixture(MODEL, MODEL, 0.4)
      options = {"prompt": 0, "max_new": 6, "temperature": 1.0, "end_token": END}
      want, _ = respond(key_write, both, (STUDENT, TEACHER), batch(), **options)
      fresh = set(map(tuple, np.asarray(want.x.tokens)[[0, 1, 3]]))  # the third is padding
      held = set(map(tuple, np.asarray(memory["buffer"].rows["x"].tokens)))
      assert fresh <= held
    rows = np.asarray(new.x.tokens)
    assert set(map(tuple, rows[:4])) <= held
    np.testing.assert_array_equal(rows[4:], batch().x.tokens)
    mask = np.asarray(new.extra["mask"])
    old = log_probs(STUDENT, language.Rows(*(leaf[:4] for leaf in new.x)), new.y[:4])
    np.testing.assert_allclose(np.asarray(new.extra["old_log_probs"])[:4][mask[:4]], old[mask[:4]], rtol=1e-4)
    np.testing.assert_array_equal(new.weight, [1, 1, 1, 1, 1, 1, 0, 1])
    assert mask[:4].any(1).all() and not mask[4:].any()
  assert sizes == [3, 3, 6]


def test_what_it_refuses():
  with pytest.raises(UserError, match=r"method\.teacher_share=1"):
    minillm(teacher_share=1.0)
  with pytest.raises(ValueError, match=r"method\.rollouts=3: holds no batch of 4; raise it"):
    minillm(rollouts=3).memory.init(jax.random.key(0), 9, batch())
  recipe = minillm(max_new=6, end_token=END, rollouts=4)
  memory = recipe.memory.init(jax.random.key(0), 9, batch())
  with pytest.raises(ValueError, match="minillm: its teacher writes, and this one cannot"):
    recipe.sampled_batch(jax.random.key(0), sampling(memory, teachers=()))
  assert NETWORK.language is MODEL
