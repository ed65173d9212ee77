"""The one builder of students: recipe, network, teachers and optimiser become a `Method` whose step is an epoch."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jdistill.augment import identity
from jdistill.base import Augmentation, Batch, Key, Method, Metrics, Network, Outputs, PyTree, Variables
from jdistill.losses.compose import weighted_sum
from jdistill.methods.knowledge.order import look, shuffled
from jdistill.methods.knowledge.outer import outer_gradient
from jdistill.methods.knowledge.recipe import Recipe, StepOutputs
from jdistill.methods.roles import Role, init_roles, update_roles

STUDENT = "student"
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Epoch(NamedTuple):
  """What one epoch is made from. All leaves are arrays, so that none is a constant of the compiled program.

  Attributes:
    number: scalar int32, from 0.
    data: all examples, shared by students that train side by side.
    members: `[n]` int32, positions in `data` of the examples that this student may use.
    teacher: `Teacher.arrays`.
    constants: what `Recipe.prepare` made.
    held_out: examples for an outer update, or `None`.
    start: `Variables` that this student starts from; `None` draws new ones.
    options: settings of the method that are arguments of the program, for `student_method`'s `rebuild`.
  """

  number: jax.Array
  data: Batch
  members: jax.Array
  teacher: PyTree = ()
  constants: PyTree = ()
  held_out: Batch | None = None
  start: Variables | None = None
  options: Mapping[str, jax.Array] = {}


class StudentState(NamedTuple):
  """Everything that changes while a student trains.

  Attributes:
    roles: `"student"`, the connectors and an outer role, each with its optimiser's state.
    stats: running statistics by role.
    ema: averaged `Variables` of the student; `()` without averaging.
    memory: of the recipe; `()` without.
  """

  roles: dict[str, Role]
  stats: dict[str, PyTree]
  ema: PyTree
  memory: PyTree


class Trained(NamedTuple):
  """A finished student.

  Attributes:
    variables: by role: `"student"` (the average, if one was kept) and the parts that its predictions need.
  """

  variables: dict[str, Variables]


def student_method(
  network: Network,
  recipe: Recipe,
  *,
  optimizer: optax.GradientTransformation,
  batch_size: int,
  teacher: Callable[[PyTree, jax.Array, jax.Array], tuple[Outputs, ...]] | None = None,
  optimizers: Mapping[str, optax.GradientTransformation] | None = None,
  augment: Augmentation = identity(),  # noqa: B008  (immutable)
  ema_decay: float | None = None,
  precision: str = "float32",
  constrain: Callable[[PyTree], PyTree] = lambda batch: batch,
  rebuild: Callable[[Mapping[str, jax.Array]], Recipe] | None = None,
) -> Method:
  """Builds the training of one student.

  Every step draws a batch without replacement, augments it, shows it to student and teachers
  (`Recipe.augmented_inputs`), and descends `sum_k w_k(epoch) L_k` in the parameters of student and connectors. The
  incomplete last batch of an epoch is left out; its examples come in another order next time.

  Args:
    network: the student.
    recipe: the method.
    optimizer: of the student and of every role without one of its own (here or in `Outer.optimizer`); its schedules
      count steps.
    batch_size: examples per step; all of them where there are fewer.
    teacher: `Teacher.outputs`; `None` for recipes without a teacher.
    optimizers: by role, where they differ.
    augment: drawn anew for every image of every step; student and teachers see the same draw.
    ema_decay: keeps the average `decay * average + (1 - decay) * student` and gives that as the result.
    precision: in which type networks compute, `"float32"` or `"bfloat16"`; parameters, statistics and losses stay in
      float32.
    constrain: put around every batch, such as a sharding constraint.
    rebuild: `recipe` with `Epoch.options` in place of some of its numbers, so that one compiled program serves all
      their values; of the same structure as `recipe`.

  Returns:
    A `Method`: `init(key, Epoch)`, `step(key, state, Epoch)` runs one epoch, `result(state) -> Trained`.

  Raises:
    ValueError: an unknown precision; at trace time, whatever the losses refuse.
  """
  if precision not in PRECISIONS:
    raise ValueError(f"precision={precision!r}: unknown; choose one of {', '.join(PRECISIONS)}")
  dtype = PRECISIONS[precision]
  own = dict(optimizers or {})
  taught = teacher or (lambda arrays, x, ids: ())

  def by_role(recipe: Recipe, names) -> dict[str, optax.GradientTransformation]:
    outer = recipe.outer
    special = {outer.role: outer.optimizer} if outer is not None and outer.optimizer is not None else {}
    return {name: own.get(name, special.get(name, optimizer)) for name in names}

  def forward(params, stats, x: jax.Array, key: Key, train: bool) -> Outputs:
    return network.apply(_cast(params, dtype), _cast(x, dtype), train=train, rngs={"dropout": key}, stats=stats)

  def init(key: Key, epoch: Epoch) -> StudentState:
    # the student's own key does not depend on what else there is: methods are compared from the same start
    keys = {name: jax.random.fold_in(key, n) for n, name in enumerate([STUDENT, "outer", "memory", *recipe.connectors])}
    first = _rows(epoch.data, epoch.members[: min(batch_size, epoch.members.shape[0])])
    x, x_teacher = recipe.augmented_inputs(key, first)
    variables = {STUDENT: network.init(keys[STUDENT]) if epoch.start is None else Variables(*epoch.start)}
    student = network.apply(variables[STUDENT].params, x, stats=variables[STUDENT].stats)
    teachers = taught(epoch.teacher, x_teacher, first.ids)
    for name, part in recipe.connectors.items():
      variables[name] = part.init(keys[name], student, teachers)
    params = {name: value.params for name, value in variables.items()}
    outer = recipe.outer
    if outer is not None:
      params[outer.role] = outer.init(keys["outer"], student, teachers)
    memory = recipe.memory.init(keys["memory"], epoch.data.ids.shape[0]) if recipe.memory else ()
    ema = variables[STUDENT] if ema_decay is not None else ()
    stats = {name: value.stats for name, value in variables.items()}
    return StudentState(init_roles(by_role(recipe, params), params), stats, ema, memory)

  def one_step(recipe: Recipe, epoch: Epoch, key: Key, state: StudentState, rows, where, now):
    key_augment, key_view, key_net, key_term, key_outer = jax.random.split(key, 5)
    outer = recipe.outer
    batch = constrain(_rows(epoch.data, rows))
    pixels = augment.apply(augment.sample(key_augment, batch.x.shape), batch.x)
    x, x_teacher = recipe.augmented_inputs(key_view, batch._replace(x=pixels))
    teachers = lax.stop_gradient(taught(epoch.teacher, x_teacher, batch.ids))
    params = {name: role.params for name, role in state.roles.items()}

    def loss(params: Mapping[str, PyTree]):
      student = _in_passes(forward, recipe.passes, params[STUDENT], state.stats[STUDENT], x, key_net)
      values, stats = {}, {STUDENT: student.stats}
      for number, (name, part) in enumerate(recipe.connectors.items()):
        variables = Variables(params[name], state.stats[name])
        part_key = jax.random.fold_in(key_net, number + 1)
        values[name], stats[name] = part.apply(variables, student, teachers, train=True, key=part_key)
      view = StepOutputs(
        batch, student, teachers, values, params, state.memory, epoch.constants, where, now, key_term, rows
      )
      losses = {name: term.value(view) for name, term in recipe.terms.items()}
      weights = {name: term.weight for name, term in recipe.terms.items()}
      total, logs = weighted_sum(losses, weights, step=now, where=where)
      memory = lax.stop_gradient(recipe.memory.update(view)) if recipe.memory else ()
      shown = {f"loss/{name}": value for name, value in logs.items()}
      if recipe.metrics is not None:
        found = lax.stop_gradient(recipe.metrics(view))
        shown |= {f"method/{name}": jnp.asarray(value, jnp.float32) for name, value in found.items()}
      return total, (shown, stats, memory)

    logs, roles = {}, dict(state.roles)
    if outer is not None and outer.through:
      logs, grads = outer_gradient(outer, epoch.held_out, loss, params, state.stats[STUDENT], forward, key_outer, now)
      roles |= update_roles(by_role(recipe, [outer.role]), roles, {outer.role: grads})
    params = {name: role.params for name, role in roles.items()}
    learners = [name for name in params if outer is None or name != outer.role]
    fixed = {name: value for name, value in params.items() if name not in learners}
    grads, (terms, stats, memory) = jax.grad(lambda own: loss(own | fixed), has_aux=True)(
      {name: params[name] for name in learners}
    )
    moves = {name: recipe.trainable[name](now) if name in recipe.trainable else True for name in learners}
    roles = update_roles(by_role(recipe, roles), roles, grads, moves)
    ema = state.ema
    if ema_decay is not None:
      new = Variables(roles[STUDENT].params, stats[STUDENT])
      ema = jax.tree.map(lambda a, b: ema_decay * a + (1 - ema_decay) * b, ema, new)
    return StudentState(roles, stats, ema, memory), logs | terms

  def deployed(recipe: Recipe, epoch: Epoch, state: StudentState) -> Callable[[jax.Array], jax.Array]:
    variables = {name: Variables(state.roles[name].params, state.stats[name]) for name in (STUDENT, *recipe.keeps)}

    def logits(x: jax.Array) -> jax.Array:
      out = forward(variables[STUDENT].params, variables[STUDENT].stats, x, jax.random.key(0), False)
      return recipe.predict(out, variables, epoch.constants)

    return logits

  def step(key: Key, state: StudentState, epoch: Epoch) -> tuple[StudentState, Metrics]:
    current = recipe if rebuild is None else rebuild(epoch.options)
    key_order, key_steps = jax.random.split(key)
    size = min(batch_size, epoch.members.shape[0])
    if current.order is None:
      order = shuffled(key_order, epoch.members, size)
    else:
      teacher_logits = lambda x, ids: taught(epoch.teacher, x, ids)[0].logits  # noqa: E731
      looks = look(epoch.data, deployed(current, epoch, state), teacher_logits, epoch.constants)
      order = current.order(key_order, epoch.number, looks, epoch.members, size)
    steps = order.indices.shape[0]

    def body(state, row):
      indices, where, number = row
      now = epoch.number.astype(jnp.float32) + number.astype(jnp.float32) / steps
      new, logs = one_step(current, epoch, jax.random.fold_in(key_steps, number), state, indices, where, now)
      if current.order is not None:
        some = jnp.any(where)
        new = _if_any(some, new, state)
        logs = {name: jnp.where(some, value, 0.0) for name, value in logs.items()}
      return new, logs

    state, logs = lax.scan(body, state, (order.indices, order.mask, jnp.arange(steps)))
    # the mean over steps with examples; of an epoch without any it is 0: no number went wrong, and `order` tells
    counted = jnp.maximum(jnp.sum(jnp.any(order.mask, axis=1)), 1).astype(jnp.float32)
    metrics = {name: jnp.sum(values) / counted for name, values in logs.items()}
    return state, metrics | {f"order/{name}": value for name, value in order.metrics.items()}

  def result(state: StudentState) -> Trained:
    variables = {name: Variables(state.roles[name].params, state.stats[name]) for name in (STUDENT, *recipe.keeps)}
    if ema_decay is not None:
      variables[STUDENT] = state.ema
    return Trained(variables)

  return Method(init, step, result)


def predictor(network: Network, recipe: Recipe) -> Callable[[Trained, PyTree, jax.Array], jax.Array]:
  """The finished student as a function `(trained, constants, x) -> logits`, in evaluation mode."""

  def predict(trained: Trained, constants: PyTree, x: jax.Array) -> jax.Array:
    params, stats = trained.variables[STUDENT]
    return recipe.predict(network.apply(params, x, stats=stats), trained.variables, constants)

  return predict


def _in_passes(forward: Callable[..., Outputs], passes: int, params, stats, x: jax.Array, key: Key) -> Outputs:
  """The student in training mode on equal parts of `x` in turn; running statistics go from one to the next."""
  if passes == 1:
    return forward(params, stats, x, key, True)
  seen = []
  for part, own in zip(jnp.split(x, passes), jax.random.split(key, passes), strict=True):
    out = forward(params, stats, part, own, True)
    seen.append(out._replace(norm_inputs={}, stats={}))  # moments of parts are not those of the whole
    stats = out.stats
  whole = jax.tree.map(lambda *parts: jnp.concatenate(parts), *seen)
  return whole._replace(stats=stats)


def _if_any(some: jax.Array, new: StudentState, old: StudentState) -> StudentState:
  """The old state after a step without examples, but for how far schedules are: rates are those of the epoch."""
  is_count = lambda node: isinstance(node, optax.ScaleByScheduleState)  # noqa: E731
  return jax.tree.map(lambda a, b: a if is_count(a) else jnp.where(some, a, b), new, old, is_leaf=is_count)


def _rows(data: Batch, indices: jax.Array) -> Batch:
  return jax.tree.map(lambda leaf: leaf[indices], data)


def _cast(tree: PyTree, dtype) -> PyTree:
  return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)
