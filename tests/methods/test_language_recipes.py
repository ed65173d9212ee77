"""Recipes of language models: their losses in NumPy float64 under every reduction, masks, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from token_step import COUNTED, STUDENT, TEACHER, cross_entropy, kl, log_softmax, reduced, step

from jdistill.base import UserError
from jdistill.methods.language import divergences as recipes

REDUCTIONS = ("token_mean", "sequence_mean", "sequence_sum")


def mixed(a, b, share):
  return np.log(share * np.exp(a) + (1 - share) * np.exp(b))


def formula(name, temperature=1.0, number=None):
  """`[3, 4]` of a divergence."""
  p, q = log_softmax(TEACHER / temperature), log_softmax(STUDENT / temperature)
  if name == "jsd":
    m = mixed(p, q, number)
    out = number * kl(p, m) + (1 - number) * kl(q, m)
  else:
    out = {
      "fkl": lambda: kl(p, q),
      "rkl": lambda: kl(q, p),
      "skew_kl": lambda: kl(p, mixed(p, q, number)),
      "skew_rkl": lambda: kl(q, mixed(q, p, number)),
      "tvd": lambda: np.abs(np.exp(p) - np.exp(q)).sum(-1) / 2,
    }[name]()
  return temperature**2 * out


def total(recipe, **changes):
  """The loss as the trainer adds it up; every term is a scalar of the batch."""
  values = {name: term.value(step(**changes)) for name, term in recipe.terms.items()}
  assert all(value.shape == () for value in values.values())
  return sum(float(recipe.terms[name].weight) * float(value) for name, value in values.items())


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_sft_is_the_cross_entropy_of_the_tokens_that_count(reduction):
  recipe = recipes.sft(reduction=reduction)
  assert recipe.needs == ("labels",) and list(recipe.terms) == ["ce"]
  assert total(recipe) == pytest.approx(reduced(cross_entropy(), reduction), rel=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("fkl", {}),
    ("rkl", {}),
    ("jsd", {"beta": 0.3}),
    ("skew_kl", {"skew": 0.2}),
    ("skew_rkl", {"skew": 0.2}),
    ("tvd", {}),
  ],
)
def test_a_divergence_is_its_formula(name, options, reduction):
  recipe = getattr(recipes, name)(temperature=2.0, ce_weight=0.25, kd_weight=0.5, reduction=reduction, **options)
  want = 0.25 * reduced(cross_entropy(), reduction)
  want += 0.5 * reduced(formula(name, 2.0, *options.values()), reduction)
  assert recipe.needs == ("teacher",) and list(recipe.terms) == ["ce", name]
  assert total(recipe) == pytest.approx(want, rel=1e-4)


def test_adaptive_kl_lies_between_the_two_divergences_and_has_their_weight():
  p, q = np.exp(log_softmax(TEACHER)), np.exp(log_softmax(STUDENT))
  values = np.zeros(p.shape[:2])
  for place in np.ndindex(values.shape):
    order = np.argsort(-p[place])
    head = (np.cumsum(p[place][order]) <= 0.5) | (np.arange(5) == 0)
    gap = np.abs(p[place] - q[place])[order]
    share = gap[head].sum() / gap.sum()
    both = kl(np.log(p[place]), np.log(q[place])), kl(np.log(q[place]), np.log(p[place]))
    values[place] = share * both[0] + (1 - share) * both[1]
  assert total(recipes.akl()) == pytest.approx(reduced(values), rel=1e-4)


def test_plain_distillation_has_no_labels_unless_they_are_weighted():
  assert total(recipes.fkl()) == pytest.approx(reduced(formula("fkl")), rel=1e-4)


def test_what_does_not_count_reaches_neither_value_nor_gradient():
  recipe = recipes.rkl(ce_weight=1.0)
  wild = np.where(COUNTED[..., None], STUDENT, np.nan)

  def value(student):
    here = step()._replace(student=step().student._replace(logits=student))
    return sum(term.value(here) for term in recipe.terms.values())

  assert float(value(jnp.float32(wild))) == pytest.approx(float(value(jnp.float32(STUDENT))), rel=1e-6)
  gradient = np.asarray(jax.grad(value)(jnp.float32(wild)))
  assert np.isfinite(gradient).all()
  assert (gradient[~COUNTED] == 0).all() and (np.abs(gradient[COUNTED]).sum(-1) > 0).all()


def test_without_a_mask_all_tokens_of_real_examples_count():
  values = formula("fkl")[:2]
  assert total(recipes.fkl(), extra={}) == pytest.approx(values.mean(), rel=1e-4)


def test_a_task_of_images_is_refused():
  with pytest.raises(ValueError, match=r"labels \(3,\) and logits .*: this method learns the next token of every posi"):
    total(recipes.sft(), y=jnp.zeros(3, jnp.int32))


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("jsd", {"beta": 0.0}, r"method\.beta=0"),
    ("skew_kl", {"skew": 1.0}, r"method\.skew=1"),
    ("fkl", {"temperature": 0.0}, r"method\.temperature=0"),
    ("fkl", {"reduction": "mean"}, r"method\.reduction='mean'"),
  ],
)
def test_options_out_of_range(name, options, message):
  with pytest.raises(UserError, match=message):
    getattr(recipes, name)(**options)
