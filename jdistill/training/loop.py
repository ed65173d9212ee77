"""The one training loop: any `Method`, any stream, resumable at every step.

Resume order: the newest finished checkpoint of this directory and configuration, else `method.init`. Step `n` always
sees the same key and the stream's batch `n`, so an interrupted run and an uninterrupted one compute the
same numbers.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jdistill.base import Key, Method, PyTree, UserError
from jdistill.training import distributed, parallel
from jdistill.training.checkpoints import Checkpoints


class Hooks(NamedTuple):
  """What the loop tells the outside; all optional.

  Attributes:
    on_resume: `(step)` once, with the number of steps already done (0 for a new run), before the first one.
    on_metrics: `(steps done, metrics as floats)` after every `log_every` steps and the last.
    on_snapshot: `(steps done, result of the method)` every `snapshot_every` steps, at step 0 of a new run and the last.
    stop: asked after every step; true on any process saves and ends the loop.
  """

  on_resume: Callable[[int], None] = lambda step: None
  on_metrics: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None
  on_snapshot: Callable[[int, PyTree], None] = lambda step, result: None
  stop: Callable[[], bool] = lambda: False


class Outcome(NamedTuple):
  """How a loop ended.

  Attributes:
    state: the last state.
    steps: how many steps are done.
    stopped: whether it was stopped before the last one.
    first_step_seconds: from the call to the end of the first step, compilation included; `None` if there was none.
    step_seconds: mean of the other steps of this call, with everything that happened between them; `None` if none.
    step_bytes: what the compiled step holds on a device: its arguments and the program's scratch memory; `None` where
      no step was run or the compiler does not say.
  """

  state: PyTree
  steps: int
  stopped: bool
  first_step_seconds: float | None
  step_seconds: float | None
  step_bytes: int | None = None


def guarded(method: Method) -> Callable:
  """A step that keeps the old state from the first step on whose metrics or new state are not all finite.

  Returns:
    `(key, state, batch, alive) -> (state, metrics, alive)`; once `alive` is false the state does not change any more,
    so it is the last good one even when metrics are looked at only later.
  """

  def step(key: Key, state: PyTree, batch: PyTree, alive: jax.Array):
    new, metrics = method.step(key, state, batch)
    # the state too: an overflowing update of finite gradients shows in the metrics one step too late
    leaves = [*metrics.values(), *(leaf for leaf in jax.tree.leaves(new) if jnp.issubdtype(leaf.dtype, jnp.inexact))]
    alive = jnp.logical_and(alive, jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])))
    return jax.tree.map(lambda a, b: jnp.where(alive, a, b), new, state), metrics, alive

  return step


def run_loop(
  method: Method,
  stream: Callable[[int], PyTree],
  *,
  key: Key,
  steps: int,
  checkpoints: Checkpoints | None = None,
  checkpoint_seconds: float = 60.0,
  log_every: int = 10,
  snapshot_every: int | None = None,
  hooks: Hooks = Hooks(),  # noqa: B008  (immutable)
  clock: Callable[[], float] = time.monotonic,
  mesh: Mesh | None = None,
  route: str = "shard_map",
) -> Outcome:
  """Runs a method for `steps` steps, or what is left of them.

  Args:
    method: what to run; its step is compiled once.
    stream: `(step) -> batch`, host arrays of one shape; a function of the step alone.
    key: the root key; every step folds its number into a part of it.
    steps: how many steps the whole run has.
    checkpoints: where states go; `None` keeps none.
    checkpoint_seconds: least time between two saves; the last state is always saved.
    log_every: metrics are fetched (and checked) this often.
    snapshot_every: how often `on_snapshot` is called; `None` only at the ends.
    hooks: what to tell the outside.
    clock: monotonic seconds.
    mesh: devices that the step runs on together, of this process or of many; its state is the same on all. `None` for
      one. Process 0 alone writes checkpoints, and the others read them.
    route: how the step is compiled for a mesh; see `jdistill.training.parallel.spread_step`.

  Returns:
    `Outcome`; its state is that of one device.

  Raises:
    UserError: a metric became NaN or infinite. The last good state has been saved.
  """
  begin = clock()
  key_init, key = jax.random.split(key)
  # `alive` from the same program, so that it lies where the state does and the step is compiled once
  state, alive = jax.jit(lambda key, batch: (method.init(key, batch), jnp.ones((), bool)))(key_init, stream(0))
  done = 0
  newest = None if checkpoints is None else distributed.lead(lambda: max(checkpoints.steps(), default=None))
  if newest is not None:
    done, restored = checkpoints.restore(state, newest)
    state = jax.tree.map(lambda new, old: _like(jnp.asarray(new), old), restored, state)
  hooks.on_resume(done)
  if done == 0:
    hooks.on_snapshot(0, method.result(state))
  step_fn, place = _compile(guarded(method), mesh, route)
  saved_at, saved_step, first, pending, stopped, held = clock(), done, None, [], False, None
  first_done = done + 1

  def save():
    nonlocal saved_at, saved_step
    if checkpoints is not None and saved_step != done:
      distributed.lead(lambda: checkpoints.save(done, parallel.local(state)))
      saved_at, saved_step = clock(), done

  def due() -> bool:
    return checkpoints is not None and distributed.lead(lambda: clock() - saved_at >= checkpoint_seconds)

  while done < steps and not stopped:
    arguments = place((jax.random.fold_in(key, done), state, stream(done), alive))
    state, metrics, alive = step_fn(*arguments)
    pending.append((metrics, alive))
    done += 1
    if first is None:
      jax.block_until_ready(state)
      first = clock() - begin
      held = _held(step_fn, arguments)
    del arguments
    stopped = distributed.stop_requested(hooks.stop())
    if done % log_every == 0 or done == steps or stopped:
      bad = _report(pending, done, hooks)
      if bad is not None:
        done = bad[0]
        save()
        where = "; the last good state is saved" if checkpoints is not None and done else ""
        raise UserError(
          f"step {bad[0]}: {bad[1]} is not finite{where}; lower the learning rates of config.method or change the seed"
        )
    # before the save: a run killed between the two draws the snapshot again, where the other order would lose it
    if done == steps or (snapshot_every and done % snapshot_every == 0):
      hooks.on_snapshot(done, method.result(parallel.local(state)))
    if stopped or (done % log_every == 0 and due()):
      save()
  save()
  others = done - first_done
  mean = (clock() - begin - first) / others if first is not None and others > 0 else None
  return Outcome(parallel.local(state), done, stopped and done < steps, first, mean, held)


def _held(step: Callable, arguments: tuple) -> int | None:
  """Bytes of a program that has just run with these arguments; asking for it again does not compile it again."""
  if not hasattr(step, "lower"):
    return None
  found = step.lower(*arguments).compile().memory_analysis()
  return None if found is None else int(found.argument_size_in_bytes + found.temp_size_in_bytes)


def _like(new: jax.Array, old: jax.Array) -> jax.Array:
  """`new` on the devices of `old`, where these are several of this process."""
  spread = old.is_fully_addressable and len(old.sharding.device_set) > 1
  return jax.device_put(new, old.sharding) if spread else new


def _compile(step: Callable, mesh: Mesh | None, route: str) -> tuple[Callable, Callable]:
  """The compiled step, and what puts its arguments where it wants them."""
  if mesh is None:
    return jax.jit(step, donate_argnums=(1,)), lambda arguments: arguments
  spread = parallel.spread_step(step, mesh, route, donate_argnums=(1,))
  return spread, lambda arguments: parallel.replicate(arguments, mesh)


def _report(pending: list[tuple[Any, Any]], done: int, hooks: Hooks) -> tuple[int, str] | None:
  """Fetches the metrics since the last report; the first step that was not finite and its metric, if any."""
  rows = jax.device_get(pending)
  pending.clear()
  for offset, (metrics, alive) in enumerate(rows):
    if not alive:
      name = next((name for name, value in metrics.items() if not jnp.isfinite(value)), "the updated state")
      return done - len(rows) + offset, name
  means = {name: sum(float(metrics[name]) for metrics, _ in rows) / len(rows) for name in rows[0][0]}
  hooks.on_metrics(done, means)
  return None
