"""DisBack: a generator whose target walks back along the way from its own law to the teacher's."""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jdistill.base import PyTree, UserError, Variables
from jdistill.diffusion import BOTTLENECK
from jdistill.methods.diffusion.dmd2 import Weight, dmd2
from jdistill.methods.knowledge.recipe import Own, OwnInputs, OwnUpdate, Recipe
from jdistill.schema import Count, Range, validated

Guidance = Annotated[float, Range(0, 100)]


class Path(NamedTuple):
  """The degradation path.

  Attributes:
    nodes: parameters with a leading axis of N + 1: the teacher, then ever closer to the first generator.
  """

  nodes: PyTree


@validated("method")
def disback(
  *,
  record_steps: Count = 1000,
  record_interval: Count = 100,
  node_steps: Count = 1000,
  path_kind: Literal["recorded", "linear"] = "recorded",
  ratio: Count = 5,
  sample_steps: Count = 1,
  dm_weight: Weight = 1.0,
  gan_weight: Weight = 0.0,
  critic_weight: Weight = 1e-2,
  normalize: Literal["dmd", "none"] = "dmd",
  teacher_guidance: Guidance = 1.0,
  site: str = BOTTLENECK,
  hidden: Count = 64,
  student_start: Literal["teacher", "random"] = "teacher",
) -> Recipe:
  """Distribution backtracking (DisBack, arXiv 2408.15991): `dmd2` whose teacher moves along a path of networks.

  Degradation: for `record_steps` updates the generator rests, and `fake`, which begins as the teacher, descends the
  denoising loss of its samples. Every `record_interval` updates its parameters become a node of the path
  `s'_0, ..., s'_N`; `s'_0` is the teacher, and `N = record_steps / record_interval`.

  Backtracking: all other updates are those of `dmd2`, in which `s'_{N-1}, ..., s'_1` stand for the teacher,
  `node_steps` updates each, and after them the teacher itself, until the end. `fake` goes on from `s'_N` with its
  optimiser's state. With `N = 1` the teacher is the target throughout: what `fake` begins with is then all that differs
  from `dmd2`.

  The released training script moves its target once and loads no weights into it, as far as we can read; this is the
  paper's algorithm. Target and generator are recorded in one run, so that a path always belongs to its generator.

  Args:
    record_steps: updates of the degradation: it must not converge, or the first targets say little.
    record_interval: updates between two nodes; divides `record_steps`.
    node_steps: updates of `fake` for each node but the teacher.
    path_kind: `"recorded"`, or `"linear"`: `s'_i = s'_0 + i / N (s'_N - s'_0)`, a control that is not in the paper.
    ratio, sample_steps, dm_weight, gan_weight, critic_weight, normalize, teacher_guidance, site, hidden,
      student_start: of `dmd2`. The paper's plain form has `normalize="none"`, its release DMD2's with an adversarial
      part.

  Raises:
    UserError: a `record_interval` that does not divide `record_steps`; in `Recipe.check`, so few updates that the
      teacher never becomes the target; whatever `dmd2` refuses.
  """
  if record_steps % record_interval:
    raise UserError(
      f"method.record_interval={record_interval}: must divide record_steps={record_steps}, whose end is the last node"
    )
  base = dmd2(
    ratio=ratio, sample_steps=sample_steps, dm_weight=dm_weight, gan_weight=gan_weight, critic_weight=critic_weight,
    normalize=normalize, teacher_guidance=teacher_guidance, site=site, hidden=hidden, student_start=student_start,
  )  # fmt: skip
  resting = dmd2(ratio=2, sample_steps=sample_steps)  # whose generator rests in every other update
  count = record_steps // record_interval
  plan = _Plan(record_steps, record_interval, node_steps, count, path_kind, base.own.update, resting.own.update)

  def memory(params: dict[str, PyTree], teachers) -> Path:
    del params
    return Path(jax.tree.map(lambda leaf: jnp.repeat(leaf[None], count + 1, axis=0), teachers[0][1].params))

  own = Own(lambda inputs: _update(plan, inputs), base.own.init, student_start, memory)
  return Recipe({}, own=own, sampler=base.sampler, check=lambda updates: _check(plan, updates))


