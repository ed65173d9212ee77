"""SSLD: its divergences in NumPy float64, what the teacher mines, and which examples an epoch sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill import schema
from jdistill.base import Batch, Look, Outputs
from jdistill.methods.knowledge import StepOutputs
from jdistill.methods.knowledge.ssld import ssld, ssld_policy

RNG = np.random.default_rng(8)
STUDENT, TEACHER = RNG.normal(size=(5, 4)), 2 * RNG.normal(size=(5, 4))


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def kl(p, q):
  return (p * np.log(p / q)).sum(-1)


def view(labels):
  out = [Outputs(jnp.float32(z), jnp.zeros((5, 2))) for z in (STUDENT, TEACHER)]
  batch = Batch(jnp.zeros((5, 1)), jnp.int32(labels), jnp.arange(5, dtype=jnp.int32))
  return StepOutputs(
    batch=batch, student=out[0], teachers=(out[1],), connectors={}, params={}, memory=(), constants=(),
    where=jnp.ones(5, bool), epoch=jnp.float32(0), key=jax.random.key(0), rows=batch.ids,
  )  # fmt: skip


S, T = softmax(STUDENT), softmax(TEACHER)
WANT = {
  "js": (kl(S, (S + T) / 2) + kl(T, (S + T) / 2)) / 2,
  "jeffreys": (kl(S, T) + kl(T, S)) / 2,
  "soft_ce": -(T * np.log(S)).sum(-1),
  "kl": kl(T, S),
}


@pytest.mark.parametrize("divergence", WANT)
def test_the_divergences_do_not_read_labels(divergence):
  recipe = ssld(divergence=divergence)
  assert list(recipe.terms) == ["divergence"] and recipe.needs == ("teacher",)
  for labels in ([0, 1, 2, 3, 0], [-1] * 5):
    np.testing.assert_allclose(recipe.terms["divergence"].value(view(labels)), WANT[divergence], rtol=1e-5)


PROBABILITIES = np.array(
  [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7], [0.95, 0.05], [0.5, 0.5], [0.1, 0.9]], np.float32
)
LABELS = np.array([0, -1, -1, -1, -1, -1, 1])  # the likeliest of the pool: 4, 2 for class 0 and 1, 3 for class 1


def policy_of(batch_size=4, labels=LABELS, probabilities=PROBABILITIES, junk=(4, 5), **options):
  """The policy, and a look at a teacher that counts how often it is asked."""
  size, asked = len(labels), []
  data = Batch(
    jnp.zeros((size, 1)),
    jnp.int32(labels),
    jnp.arange(size),
    extra={"junk": jnp.isin(jnp.arange(size), jnp.int32(junk))},
  )

  def teacher(positions):
    jax.debug.callback(lambda: asked.append(1))
    return jnp.log(jnp.float32(probabilities))[positions]

  look = Look(lambda i: jax.tree.map(lambda leaf: leaf[i], data), None, teacher)
  return ssld_policy(size, batch_size, **options), look, asked


def first(policy, look, seed=3, state=None, epoch=0):
  state = policy.init(jax.random.key(9)) if state is None else state
  return policy.next(jax.random.key(seed), state, jnp.int32(epoch), look)


@pytest.mark.parametrize(
  ("options", "want"),
  [
    ({"mine": "top_k", "per_class": 1}, [1, 4]),
    ({"mine": "top_k", "per_class": 2}, [1, 2, 3, 4]),
    ({"mine": "none", "per_class": 2}, []),
    ({"mine": "all", "per_class": 2}, [1, 2, 3, 4, 5]),
  ],
)
def test_mining(options, want):
  policy, look, _ = policy_of(**options)
  block, state = first(policy, look)
  np.testing.assert_array_equal(np.flatnonzero(state[1]), want)
  np.testing.assert_array_equal(np.unique(block.index), sorted([0, 6, *want]))


def test_the_teacher_mines_once():
  policy, look, asked = policy_of(per_class=1)
  (one, state) = first(policy, look)
  (two, again) = first(policy, look, seed=4, state=state, epoch=1)
  jax.effects_barrier()
  assert len(asked) == 1
  jax.tree.map(np.testing.assert_array_equal, state, again)
  assert one.metrics == two.metrics and not np.array_equal(one.index, two.index)


def test_random_mining_takes_as_many_of_the_pool():
  labels = np.where(np.arange(60) < 10, 0, -1)
  options = {"labels": labels, "probabilities": RNG.dirichlet(np.ones(3), size=60), "per_class": 5}
  draws = [np.asarray(first(*policy_of(mine="random", random_seed=seed, **options)[:2])[1][1]) for seed in (0, 0, 1)]
  count = np.asarray(first(*policy_of(mine="top_k", **options)[:2])[1][1]).sum()
  assert [draw.sum() for draw in draws] == [count] * 3 and not draws[0][:10].any()
  assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).any()


def test_classes_that_run_short_are_counted():
  block, state = first(*policy_of(per_class=3, predicted_only=True)[:2])
  np.testing.assert_array_equal(np.flatnonzero(state[1]), [1, 2, 3, 4, 5])
  assert float(block.metrics["short"]) == 1.0  # class 1 has two


def test_an_epoch_sees_labelled_and_mined_examples_only_and_fills_all_steps():
  policy, look, _ = policy_of(per_class=1)
  got, _ = first(policy, look)
  assert got.index.shape == (policy.steps, 4) == (2, 4) and np.asarray(got.weight).all()
  counts = np.bincount(np.asarray(got.index).reshape(-1), minlength=7)
  np.testing.assert_array_equal(counts, [2, 2, 0, 0, 2, 0, 2])  # four examples, eight places
  np.testing.assert_allclose([float(got.metrics[k]) for k in ("selected", "mined", "junk")], [4 / 7, 2 / 5, 1 / 2])


def test_labelled_examples_alone():
  got, _ = first(*policy_of(mine="none")[:2])
  np.testing.assert_array_equal(np.unique(got.index), [0, 6])
  assert np.asarray(got.weight).all() and float(got.metrics["mined"]) == 0 and float(got.metrics["junk"]) == 0


def test_a_pool_without_anything_to_train_on_has_no_weight():
  got, _ = first(*policy_of(mine="none", labels=[-1] * 3, probabilities=PROBABILITIES[:3])[:2])
  assert not np.asarray(got.weight).any() and float(got.metrics["selected"]) == 0


def test_options_are_declared():
  assert schema.fields(ssld)["divergence"].choices == ("js", "jeffreys", "soft_ce", "kl")
  found = schema.fields(ssld_policy)
  assert found["mine"].choices == ("top_k", "random", "none", "all") and found["per_class"].low == 1


def test_other_class_counts_are_refused():
  seen = view([0] * 5)
  seen = seen._replace(teachers=(Outputs(jnp.zeros((5, 3)), jnp.zeros((5, 2))),))
  with pytest.raises(ValueError, match="js_divergence"):
    ssld().terms["divergence"].value(seen)
