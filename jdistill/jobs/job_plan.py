"""What a job would cost, from shapes alone, and its update as a compiled program."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdistill.base import PyTree
from jdistill.jobs import job as job_lib
from jdistill.methods.knowledge import predictor
from jdistill.reporting import flops, units
from jdistill.runs.run import Run
from jdistill.training import parallel
from jdistill.training.policy_stream import Row


class Plan(NamedTuple):
  """A job, traced.

  Attributes:
    parameters: of the network.
    extra: parameters of everything else that learns.
    steps: updates of one seed, at most.
    state_bytes: of everything that changes, for one seed.
    flops: of one update of one seed; NaN where it cannot be traced before its constants are computed.
    teacher_flops: those of them in which teachers look at the batch.
    once: those of asking the teachers about all examples, where that is stored.
    advice: what the recipe has to say about so many updates.
  """

  parameters: int
  extra: int
  steps: int
  state_bytes: int
  flops: float
  teacher_flops: float = 0.0
  once: float = 0.0
  advice: str = ""

  def cost(self, seeds: int) -> str:
    """The work of so many seeds, as people read it."""
    text = flops.text(self.flops, self.steps, seeds)
    if text and self.teacher_flops:
      each, all_ = (units.amount(self.teacher_flops * times, "FLOP") for times in (1, self.steps * seeds))
      text += f"; of which teachers {each} a step, {all_} in all"
    return text + (f"; teachers {units.amount(self.once, 'FLOP')} once" if text and self.once else "")


def _shapes(tree: PyTree) -> PyTree:
  return jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), jax.dtypes.canonicalize_dtype(a.dtype)), tree)


def _traced(run: Run, job: job_lib.Job):
  """The method, and shapes of a key, its state and one input."""
  prepared = job_lib.prepare(run, job._replace(members=job.members[:1], seeds=job.seeds[:1]))
  index, weight = (jax.ShapeDtypeStruct((prepared.batch_size,), dtype) for dtype in (jnp.int32, jnp.float32))
  step, epoch = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)
  inputs = jax.eval_shape(job_lib.join, _shapes(prepared.shared), Row(index, weight, epoch, step))
  key = jax.eval_shape(lambda: jax.random.key(0))
  return prepared, key, jax.eval_shape(prepared.method.init, key, inputs), inputs


def plan_of(run: Run, job: job_lib.Job, draws: PyTree | None = None) -> Plan:
  """Traces a job, and what its finished student makes of a first row of `draws`, where it is a sampler.

  Raises:
    ValueError: what networks, connectors and losses refuse, or a recipe that needs more updates.
  """
  prepared, key, state, inputs = _traced(run, job)
  steps = prepared.policy.steps * job.train["epochs"]
  job.recipe.check(steps)
  if job.recipe.sampler is not None and draws is not None:
    row = _shapes(jax.tree.map(lambda leaf: leaf[:1], draws))
    trained = jax.eval_shape(prepared.method.result, state)
    jax.eval_shape(predictor(job.network, job.recipe), trained, job.constants, row)
  known = job.recipe.prepare is None  # else the update wants constants that are computed from real outputs
  work = flops.count(prepared.method.step, key, state, inputs) if known else float("nan")
  # an update of its own asks its teachers about what it makes itself, which is among the work above
  online = known and job.targets is not None and job.targets.replay is None and job.recipe.own is None
  asked = (inputs.targets, key, inputs.batch, None, inputs.step)
  teachers = flops.count(job.targets.targets, *asked) if online else 0.0
  sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(role.params)) for name, role in state.roles.items()}
  held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
  own = sizes.pop("student")
  return Plan(own, sum(sizes.values()), steps, held, work, teachers, advice=job.recipe.advice(steps))


def compile_update(run: Run, job: job_lib.Job, mesh: Mesh, *, divide: bool = False) -> jax.stages.Compiled:
  """The update of one seed, its batch spread over the devices of a mesh, which need not be there.

  With `divide` the state and what teachers need are divided among the devices, too, in the place of whole copies.
  """
  prepared, key, state, inputs = _traced(run, job)

  def step(key, state, inputs):
    rows = parallel.constrain_rows(mesh, inputs.batch)
    return prepared.method.step(key, state, inputs._replace(batch=rows))

  if not divide:
    return parallel.spread_step(step, mesh, "jit", donate_argnums=(1,)).lower(key, state, inputs).compile()
  same = NamedSharding(mesh, PartitionSpec())
  own, targets = parallel.divided(state, mesh), parallel.divided(inputs.targets, mesh)
  given = jax.tree.map(lambda leaf: same, inputs)._replace(targets=targets)
  spread = jax.jit(step, in_shardings=(same, own, given), out_shardings=(own, same), donate_argnums=(1,))
  return spread.lower(key, state, inputs).compile()
