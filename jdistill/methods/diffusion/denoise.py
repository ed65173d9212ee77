"""Denoisers that learn from data, and samplers that ask them many times."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp

from jdistill import diffusion, losses
from jdistill.base import Network, PyTree, Variables
from jdistill.diffusion import Denoiser, Draws
from jdistill.diffusion import denoise as at
from jdistill.methods.diffusion.parts import asked, denoiser_of, null, shared_sum, shares
from jdistill.methods.knowledge.recipe import Own, OwnInputs, OwnUpdate, Recipe
from jdistill.ops.rows import value_and_grad
from jdistill.schema import Count, Range, Share, validated

Guidance = Annotated[float, Range(0, 100)]
Solver = Literal["heun", "ddim", "euler"]


@validated("method")
def edm(
  *,
  time_weight: Literal["edm", "uniform", "truncated_snr"] = "edm",
  drop_condition: Share = 0.0,
  sample_steps: Count = 40,
  solver: Solver = "heun",
  guidance: Guidance = 1.0,
  copied: bool = False,
) -> Recipe:
  """A denoiser: `w(t) / D |D(x_t, t) - x_0|^2` at the network's own training times (EDM, arXiv 2206.00364, eq. 2).

  Args:
    time_weight: `w`: `"edm"`, `1 / sigma^2 + 1 / sigma_data^2` of the noise level `sigma`; `"uniform"`, 1; or
      `"truncated_snr"`, the larger one of `1 / sigma^2` and 1.
    drop_condition: the share of examples that are shown without their condition, for guidance.
    sample_steps: steps from noise to a sample. `"heun"` asks the denoiser `2 sample_steps - 1` times, the others once
      a step.
    solver: `"heun"` (EDM's, of second order), `"ddim"` or `"euler"`; see `jdistill.diffusion.ode_sample`.
    guidance: scale of classifier-free guidance, for which there must have been `drop_condition`; 1 for none.
    copied: a copy of the teacher that is not trained: the reference for students, in as many steps as they take.
  """

  def update(inputs: OwnInputs) -> OwnUpdate:
    known = denoiser_of(inputs.network)
    key_t, key_eps, key_drop = jax.random.split(inputs.key, 3)
    x0, cond, size = inputs.batch.x, inputs.batch.y, inputs.batch.y.shape
    cond = jnp.where(jax.random.bernoulli(key_drop, drop_condition, size), known.conditions, cond)
    t = known.schedule.sample_t(key_t, size)
    x_t = diffusion.add_noise(known.schedule, x0, jax.random.normal(key_eps, x0.shape, x0.dtype), t)
    rows = {"x": x0, "x_t": x_t, "t": t, "cond": cond, "share": shares(inputs.where)}

    def loss(params: PyTree, rows: dict[str, jax.Array]) -> jax.Array:
      prediction = asked(inputs.network, params, rows["x_t"], rows["t"], rows["cond"]).logits
      values = losses.denoising_loss(prediction, rows["x"], sample_weight(time_weight, known, rows["t"]))
      return shared_sum(values, rows["share"])

    if copied:
      rest, value = jax.tree.map(jnp.zeros_like, inputs.params["student"]), loss(inputs.params["student"], rows)
      return OwnUpdate({"loss/denoise": value}, {"student": rest}, {"student": False})
    value, grad = value_and_grad(loss, inputs.params["student"], rows, inputs.chunk_size)
    return OwnUpdate({"loss/denoise": value}, {"student": grad})

  return Recipe(
    {},
    own=Own(update, start="teacher" if copied else "random"),
    sampler=ode_sampler(sample_steps, solver, guidance),
    needs=("teacher", "labels") if copied else ("labels",),
  )


def sample_weight(kind: str, known: Denoiser, t: jax.Array) -> jax.Array | None:
  """The weights `[B]` of a denoising loss at times `t`, by the name of `edm`; `None` for 1."""
  if kind == "edm":
    return diffusion.edm_weight(known.schedule.noise_ratio(t), known.sigma_data)
  return diffusion.truncated_snr_weight(known.schedule, t) if kind == "truncated_snr" else None


def ode_sampler(steps: int, solver: str, guidance: float):
  """`Recipe.sampler` of a denoiser that is asked in so many steps from noise to data."""

  def sample(network: Network, variables: dict[str, Variables], draws: Draws) -> jax.Array:
    known, params = denoiser_of(network), variables["student"].params
    denoise = at(network, params, draws.cond)
    if guidance != 1:
      denoise = diffusion.guided(denoise, at(network, params, null(known, draws.cond, guidance)), guidance)
    x = diffusion.prior(known.schedule, draws.eps)
    return diffusion.ode_sample(known.schedule, denoise, x, steps, solver=solver)

  return sample
