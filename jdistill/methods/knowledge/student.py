"""The one builder of students: recipe, network, targets and optimiser become a `Method` whose step is one update."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jdistill.augment import identity
from jdistill.base import (
  Augmentation,
  Batch,
  Key,
  LanguageModel,
  Method,
  Metrics,
  Network,
  Outputs,
  PyTree,
  UserError,
  Variables,
  writers,
)
from jdistill.methods.knowledge.forward import STUDENT, Forward, deployed, make_forward
from jdistill.methods.knowledge.objective import (
  Seen,
  check_chunks,
  chunked_gradient,
  whole_gradient,
  whole_loss,
)
from jdistill.methods.knowledge.outer import outer_gradient
from jdistill.methods.knowledge.own import begin, check_own, pairs, present, role_metrics
from jdistill.methods.knowledge.recipe import OwnInputs, Recipe, Sampling
from jdistill.methods.roles import Role, init_roles, only_where, side_by_side, update_roles
from jdistill.ops.checks import keep
from jdistill.ops.gsam import gsam_gradient

Targets = Callable[[PyTree, Key, Batch, PyTree, jax.Array], tuple[Outputs, ...]]  # `TargetSource.targets`


class StudentInput(NamedTuple):
  """What one update is made from. All leaves are arrays, so that none is a constant of the compiled program.

  Attributes:
    batch: the examples; `weight` is `[B]` float32, zero for padding, or `None` for the same weight for all.
    step: scalar int32, the number of the update, from 0.
    epoch: scalar float32, epochs done, with the fraction of the running one.
    rows: `[B]` int32, positions in the whole data, for a memory with a row per example.
    targets: `TargetSource.arrays`.
    constants: what `Recipe.prepare` made.
    held_out: examples for an outer update or a recipe that needs `"held_out"`, or `None`.
    start: `Variables` that this student starts from, which `init` reads; `None` draws new ones.
    options: numbers of the method that are arguments of the program, for `student_method`'s `rebuild`.
    lr_scale: scalar float32, a factor of all learning rates that is an argument of the program; `None` for 1.
  """

  batch: Batch
  step: jax.Array
  epoch: jax.Array
  rows: jax.Array | None = None
  targets: PyTree = ()
  constants: PyTree = ()
  held_out: Batch | None = None
  start: Variables | None = None
  options: Mapping[str, jax.Array] = {}
  lr_scale: jax.Array | None = None


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


class Sharpness(NamedTuple):
  """Sharpness-aware gradients; see `jdistill.ops.gsam`.

  Attributes:
    rho: radius of the perturbation.
    alpha: weight of the part of the gradient orthogonal to the perturbed one; 0 is SAM.
    adaptive: scale the perturbation by the parameters' magnitude (ASAM).
  """

  rho: float
  alpha: float = 0.0
  adaptive: bool = True


class _Parts(NamedTuple):
  """The collaborators of `student_method`, as its pieces need them."""

  network: Network
  forward: Forward
  optimizer: optax.GradientTransformation
  optimizers: Mapping[str, optax.GradientTransformation]
  targets: Targets
  replay: Callable[[PyTree, jax.Array], PyTree] | None
  augment: Augmentation
  ema_decay: float | None
  constrain: Callable[[PyTree], PyTree]
  num_examples: int
  chunk_size: int | None
  sharpness: Sharpness | None
  same_pixels: bool
  epochs: float | None
  teachers: tuple[Network | LanguageModel, ...]

  def by_role(self, recipe: Recipe, names: Iterable[str]) -> dict[str, optax.GradientTransformation]:
    outer = recipe.outer
    special = {outer.role: outer.optimizer} if outer is not None and outer.optimizer is not None else {}
    found = {name: self.optimizers.get(name, special.get(name, self.optimizer)) for name in names}
    masks, stacked = (recipe.own.masks, recipe.own.stacked) if recipe.own is not None else ({}, {})
    found = {name: only_where(one, masks[name]) if name in masks else one for name, one in found.items()}
    return {name: side_by_side(one) if name in stacked else one for name, one in found.items()}


def student_method(
  network: Network,
  recipe: Recipe,
  *,
  optimizer: optax.GradientTransformation,
  targets: Targets | None = None,
  replay: Callable[[PyTree, jax.Array], PyTree] | None = None,
  optimizers: Mapping[str, optax.GradientTransformation] | None = None,
  augment: Augmentation = identity(),  # noqa: B008  (immutable)
  ema_decay: float | None = None,
  precision: str = "float32",
  constrain: Callable[[PyTree], PyTree] = lambda batch: batch,
  num_examples: int = 0,
  rebuild: Callable[[Mapping[str, jax.Array]], Recipe] | None = None,
  chunk_size: int | None = None,
  sharpness: Sharpness | None = None,
  same_pixels: bool = False,
  epochs: float | None = None,
  teachers: tuple[Network | LanguageModel, ...] = (),
) -> Method:
  """Builds the training of one student.

  An update augments a batch, shows it to student and teachers (`Recipe.augmented_inputs`), and descends
  `sum_k w_k(epoch) L_k` in the parameters of student and connectors, where `L_k` is a mean weighted by `batch.weight`.

  Args:
    network: the student.
    recipe: the method.
    optimizer: of the student and of every role without one of its own (here or in `Outer.optimizer`); it is told the
      epoch (`jdistill.methods.optimizers`), and plain optax optimisers work as they are.
    targets: `TargetSource.targets`; `None` for recipes without a teacher.
    replay: `TargetSource.replay`: the augmentation of an update comes from there instead of a new draw.
    optimizers: by role, where they differ.
    augment: drawn anew for every image of every update; student and teachers see the same draw.
    ema_decay: keeps the average `decay * average + (1 - decay) * student` and gives that as the result.
    precision: in which type networks compute, `"float32"` or `"bfloat16"`; parameters, statistics and losses stay in
      float32.
    constrain: put around every batch, such as a sharding constraint.
    num_examples: in the whole data, for a memory with a row per example.
    rebuild: `recipe` with `StudentInput.options` in place of some of its numbers, so that one compiled program serves
      all their values; of the same structure as `recipe`.
    chunk_size: the most rows of a batch that are looked at together, for terms that look at each example by itself and
      networks without running statistics; the gradient is the same up to rounding. `None` for all rows at once.
    sharpness: GSAM, whose gradient takes the place of the plain one in all roles that learn; two passes instead of one.
    same_pixels: `TargetSource.same_pixels`.
    epochs: how many there will be, for terms that depend on the share that is done.
    teachers: `TargetSource.networks`, for recipes that sample from teachers, or ask them in their own way.

  Returns:
    A `Method`: `init(key, StudentInput)`, `step(key, state, StudentInput)` is one update, `result(state) -> Trained`.

  Raises:
    ValueError: an unknown precision, a recipe that needs whole batches with `chunk_size`, or an update of its own
      with `sharpness` or another precision than float32; at trace time, whatever the losses refuse.
    UserError: at trace time, a recipe that shows its teachers other pixels than the student with `same_pixels`.
  """
  if chunk_size is not None:
    check_chunks(recipe, chunk_size)
  check_own(recipe.own, precision, sharp=sharpness is not None)
  parts = _Parts(
    network, make_forward(network, precision), optimizer, dict(optimizers or {}), targets or (lambda *_: ()), replay,
    augment, ema_decay, constrain, num_examples, chunk_size, sharpness, same_pixels, epochs, teachers,
  )  # fmt: skip

  def step(key: Key, state: StudentState, inputs: StudentInput) -> tuple[StudentState, Metrics]:
    return _update(parts, recipe if rebuild is None else rebuild(inputs.options), key, state, inputs)

  def result(state: StudentState) -> Trained:
    variables = {name: Variables(state.roles[name].params, state.stats[name]) for name in (STUDENT, *recipe.keeps)}
    return Trained(variables | ({STUDENT: state.ema} if ema_decay is not None else {}))

  return Method(lambda key, inputs: _init(parts, recipe, key, inputs), step, result)


def _init(parts: _Parts, recipe: Recipe, key: Key, inputs: StudentInput) -> StudentState:
  # the student's own key does not depend on what else there is: methods are compared from the same start
  keys = {name: jax.random.fold_in(key, n) for n, name in enumerate([STUDENT, "outer", "memory", *recipe.connectors])}
  own = parts.network.init(keys[STUDENT]) if inputs.start is None else Variables(*inputs.start)
  if recipe.own is not None:
    return _own_init(parts, recipe, keys["memory"], own, inputs)
  x, x_teacher = recipe.augmented_inputs(key, inputs.batch)
  variables = {STUDENT: own}
  student = parts.network.apply(own.params, x, stats=own.stats)
  teachers = parts.targets(inputs.targets, key, inputs.batch._replace(x=x_teacher), None, inputs.step)
  for name, part in recipe.connectors.items():
    variables[name] = part.init(keys[name], student, teachers)
  params = {name: value.params for name, value in variables.items()}
  if recipe.outer is not None:
    params[recipe.outer.role] = recipe.outer.init(keys["outer"], student, teachers)
  memory = recipe.memory.init(keys["memory"], parts.num_examples, inputs.batch) if recipe.memory else ()
  stats = {name: value.stats for name, value in variables.items()}
  roles = init_roles(parts.by_role(recipe, params), params)
  return StudentState(roles, stats, own if parts.ema_decay is not None else (), memory)


def _see(parts: _Parts, recipe: Recipe, key: Key, state: StudentState, inputs: StudentInput) -> Seen:
  """Draws the augmentation and asks the teachers."""
  key_augment, key_inputs, key_targets, key_net, key_term = jax.random.split(key, 5)
  batch, memory = parts.constrain(inputs.batch), state.memory
  if recipe.sampled_batch is not None:
    own = lax.stop_gradient(state.roles[STUDENT].params)
    pairs = zip(writers(parts.teachers), inputs.targets, strict=False)
    teachers = tuple((model, v.params) for model, v in pairs)
    sampling = Sampling(
      batch, _language(parts.network), own, teachers, memory, inputs.held_out, inputs.epoch, parts.epochs
    )
    batch, memory = lax.stop_gradient(recipe.sampled_batch(jax.random.fold_in(key, 5), sampling))
  if parts.replay is not None:
    record = parts.replay(inputs.targets, inputs.step)
  else:
    record = parts.augment.sample(key_augment, jnp.shape(batch.x)) if hasattr(batch.x, "shape") else None
  x = batch.x if record is None else parts.augment.apply(record, batch.x)
  x, x_teacher = recipe.augmented_inputs(key_inputs, batch._replace(x=x))
  if parts.same_pixels and x_teacher is not x:
    raise UserError(
      "augmented_inputs: the student sees other pixels than those that its targets are of; give both the same array"
    )
  asked = batch._replace(x=x_teacher)
  teachers = lax.stop_gradient(parts.targets(inputs.targets, key_targets, asked, record, inputs.step))
  weight = jnp.ones(batch.ids.shape, jnp.float32) if batch.weight is None else batch.weight
  return Seen(
    batch._replace(weight=weight), x, teachers, inputs.rows, state.stats, memory, inputs.constants, inputs.epoch,
    key_net, key_term, parts.epochs,
  )  # fmt: skip


def _language(network: Network | LanguageModel) -> LanguageModel:
  if isinstance(network, LanguageModel):
    return network
  if network.language is None:
    raise ValueError("student: this method trains on text of the student's own, and it cannot write; use a decoder")
  return network.language


def _update(
  parts: _Parts, recipe: Recipe, key: Key, state: StudentState, inputs: StudentInput
) -> tuple[StudentState, Metrics]:
  if recipe.own is not None:
    return _own_update(parts, recipe, key, state, inputs)
  key, key_outer = jax.random.split(key)
  seen, outer = _see(parts, recipe, key, state, inputs), recipe.outer
  logs, roles, clock = {}, dict(state.roles), {"epoch": inputs.epoch, "scale": inputs.lr_scale}
  if outer is not None and outer.through:
    logs, grads = outer_gradient(
      outer, inputs.held_out, lambda params: whole_loss(recipe, parts.forward, seen, params),
      {name: role.params for name, role in roles.items()}, state.stats[STUDENT], parts.forward, key_outer, inputs.epoch,
    )  # fmt: skip
    roles |= update_roles(parts.by_role(recipe, [outer.role]), roles, {outer.role: grads}, **clock)
  params = {name: role.params for name, role in roles.items()}
  fixed = {outer.role: params.pop(outer.role)} if outer is not None else {}
  (_, (terms, stats, memory)), grads = _gradient(parts, recipe, seen, params, fixed)
  moves = {name: recipe.trainable[name](inputs.epoch) if name in recipe.trainable else True for name in params}
  roles = update_roles(parts.by_role(recipe, roles), roles, grads, moves, **clock)
  new = Variables(roles[STUDENT].params, stats[STUDENT])
  return StudentState(roles, stats, _averaged(parts.ema_decay, state.ema, new), memory), logs | terms


def _gradient(parts: _Parts, recipe: Recipe, seen: Seen, params: PyTree, fixed: PyTree) -> tuple[PyTree, PyTree]:
  if parts.chunk_size is not None:
    both = chunked_gradient(recipe, parts.forward, seen, parts.chunk_size)
  else:
    both = whole_gradient(recipe, parts.forward, seen)
  if parts.sharpness is None:
    return both(params, fixed)
  return gsam_gradient(lambda params: both(params, fixed), params, **parts.sharpness._asdict())


def _own_init(parts: _Parts, recipe: Recipe, key: Key, own: Variables, inputs: StudentInput) -> StudentState:
  """The first state of a recipe with an update of its own."""
  teachers = pairs(parts.teachers, inputs.targets)
  own, params, memory = begin(recipe.own, key, parts.network, own, teachers, begun=inputs.start is not None)
  stats = {name: own.stats if name == STUDENT else {} for name in params}
  roles = init_roles(parts.by_role(recipe, params), params)
  return StudentState(roles, stats, own if parts.ema_decay is not None else (), memory)


def _own_update(
  parts: _Parts, recipe: Recipe, key: Key, state: StudentState, inputs: StudentInput
) -> tuple[StudentState, Metrics]:
  key_augment, key = jax.random.split(key)
  batch = parts.constrain(inputs.batch)
  record = parts.augment.sample(key_augment, jnp.shape(batch.x)) if hasattr(batch.x, "shape") else None
  batch = batch if record is None else batch._replace(x=parts.augment.apply(record, batch.x))
  batch = batch._replace(x=jax.tree.map(lambda leaf: keep(leaf, present(batch)), batch.x))
  made = recipe.own.update(
    OwnInputs(
      key, parts.network, {name: role.params for name, role in state.roles.items()}, batch, present(batch),
      pairs(parts.teachers, inputs.targets), state.memory, inputs.step, inputs.epoch, parts.epochs, parts.chunk_size,
      parts.constrain,
    )
  )  # fmt: skip
  moves = {name: made.moves.get(name, True) for name in made.grads}
  optimizers, clock = parts.by_role(recipe, made.grads), {"epoch": inputs.epoch, "scale": inputs.lr_scale}
  roles = update_roles(optimizers, state.roles, made.grads, moves, **clock)
  new = Variables(roles[STUDENT].params, state.stats[STUDENT])
  metrics = dict(made.metrics) | role_metrics(made.grads, made.moves)
  return StudentState(roles, state.stats, _averaged(parts.ema_decay, state.ema, new), made.memory), metrics


def _averaged(decay: float | None, ema: PyTree, new: Variables) -> PyTree:
  if decay is None:
    return ema
  return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, ema, new)


def predictor(network: Network, recipe: Recipe) -> Callable[[Trained, PyTree, PyTree], jax.Array]:
  """The finished student as a function `(trained, constants, x) -> logits`, in evaluation mode."""
  if recipe.sampler is not None:
    return lambda trained, constants, x: recipe.sampler(network, trained.variables, x)
  forward = make_forward(network, "float32")
  return lambda trained, constants, x: deployed(forward, recipe, trained.variables, constants)(x)