class _Plan(NamedTuple):
  record_steps: int
  record_interval: int
  node_steps: int
  count: int  # N
  path: str
  base: Callable[[OwnInputs], OwnUpdate]
  resting: Callable[[OwnInputs], OwnUpdate]


def _check(plan: _Plan, updates: int) -> None:
  reached = plan.record_steps + (plan.count - 1) * plan.node_steps
  if reached >= updates:
    raise UserError(
      f"method.node_steps={plan.node_steps}: the teacher becomes the target after {reached} updates, "
      f"{plan.record_steps} of the degradation and {plan.count - 1} nodes of {plan.node_steps}, and there are "
      f"{updates}; lower it, or train longer"
    )


def _update(plan: _Plan, inputs: OwnInputs) -> OwnUpdate:
  due = (inputs.step % plan.record_interval == 0) & (inputs.step <= plan.record_steps)
  place = jnp.minimum(inputs.step // plan.record_interval, plan.count)
  nodes = recorded(inputs.memory.nodes, inputs.params["fake"], place, due)
  used, begun = nodes if plan.path == "recorded" else straight(nodes), inputs.step >= plan.record_steps
  node = target_node(inputs.step - plan.record_steps, plan.count, plan.node_steps)
  like = jax.eval_shape(lambda: _backtracking(plan, inputs, used, node))
  found = lax.cond(
    begun,
    lambda: _filled(_backtracking(plan, inputs, used, node), like),
    lambda: _filled(_recording(plan, inputs), like),
  )
  figures = {"method/node": jnp.where(begun, node, plan.count).astype(jnp.float32)}
  return found._replace(metrics=found.metrics | figures, memory=Path(nodes))


def _recording(plan: _Plan, inputs: OwnInputs) -> OwnUpdate:
  """`fake` follows a generator that rests."""
  roles = {name: inputs.params[name] for name in ("student", "fake")}
  made = plan.resting(inputs._replace(params=roles, step=jnp.ones_like(inputs.step)))
  grads = jax.tree.map(jnp.zeros_like, dict(inputs.params)) | {"fake": made.grads["fake"]}
  return OwnUpdate(made.metrics, grads, {name: name == "fake" for name in grads})


def _backtracking(plan: _Plan, inputs: OwnInputs, nodes: PyTree, node: jax.Array) -> OwnUpdate:
  """An update of the base method with a node in the teacher's place, counted from the end of the degradation."""
  target = Variables(jax.tree.map(lambda leaf: leaf[node], nodes))
  step = jnp.maximum(inputs.step - plan.record_steps, 0)
  return plan.base(inputs._replace(teachers=((inputs.teachers[0][0], target),), step=step))


def recorded(nodes: PyTree, params: PyTree, place: jax.Array, due: jax.Array) -> PyTree:
  """A path `[N + 1, ...]` with these parameters at a place, where they are due."""
  return jax.tree.map(lambda path, new: path.at[place].set(jnp.where(due, new, path[place])), nodes, params)


def straight(nodes: PyTree) -> PyTree:
  """The straight line between the ends of a path `[N + 1, ...]`."""

  def line(leaf: jax.Array) -> jax.Array:
    share = jnp.linspace(0, 1, leaf.shape[0], dtype=leaf.dtype).reshape(-1, *[1] * (leaf.ndim - 1))
    return (1 - share) * leaf[:1] + share * leaf[-1:]

  return jax.tree.map(line, nodes)


def target_node(step: jax.Array, count: int, node_steps: int) -> jax.Array:
  """The place of the target in a path of N + 1 nodes: N - 1 at first, one less every `node_steps`, at last 0.

  Args:
    step: scalar int32, updates of the backtracking; before them, below 0, the first target stands.
    count: N.
    node_steps: updates for each node.
  """
  return jnp.maximum(count - 1 - jnp.maximum(step, 0) // node_steps, 0)


def _filled(made: OwnUpdate, like: OwnUpdate) -> OwnUpdate:
  """An update with the figures and clocks of another one, zero and true where it has none; both stages are one tree."""
  metrics = {name: made.metrics.get(name, jnp.zeros(())) for name in like.metrics}
  moves = {name: jnp.asarray(made.moves.get(name, True)) for name in like.grads}
  return OwnUpdate(metrics, {name: made.grads[name] for name in like.grads}, moves)
