"""Students that learn the next token from labels, or from a teacher by a divergence between two distributions.

All see the text of the data. `q` is the student's distribution of the next token, `p` the teacher's; both are softmaxes
at `temperature`, and the divergence is multiplied by its square. `reduction` is one of `jdistill.losses.reduce_tokens`.
"""

from typing import Annotated

import jax

from jdistill import losses
from jdistill.losses.divergence import SUMMED
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs
from jdistill.methods.language.terms import Reduction, Temperature, Weight, next_token_term, taught
from jdistill.schema import Range, Share, Traced, validated

Inner = Annotated[float, Range(1e-6, 1 - 1e-6), Traced]  # a share of which both parts are there


@validated("method")
def sft(*, reduction: Reduction = "token_mean") -> Recipe:
  """Cross entropy with the next token, without a teacher (supervised fine-tuning, arXiv 2203.02155).

  Args:
    reduction: see the module.
  """
  return Recipe({"ce": next_token_term(1.0, reduction)}, needs=("labels",))


def _diverging(name: str, kind: str, ce_weight, kd_weight, reduction, **numbers) -> Recipe:
  def values(step: StepOutputs, where: jax.Array) -> jax.Array:
    return losses.token_divergence(step.student.logits, step.teacher.logits, kind=kind, where=where, **numbers)

  chunks = {"kind": kind} | numbers if kind in SUMMED else None
  return taught(name, values, ce_weight=ce_weight, kd_weight=kd_weight, reduction=reduction, chunks=chunks)


@validated("method")
def fkl(
  *,
  temperature: Temperature = 1.0,
  ce_weight: Weight = 0.0,
  kd_weight: Weight = 1.0,
  reduction: Reduction = "token_mean",
) -> Recipe:
  """`ce_weight CE + kd_weight T^2 KL(p || q)` per token: word-level distillation (arXiv 1606.07947).

  Args:
    temperature, reduction: see the module.
    ce_weight, kd_weight: of labels and teacher.
  """
  return _diverging("fkl", "forward_kl", ce_weight, kd_weight, reduction, temperature=temperature)


@validated("method")
def rkl(
  *,
  temperature: Temperature = 1.0,
  ce_weight: Weight = 0.0,
  kd_weight: Weight = 1.0,
  reduction: Reduction = "token_mean",
) -> Recipe:
  """`ce_weight CE + kd_weight T^2 KL(q || p)` per token (MiniLLM, arXiv 2306.08543, without its samples).

  MiniLLM minimises the reverse KL of whole sequences that the student writes, by policy gradients; this is the part of
  it that needs no samples, a baseline of TAID and DistiLLM.

  Args:
    temperature, reduction: see the module.
    ce_weight, kd_weight: of labels and teacher.
  """
  return _diverging("rkl", "reverse_kl", ce_weight, kd_weight, reduction, temperature=temperature)


@validated("method")
def akl(
  *,
  head_mass: Annotated[Share, Traced] = 0.5,
  temperature: Temperature = 1.0,
  ce_weight: Weight = 0.0,
  kd_weight: Weight = 1.0,
  reduction: Reduction = "token_mean",
) -> Recipe:
  """`ce_weight CE + kd_weight T^2 (w KL(p || q) + (1 - w) KL(q || p))` per token (arXiv 2404.02657).

  `w` is the share of `sum |p - q|` that lies in the teacher's head; see `jdistill.losses.adaptive_kl`.

  Args:
    head_mass: of the teacher's likeliest tokens that are its head.
    temperature, reduction: see the module.
    ce_weight, kd_weight: of labels and teacher.
  """
  return _diverging("akl", "adaptive_kl", ce_weight, kd_weight, reduction, temperature=temperature, head_mass=head_mass)


@validated("method")
def jsd(
  *,
  beta: Inner = 0.5,
  temperature: Temperature = 1.0,
  ce_weight: Weight = 0.0,
  kd_weight: Weight = 1.0,
  reduction: Reduction = "token_mean",
) -> Recipe:
  """`ce_weight CE + kd_weight T^2 JSD_beta(p, q)` per token, on the text of the data (GKD, arXiv 2306.13649).

  `JSD_beta = beta KL(p || m) + (1 - beta) KL(q || m)` with `m = beta p + (1 - beta) q`. It vanishes towards both ends
  of `beta`, so that a sweep changes the scale of the loss as well: Adam hardly sees it, SGD does.

  Args:
    beta: the teacher's share of the mixture.
    temperature, reduction: see the module.
    ce_weight, kd_weight: of labels and teacher.
  """
  return _diverging("jsd", "jsd", ce_weight, kd_weight, reduction, temperature=temperature, beta=beta)


@validated("method")
def skew_kl(
  *,
  skew: Inner = 0.1,
  temperature: Temperature = 1.0,
  ce_weight: Weight = 0.0,
  kd_weight: Weight = 1.0,
  reduction: Reduction = "token_mean",
) -> Recipe:
  """`ce_weight CE + kd_weight T^2 KL(p || skew p + (1 - skew) q)` per token (DistiLLM, arXiv 2402.03898).

  Without DistiLLM's replay buffer of texts that the student writes.

  Args:
    skew: the teacher's share of the mixture.
    temperature, reduction: see the module.
    ce_weight, kd_weight: of labels and teacher.
  """
  return _diverging("skew_kl", "skew_kl", ce_weight, kd_weight, reduction, temperature=temperature, skew=skew)


@validated("method")
def skew_rkl(
  *,
  skew: Inner = 0.1,
  temperature: Temperature = 1.0,
  ce_weight: Weight = 0.0,
  kd_weight: Weight = 1.0,
  reduction: Reduction = "token_mean",
) -> Recipe:
  """`ce_weight CE + kd_weight T^2 KL(q || (1 - skew) p + skew q)` per token (DistiLLM, arXiv 2402.03898).

  Without DistiLLM's replay buffer of texts that the student writes.

  Args:
    skew: the student's share of the mixture.
    temperature, reduction: see the module.
    ce_weight, kd_weight: of labels and teacher.
  """
  return _diverging("skew_rkl", "skew_reverse_kl", ce_weight, kd_weight, reduction, temperature=temperature, skew=skew)


@validated("method")
def tvd(
  *,
  temperature: Temperature = 1.0,
  ce_weight: Weight = 0.0,
  kd_weight: Weight = 1.0,
  reduction: Reduction = "token_mean",
) -> Recipe:
  """`ce_weight CE + kd_weight T^2 / 2 sum |p - q|` per token: total variation (arXiv 2307.15190).

  The paper decomposes the distance of whole sequences and samples from both models; this is its loss of a step, on the
  text of the data.

  Args:
    temperature, reduction: see the module.
    ce_weight, kd_weight: of labels and teacher.
  """
  return _diverging("tvd", "total_variation", ce_weight, kd_weight, reduction, temperature=temperature)
